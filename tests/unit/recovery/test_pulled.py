"""Pulled entries in the webhook's names, and which of them were received before."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from relay.konnect.parse import parse
from relay.recovery.known import keys_of, missing
from relay.recovery.pulled import line_of, moment_of
from relay.recovery.state import Window
from tests.fakes.konnect import AuditEvent, Maker
from tests.fakes.konnect.writing import LogFormat, entry, line

AT = 1_750_000_000.123
ALWAYS = Window(0.0, 4_000_000_000.0)


def alike(event: AuditEvent) -> bytes:
    return line_of(entry(event))


@pytest.mark.parametrize("kind", ["access", "authorization", "authentication"])
def test_a_pulled_event_reads_as_the_webhooks_own(kind: str) -> None:
    """Names, types, time, name and severity are the same; only what the pull does not tell is missing."""
    maker = Maker()
    event = getattr(maker, kind)(at=AT)
    pulled, sent = parse(alike(event)), parse(line(event, "json", stamp=AT))
    assert pulled is not None
    assert sent is not None

    for field in ("name", "severity", "rt", "src", "org_id", "principal_id", "trace_id", "user_agent"):
        assert getattr(pulled, field) == getattr(sent, field), field
    for field in ("event_class_id", "event_product", "event_vendor", "act", "status", "granted", "success"):
        assert getattr(pulled, field) == getattr(sent, field), field
    assert pulled.sig is None
    assert ("relay_pulled", True) in pulled.extra


@pytest.mark.parametrize(
    ("outcome", "severity"),
    [("success", 0), ("not_found", 1), ("token_expired", 1), ("locked", 6), ("disabled", 6), ("odd", 7)],
)
def test_an_outcome_has_its_severity(outcome: str, severity: int) -> None:
    """By the table of docs/konnect.md section 3; the type may be left out."""
    found = json.loads(line_of({"outcome": outcome, "authentication_type": "pat"}))

    assert found["name"] == f"AUTHENTICATION_OUTCOME_{outcome.upper()}"
    assert found["event_class_id"] == "AUTHENTICATION_TYPE_PAT"
    assert found["severity"] == severity


def test_what_cannot_be_mapped_is_kept() -> None:
    """An unknown type, a time that is none, and names that are ours already: nothing is thrown away."""
    given = {
        "type": "quantum",
        "ts": "yesterday",
        "name": "theirs",
        "severity": 3,
        "signature": "s1",
        "sig": "s2",
        "nested": {"a": [1, 2]},
    }
    found = json.loads(line_of(given))

    assert found["type"] == "quantum"
    assert found["ts"] == "yesterday"
    assert found["pulled_name"] == "theirs"
    assert found["pulled_severity"] == 3
    assert {found["signature"], found["pulled_signature"]} == {"s1", "s2"}
    assert found["nested"] == {"a": [1, 2]}
    assert moment_of(given) is None


@pytest.mark.parametrize(
    ("ts", "rt"),
    [
        ("2025-06-18T21:01:43.960Z", 1750280503960),
        ("2025-06-18T21:01:43.960999Z", 1750280503960),
        ("2025-06-18T23:01:43.96+02:00", 1750280503960),
    ],
)
def test_times_are_cut_to_milliseconds(ts: str, rt: int) -> None:
    """Rounded, half of them would not meet the webhook's."""
    assert moment_of({"ts": ts}) == rt


def keys(lines: list[bytes]) -> Counter[int]:
    return Counter(key for _, key in keys_of(lines, ALWAYS))


@pytest.mark.parametrize("log_format", ["cef", "json", "cps"])
def test_what_was_received_in_any_format_is_not_taken_again(log_format: LogFormat) -> None:
    """Only what is missing remains, in order."""
    events = Maker().some(30, at=AT)
    received = [line(event, log_format, stamp=AT) for event in events[:20]]

    left = missing([alike(event) for event in events], keys(received))

    assert left == [alike(event) for event in events[20:]]


def test_twins_are_counted() -> None:
    """Of three alike, one was received: two are missing."""
    (event,) = Maker().some(1, at=AT)
    received = keys([line(event, "cef", stamp=AT)])

    assert missing([alike(event)] * 3, received) == [alike(event)] * 2
    assert missing([alike(event)], received) == []


def test_where_nobody_can_tell_which_is_missing_all_are_taken() -> None:
    """Two checks of one trace in one millisecond, of two resources: twice rather than not at all."""
    one, two = (Maker().authorization(at=AT, resource=name) for name in ("portals", "usage"))
    received = keys([line(one, "cef", stamp=AT)])

    assert missing([alike(one), alike(two)], received) == [alike(one), alike(two)]
    both = received + keys([line(two, "cef", stamp=AT)])
    assert missing([alike(one), alike(two)], both) == []


def test_pulled_lines_count_as_none_received() -> None:
    """They have the same bytes each time, so the queue itself recognises them."""
    (event,) = Maker().some(1, at=AT)

    assert keys_of([alike(event)], ALWAYS) == []


def test_only_the_window_is_read() -> None:
    """Both of its ends belong to it."""
    events = Maker().some(10, at=AT, every=1.0)
    lines = [line(event, "cef", stamp=AT) for event in events]

    assert len(keys_of(lines, Window(AT + 2, AT + 5))) == 4
