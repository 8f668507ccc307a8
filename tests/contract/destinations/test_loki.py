"""Loki: bodies byte for byte, addresses, headers, resends, probes."""

from __future__ import annotations

import json

import pytest

from relay.destinations.base import Misconfigured, Partial, Rejected, TooLarge
from tests.contract.destinations.golden import MIXED, golden, row, sent_mixed
from tests.contract.destinations.kit import Kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Answer, Siem

KIND = row("loki")


def kind(path: str = "", **settings: object) -> Kind:
    return Kind("loki", "loki", settings, path=path)


async def test_body() -> None:
    """Every sort of line becomes an entry of the one stream, exactly as agreed."""
    request = await sent_mixed("loki")

    assert request.body == golden("loki.json")
    assert request.path == "/collector-0123456789abcdef/loki/api/v1/push"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-Scope-OrgID"] == "security"
    assert request.headers["Authorization"] == "Basic MTIzNDU2OnBhNTV3b3Jk"


async def test_entries_are_whole_and_in_order() -> None:
    """Read back, the stream holds each line with its id, by time, and everything but labels is text."""
    request = await sent_mixed("loki", labels={"job": 'a"b', "env": "prod"})

    (stream,) = json.loads(request.body)["streams"]
    stamps = [entry[0] for entry in stream["values"]]
    assert stream["stream"] == {"job": 'a"b', "env": "prod"}
    assert stamps == sorted(stamps, key=int)
    assert {entry[2]["event_id"]: entry[1] for entry in stream["values"]} == {
        event.id: event.line.decode(errors="replace") for event in MIXED.events()
    }
    assert {entry[2]["source"] for entry in stream["values"]} == {"konnect-us"}


async def test_without_structured_metadata() -> None:
    """An older Loki gets stamps and lines only."""
    request = await sent_mixed("loki", structured_metadata=False)

    (stream,) = json.loads(request.body)["streams"]
    assert {len(entry) for entry in stream["values"]} == {2}


async def test_a_resend_is_the_same_entry() -> None:
    """Alone or in another chunk, sent now or later: an event always makes the same bytes."""
    lines = [*sample("cef"), *sample("cef")[:1]]  # with a twin
    whole = chunk_of(lines)
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(KIND.take)
        for chunk in (whole, *whole.cut(7), whole.pick([len(lines) - 1])):
            await destination.send(chunk)

    first, *others = [json.loads(request.body)["streams"][0]["values"] for request in siem.requests]
    assert sorted(map(json.dumps, others[0] + others[1])) == sorted(map(json.dumps, first))
    assert others[2][0] in first
    assert len({(entry[0], entry[1]) for entry in first}) == len(lines)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/loki/api/v1/push"),
        ("/", "/loki/api/v1/push"),
        ("/gateway/", "/gateway/loki/api/v1/push"),
        ("/loki/api/v1/push", "/loki/api/v1/push"),
        ("/api/prom/push?a=b", "/api/prom/push?a=b"),
    ],
)
async def test_address(path: str, expected: str) -> None:
    """A base address gets the push path, a push address stays."""
    async with Siem() as siem, opened(kind(path).config(siem)) as destination:
        siem.then(KIND.take)
        await destination.send(MIXED)

    assert siem.requests[0].path == expected
    assert "X-Scope-OrgID" not in siem.requests[0].headers
    assert "Authorization" not in siem.requests[0].headers


async def test_blocked() -> None:
    """260 means that nothing is stored, and so does 200, to which an operator may have set it."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.answer(260).answer(200, body="ingestion blocked for user security until '2026-01-01'")
        outcomes = [await destination.send(MIXED) for _ in range(2)]

    assert [type(outcome) for outcome in outcomes] == [Misconfigured, Misconfigured]


async def test_one_culprit() -> None:
    """A refusal of some entries has the chunk bisected; a long line is told from a wrong one."""
    old = "entry for stream '{job=\"konnect-audit\"}' has timestamp too old: 2025-06-18T21:01:06Z, oldest"
    long = "Max entry size '262144' bytes exceeded for stream '{}' while adding an entry with length '300000'"
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.answer(400, body=old).answer(400, body=long)
        outcomes = [await destination.send(MIXED) for _ in range(2)]

    assert [type(outcome) for outcome in outcomes] == [Rejected, TooLarge]


async def test_all_too_old() -> None:
    """A full chunk of which every entry is named as too old is refused at once, not bisected."""
    words = (
        "entry for stream '{job=\"konnect-audit\"}' has timestamp too old: 2025-06-18T21:%02d:%02dZ, oldest"
    )
    told = "; ".join(
        f"1 errors like: {words % divmod(n, 60)} acceptable timestamp is: x" for n in range(1000)
    )
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.answer(400, body=told)
        outcome = await destination.send(chunk_of([b"%d" % n for n in range(1000)]))

    assert isinstance(outcome, Partial)
    assert len(outcome.rejected) == 1000
    assert outcome.rejected[0].detail.startswith("1 errors like: entry for stream")


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        (Answer(204), True),
        (Answer(422, b"error at least one valid stream is required for ingestion"), True),
        (Answer(422, b"some words"), False),
        (Answer(400, b"some words"), False),
        (Answer(200, b"<html>"), False),
        (Answer(260), False),
        (Answer(401, b"no org id"), False),
    ],
)
async def test_probe(answer: Answer, ok: bool) -> None:
    """Loki alone answers like this to a push without streams."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(answer)
        report = await destination.probe()

    assert report.ok == ok
    assert [request.body for request in siem.requests] == [b'{"streams":[]}']
