"""What Loki's answers mean, stamps, and that no line gets out of its entry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.classify import Reply
from relay.destinations.loki import entry, judge, push, stamp
from relay.konnect.lines import event_ids, format_of
from relay.model import Event, Reason
from tests.fakes.chunks import RECEIVED_AT, sample

OLD = "entry for stream '{job=\"a\"}' has timestamp too old: 2025-06-18T21:01:06Z, oldest is: x"
NEW = "entry for stream '{job=\"a\"}' has timestamp too new: 2035-06-18T21:01:06Z"
LONG = "Max entry size '262144' bytes exceeded for stream '{job=\"a\"}' while adding an entry of '300000'"
BEHIND = "entry with timestamp 2025-06-18 21:01:06 +0000 UTC ignored, reason: 'entry too far behind',"


def verdict(status: int, body: str = "", count: int = 3) -> Outcome:
    return judge(Reply(status, body=body.encode()), count, 0.0)


def event(line: bytes, event_id: str = "0" * 32) -> Event:
    return Event(event_id, line, format_of(line), "konnect-us", RECEIVED_AT)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (204, Delivered),
        (200, Misconfigured),
        (202, Misconfigured),
        (260, Misconfigured),
        (400, Rejected),
        (401, Misconfigured),
        (403, Misconfigured),
        (404, Misconfigured),
        (413, TooLarge),
        (422, Rejected),
        (429, Throttled),
        (500, Transient),
        (502, Transient),
        (503, Transient),
    ],
)
def test_table(status: int, expected: type[Outcome]) -> None:
    """Only 204 is success."""
    assert type(verdict(status)) is expected


@pytest.mark.parametrize(
    "message",
    [
        "error at least one label pair is required per stream",
        "Error parsing labels '{a' with error: 1:2",
        'missing required labels env for user security for stream {job="a"}',
        "ingestion blocked for user security until '2026-01-01' with status code '400'",
        "entry for stream '{job=\"a\"}' has 16 label names; limit 15",
        "stream '{job=\"a\"}' has label name too long: 'job'",
        "stream '{job=\"a\"}' has label value too long: 'a'",
        "stream '{job=\"a\"}' has duplicate label name: 'job'",
        "stream '{job=\"a\"}' includes structured metadata, but this feature is disallowed. Please see",
        "stream '{job=\"a\"}' has structured metadata too large: '99999' bytes, limit: '65536' bytes.",
        "stream '{job=\"a\"}' has too many structured metadata labels: '129', limit: '128'.",
    ],
)
def test_setup(message: str) -> None:
    """Labels, metadata and blocks are the same for every event, so none is spent on them."""
    for told in (message, f"3 errors like: {message}", f"1 errors like: {OLD}; 2 errors like: {message}"):
        assert isinstance(verdict(400, told), Misconfigured)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (OLD, Rejected),
        (NEW, Rejected),
        (f"2 errors like: {OLD}", Rejected),
        (f"1 errors like: {OLD}; 1 errors like: {NEW}", Rejected),
        (f"{BEHIND}\nuser 'a', total ignored: 1 out of 3 for stream: {{job=\"a\"}}", Rejected),
        (LONG, TooLarge),
        (f"2 errors like: {LONG}", TooLarge),
        (f"1 errors like: {OLD}; 1 errors like: {LONG}", TooLarge),
        ("loghttp.PushRequest.Streams: decode: expect , or ]", Rejected),
    ],
)
def test_some_are_refused(message: str, expected: type[Outcome]) -> None:
    """Which ones is not told, and the others are stored: the chunk is cut until it shows."""
    outcome = verdict(400, message)

    assert type(outcome) is expected


@pytest.mark.parametrize(
    "message",
    [
        f"3 errors like: {OLD}",
        f"2 errors like: {OLD}; 1 errors like: {NEW}",
        f"{BEHIND}\n{BEHIND}\nuser 'a', total ignored: 3 out of 3 for stream: {{job=\"a\"}}",
    ],
)
def test_all_are_refused(message: str) -> None:
    """Where Loki counts as many refusals as there were entries, each event is refused by name."""
    outcome = verdict(400, message)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == ()
    assert [(r.index, r.reason) for r in outcome.rejected] == [(n, Reason.REJECTED) for n in range(3)]
    assert all(message.startswith(r.detail[:50]) and len(r.detail) <= 300 for r in outcome.rejected)


def test_a_partly_taken_429_is_only_a_429() -> None:
    """What was taken is sent again with the rest, which is harmless."""
    words = f"{BEHIND}\nuser 'a', total ignored: 3 out of 3 for stream: {{job=\"a\"}}"

    assert isinstance(judge(Reply(429, "7", words.encode()), 3, 0.0), Throttled)


def test_stamps_keep_the_millisecond() -> None:
    """A stamp is the event's own millisecond and digits of its id below it."""
    (event_id,) = event_ids(sample("cef")[:1])

    assert stamp(event(sample("cef")[0], event_id)) // 1_000_000 == 1750280466889
    assert stamp(event(sample("cef")[0], event_id)) % 1_000_000 == int(event_id[:8], 16) % 1_000_000


def test_twins_have_stamps_of_their_own() -> None:
    """Identical events of one batch would otherwise be merged into one."""
    ids = event_ids([b"x"] * 5)

    assert len({stamp(event(b"x", event_id)) for event_id in ids}) == 5


@given(st.lists(st.binary(max_size=80).filter(lambda line: b"\n" not in line), min_size=1, max_size=5))
def test_always_one_stream(lines: list[bytes]) -> None:
    """Any lines give one stream with an entry for each."""
    events = [event(line, event_id) for line, event_id in zip(lines, event_ids(lines), strict=True)]

    body = push([entry(e, structured_metadata=True) for e in events], labels={"job": "a"})

    (stream,) = json.loads(body)["streams"]
    assert stream["stream"] == {"job": "a"}
    assert sorted(value[1] for value in stream["values"]) == sorted(
        line.decode(errors="replace") for line in lines
    )
    assert all(value[2].keys() == {"event_id", "source"} for value in stream["values"])


def test_order_by_time() -> None:
    """Entries are ordered by number, also where one is from before 2001 or from before 1970."""
    lines = [
        b"|rt=1750280466889 ",
        b"0001-01-01T00:00:00Z x",
        b"1999-01-01T00:00:00Z x",
        b"1970-01-01T00:00:00Z x",
    ]

    body = push([entry(event(line), structured_metadata=False) for line in lines], labels={"job": "a"})

    values = json.loads(body)["streams"][0]["values"]
    assert [value[1][:4] for value in values] == ["0001", "1970", "1999", "|rt="]
