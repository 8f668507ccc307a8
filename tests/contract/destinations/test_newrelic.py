"""New Relic: bodies byte for byte, addresses, limits, probes."""

from __future__ import annotations

import json

import pytest

from relay.destinations.base import Partial
from relay.destinations.newrelic import NewRelicConfig
from relay.model import Reason
from tests.contract.destinations.golden import MIXED, golden, row, sent_mixed
from tests.contract.destinations.kit import opened
from tests.fakes.chunks import chunk_of
from tests.fakes.siem import Siem

KIND = row("newrelic")


async def test_body() -> None:
    """Every sort of line becomes a log, exactly as agreed."""
    request = await sent_mixed("newrelic")

    assert request.body == golden("newrelic.json")
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Api-Key"] == "license-key-0123"


async def test_nothing_collides() -> None:
    """Everything of Konnect's stands below `kong.`, as a plain value, and its trace id is text."""
    request = await sent_mixed("newrelic")

    (group,) = json.loads(request.body)
    assert group["common"]["attributes"] == {
        "logtype": "konnect-audit",
        "service": "kong-konnect",
        "hostname": "konghq.com",
        "env": "prod",
    }
    attributes = [log["attributes"] for log in group["logs"]]
    assert [found["kong.event_id"] for found in attributes] == [event.id for event in MIXED.events()]
    assert (
        attributes[1]["kong.audit.trace_id"] == attributes[2]["kong.audit.trace_id"] == "3895213347334635099"
    )
    assert all(key.startswith("kong.") for found in attributes for key in found)


@pytest.mark.parametrize(("path", "expected"), [("", "/log/v1"), ("/", "/log/v1"), ("/in?a=b", "/in?a=b")])
async def test_address(path: str, expected: str) -> None:
    """A base address gets the API's path, a whole one stays."""
    async with Siem() as siem, opened(KIND.config(siem, url=siem.base + path)) as destination:
        siem.then(KIND.take)
        await destination.send(MIXED)

    assert siem.requests[0].path == expected


@pytest.mark.parametrize(
    ("region", "host"),
    [
        (None, "log-api.newrelic.com"),
        ("us", "log-api.newrelic.com"),
        ("eu", "log-api.eu.newrelic.com"),
        ("jp", "log-api.jp.nr-data.net"),
        ("gov", "gov-log-api.newrelic.com"),
    ],
)
def test_address_of_a_region(region: str | None, host: str) -> None:
    """Without an address of one's own logs go to the region's."""
    settings = {"name": "n", "type": "newrelic", "license_key": "k", **({"region": region} if region else {})}

    assert NewRelicConfig.model_validate(settings).url.reveal() == f"https://{host}/log/v1"


async def test_a_body_keeps_to_the_limit() -> None:
    """Escapes make bodies grow: what does not fit into 1,000,000 bytes goes in another request."""
    lines = [b"%d" % n + b"\x00" * 16_700 for n in range(20)]  # six bytes for each in JSON
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(KIND.take)
        outcome = await destination.send(chunk_of(lines))

    assert isinstance(outcome, Partial)
    assert len(outcome.delivered) == 9
    assert 890_000 < len(siem.requests[0].body) <= 1_000_000


async def test_a_log_that_fits_into_no_request() -> None:
    """It is refused without being sent, and the next one goes out."""
    whole = chunk_of([b"x" * 1_000_000, b"behind"])
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(KIND.take)
        outcome = await destination.send(whole)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (1,)
    assert [(r.index, r.reason) for r in outcome.rejected] == [(0, Reason.TOO_LARGE)]
    assert len(siem.requests) == 1
