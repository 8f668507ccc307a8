"""Datadog: bodies byte for byte, addresses, the limit of one log, probes."""

from __future__ import annotations

import json

import pytest
from yarl import URL

from relay.destinations.base import Partial
from relay.destinations.classify import Reply
from relay.destinations.datadog import DatadogConfig, probe
from relay.destinations.posting import NoReply
from relay.model import Reason
from tests.contract.destinations.golden import MIXED, golden, row, sent_mixed
from tests.contract.destinations.kit import opened
from tests.fakes.chunks import chunk_of
from tests.fakes.siem import Siem

KIND = row("datadog")
HUGE = b"x" * 1_000_000


async def test_body() -> None:
    """Every sort of line becomes a log, exactly as agreed."""
    request = await sent_mixed("datadog")

    assert request.body == golden("datadog.json")
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["DD-API-KEY"] == "api-key-0123"


async def test_nothing_collides() -> None:
    """At the top of a log stand Datadog's own attributes, and Konnect's trace id is text below `kong`."""
    request = await sent_mixed("datadog")

    logs = json.loads(request.body)
    assert [log["kong"]["event_id"] for log in logs] == [event.id for event in MIXED.events()]
    assert {frozenset(log) for log in logs} == {
        frozenset({"ddsource", "ddtags", "hostname", "service", "timestamp", "message", "kong"})
    }
    assert logs[1]["kong"]["audit"]["trace_id"] == "3895213347334635099"


async def test_attributes() -> None:
    """What is set to nothing is left out, so that Datadog's own defaults apply."""
    request = await sent_mixed("datadog", tags=[], source="", service="", hostname="")

    assert json.loads(request.body)[0].keys() == {"timestamp", "message", "kong"}


@pytest.mark.parametrize(
    ("path", "expected"), [("", "/api/v2/logs"), ("/", "/api/v2/logs"), ("/in?a=b", "/in?a=b")]
)
async def test_address(path: str, expected: str) -> None:
    """A base address gets the intake's path, a whole one stays."""
    async with Siem() as siem, opened(KIND.config(siem, url=siem.base + path)) as destination:
        siem.then(KIND.take)
        await destination.send(MIXED)

    assert siem.requests[0].path == expected


async def test_a_log_that_would_be_cut_short() -> None:
    """An event above 1 MB is refused without being sent; those around it are delivered."""
    whole = chunk_of([b"before", HUGE, HUGE, b"behind"])
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(KIND.take)
        outcome = await destination.send(whole)

    assert isinstance(outcome, Partial)
    assert (outcome.delivered, outcome.rest) == ((0, 3), None)
    assert [(r.index, r.reason) for r in outcome.rejected] == [(1, Reason.TOO_LARGE), (2, Reason.TOO_LARGE)]
    assert outcome.rejected[0].detail == "1000221 bytes, of which the destination keeps 1000000"
    (request,) = siem.requests
    assert [log["message"] for log in json.loads(request.body)] == ["before", "behind"]


async def test_escapes_do_not_exceed_the_limit() -> None:
    """A chunk whose lines grow beyond 5 MB when written goes in several requests."""
    lines = [b"%d" % n + b"\x00" * 100_000 for n in range(20)]  # six bytes for each in JSON
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(KIND.take)
        outcome = await destination.send(chunk_of(lines))

    assert isinstance(outcome, Partial)
    assert len(outcome.delivered) == 8
    assert len(siem.requests[0].body) <= 5_000_000


class Desk:
    """Datadog's API with one answer, and what it was asked."""

    def __init__(self, answer: Reply | NoReply) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, bytes]] = []

    async def __call__(
        self, method: str, url: URL, body: bytes = b"", headers: object = None
    ) -> Reply | NoReply:
        del headers
        self.asked.append((method, str(url), body))
        return self.answer


@pytest.mark.parametrize(
    ("answer", "ok", "detail"),
    [
        (Reply(200, body=b'{"valid":true}'), True, "the site accepts the API key"),
        (Reply(200, body=b"<html>"), False, "answered 200, but not that the key is valid"),
        (
            Reply(403, body=b'{"errors":["Forbidden"]}'),
            False,
            "answered 403 Forbidden: it refuses our credentials",
        ),
    ],
)
async def test_probe_of_a_site(answer: Reply, ok: bool, detail: str) -> None:
    """The site itself says whether the key is good; no log is sent."""
    config = DatadogConfig.model_validate(
        {"name": "d", "type": "datadog", "site": "us5.datadoghq.com", "api_key": "k"}
    )
    desk = Desk(answer)

    report = await probe(config, config.address(), desk, 0.0)

    assert (report.ok, report.detail) == (ok, detail)
    assert desk.asked == [("GET", "https://api.us5.datadoghq.com/api/v1/validate", b"")]


@pytest.mark.parametrize(("site", "host"), [(None, "datadoghq.com"), ("ddog-gov.com", "ddog-gov.com")])
def test_intake_of_a_site(site: str | None, host: str) -> None:
    """Without an address of one's own logs go to the site's intake."""
    settings = {"name": "d", "type": "datadog", "api_key": "k", "url": "", **({"site": site} if site else {})}

    config = DatadogConfig.model_validate(settings)

    assert config.url.reveal() == f"https://http-intake.logs.{host}/api/v2/logs"
