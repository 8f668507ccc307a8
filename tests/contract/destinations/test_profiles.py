"""`http` as the vendors of its profiles know it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from relay.destinations import http
from relay.destinations.base import Delivered, Misconfigured, Outcome, Partial, Rejected, Throttled, Transient
from relay.destinations.profiles import PROFILES
from relay.konnect.times import happened_at
from tests.contract.destinations.kit import Kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Siem

CHUNK = chunk_of(sample("cef")[:2], sample("json")[:2], sample("cps")[:1])
CORTEX = Kind("cortex", "http", {"profile": "cortex_xsiam", "authorization": "key"})
DYNATRACE = Kind("dynatrace", "http", {"profile": "dynatrace", "authorization": "Api-Token dt0c01.s3cret"})


async def outcome_of(kind: Kind, status: int, body: str, events: int = 5) -> Outcome:
    """What an answer to so many events means."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.answer(status, body=body)
        return await destination.send(CHUNK.cut(events)[0])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", Misconfigured),
        ("<html>Log in</html>", Misconfigured),
        ("[]", Misconfigured),
        ('{"ok":"false"}', Transient),
        ('{"error":"true"}', Transient),
        ('{"reply":{}}', Transient),
        ('{"ok":"true"}', Delivered),
        ('{"ok":true}', Delivered),
        ('{"error":"false"}', Delivered),
    ],
)
async def test_cortex_says_ok(body: str, expected: type[Outcome]) -> None:
    """A 200 counts only together with Cortex's own word that it is ok."""
    assert type(await outcome_of(CORTEX, 200, body)) is expected


async def test_cortex_success_is_200() -> None:
    """Another 2xx is not what Cortex answers."""
    assert isinstance(await outcome_of(CORTEX, 202, '{"ok":"true"}'), Misconfigured)


@pytest.mark.parametrize(
    ("status", "events", "expected"),
    [
        (200, 5, Rejected),  # bisected until the bad ones are alone
        (200, 1, Delivered),  # taken, if shortened
        (204, 5, Delivered),
        (202, 5, Misconfigured),
        (400, 1, Rejected),
        (402, 5, Misconfigured),
        (404, 5, Misconfigured),
    ],
)
async def test_dynatrace_takes_some(status: int, events: int, expected: type[Outcome]) -> None:
    """200 means that some records were refused, without saying which."""
    assert type(await outcome_of(DYNATRACE, status, "", events)) is expected


async def test_dynatrace_records() -> None:
    """Each record holds the line as text, whatever its format, with its own time and its id."""
    async with Siem() as siem, opened(DYNATRACE.config(siem)) as destination:
        siem.then(204)
        assert isinstance(await destination.send(CHUNK), Delivered)
        overhead = destination.event_overhead
    (request,) = siem.requests

    events = list(CHUNK.events())
    assert json.loads(request.body) == [
        {
            "content": event.line.decode(),
            "timestamp": happened_at(event),
            "log.source": "konnect",
            "event_id": event.id,
        }
        for event in events
    ]
    assert request.headers["Content-Type"] == "application/json; charset=utf-8"
    assert request.headers["Content-Encoding"] == "gzip"
    assert request.headers["Authorization"] == "Api-Token dt0c01.s3cret"
    escapes = sum(event.line.count(b'"') + event.line.count(b"\\") for event in events)
    assert len(request.body) - CHUNK.nbytes - escapes <= overhead * len(events)


async def test_another_framing_than_the_vendors() -> None:
    """Who sets the framing gets just that; the rest of the profile stays."""
    async with Siem() as siem, opened(DYNATRACE.config(siem, framing="one_per_request")) as destination:
        siem.then(204)
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Delivered)
    assert [request.body for request in siem.requests] == list(CHUNK.lines())
    assert siem.requests[0].headers["Content-Type"] == "text/plain"


async def test_qradar_gets_one_event_at_a_time() -> None:
    """Without a message pattern QRadar takes a body for one event."""
    kind = Kind("qradar", "http", {"profile": "qradar"})
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.answer(200, times=2).then(413)
        outcome = await destination.send(CHUNK)

    assert [request.body for request in siem.requests] == list(CHUNK.lines())[:3]
    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 1)


@pytest.mark.parametrize("profile", ["panther", "exabeam", "rapid7"])
async def test_line_vendors(profile: str) -> None:
    """Most vendors get the lines as received."""
    kind = Kind(profile, "http", {"profile": profile, "bearer": "token"})
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(204)
        assert isinstance(await destination.send(CHUNK), Delivered)

    (request,) = siem.requests
    assert request.body == CHUNK.body
    assert request.headers["Content-Type"] == "text/plain"


async def test_elastic_agent_gets_an_array() -> None:
    """The HTTP endpoint of Elastic Agent takes JSON and nothing else."""
    kind = Kind("elastic", "http", {"profile": "elastic_agent"})
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        assert isinstance(await destination.send(CHUNK), Delivered)

    (request,) = siem.requests
    assert len(json.loads(request.body)) == len(CHUNK)
    assert request.headers["Content-Type"] == "application/json"


async def test_a_writing_for_single_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile may write each event's body by itself, as messengers want it."""
    messenger = replace(PROFILES["qradar"], write=lambda events: events[0].id.encode(), overhead=7)
    monkeypatch.setattr(http, "PROFILES", {**PROFILES, "qradar": messenger})
    kind = Kind("messenger", "http", {"profile": "qradar"})
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        assert isinstance(await destination.send(CHUNK), Delivered)
        assert destination.event_overhead == 7

    assert [request.body for request in siem.requests] == [event.id.encode() for event in CHUNK.events()]


MESSAGES = {
    "slack": (Kind("slack", "http", {"profile": "slack"}), 200, b"ok"),
    "teams": (Kind("teams", "http", {"profile": "teams"}), 202, b""),
    "pagerduty": (
        Kind("pagerduty", "http", {"profile": "pagerduty", "routing_key": "r0uting-key"}),
        202,
        b'{"status":"success","message":"Event processed","dedup_key":"x"}',
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_messages(name: str) -> None:
    """However many events, people get one message, and its success is the vendor's own."""
    kind, status, body = MESSAGES[name]
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(status, body=body)
        outcome = await destination.send(chunk_of(sample("cef") * 10))

    assert isinstance(outcome, Delivered)
    (request,) = siem.requests
    assert request.headers["Content-Type"] == "application/json"
    assert "Authorization" not in request.headers
    said = json.dumps(json.loads(request.body))
    assert ('"more": 260' if name == "pagerduty" else " more") in said


async def test_pagerduty_key_is_in_the_body_and_nowhere_else() -> None:
    """Where the answer repeats it, it is blotted out."""
    kind, *_ = MESSAGES["pagerduty"]
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.answer(400, body='{"status":"invalid event","errors":["r0uting-key is no key"]}')
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Rejected)
    assert json.loads(siem.requests[0].body)["routing_key"] == "r0uting-key"
    assert b"<secret> is no key" in outcome.response.excerpt
    assert "r0uting-key" not in repr(outcome)


@pytest.mark.parametrize("name", [*MESSAGES, "dynatrace"])
async def test_a_part_is_the_body_for_this_event_alone(name: str) -> None:
    """What `check --explain` shows is what would arrive, only without the key."""
    kind, status, body = MESSAGES.get(name, (DYNATRACE, 204, b""))
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(status, body=body)
        alone = CHUNK.cut(1)[0]
        assert isinstance(await destination.send(alone), Delivered)
        part = destination.part(next(alone.events()))

    assert part == siem.requests[0].body.replace(b"r0uting-key", b"<secret>")


async def test_slack_asks_for_patience() -> None:
    """What is too much for a room waits as long as it asks for."""
    kind, *_ = MESSAGES["slack"]
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.answer(429, headers={"Retry-After": "30"})
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == 30
