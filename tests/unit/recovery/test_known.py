"""Which pulled entries were received before."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from relay.konnect.pulled import line_of
from relay.recovery.known import keys_of, missing
from relay.recovery.state import Window
from tests.fakes.konnect import AuditEvent, Maker
from tests.fakes.konnect.writing import LogFormat, entry, line

AT = 1_750_000_000.123
ALWAYS = Window(0.0, 4_000_000_000.0)


def keys(lines: list[bytes]) -> Counter[int]:
    return Counter(key for _, key in keys_of(lines, ALWAYS))


def alike(event: AuditEvent) -> bytes:
    return line_of(entry(event))


@pytest.mark.parametrize("log_format", ["cef", "json", "cps"])
def test_what_was_received_in_any_format_is_not_taken_again(log_format: LogFormat) -> None:
    """Only what is missing remains, in order."""
    events = Maker().some(30, at=AT)
    received = [line(event, log_format, stamp=AT) for event in events[:20]]

    left = missing([alike(event) for event in events], keys(received))

    assert left == [alike(event) for event in events[20:]]


@pytest.mark.parametrize("log_format", ["cef", "json", "cps"])
def test_an_authentication_may_be_pulled_without_what_is_optional(log_format: LogFormat) -> None:
    """Konnect need not tell type, organisation and principal there: it is the same event all the same."""
    event = Maker().authentication(at=AT)
    told = {
        name: value for name, value in entry(event).items() if name not in ("type", "org_id", "principal_id")
    }

    assert missing([line_of(told)], keys([line(event, log_format, stamp=AT)])) == []


def test_a_query_that_stands_in_the_path_is_no_other_request() -> None:
    """It has a form of its own in each writing."""
    event = Maker().access(at=AT)
    told = entry(event)
    told["uri"] += "?size=1"

    assert missing([line_of(told)], keys([line(event, "cef", stamp=AT)])) == []


def test_another_result_is_another_event() -> None:
    """A request that was granted says nothing of one that was denied."""
    granted, denied = (Maker().authorization(at=AT, granted=granted) for granted in (True, False))

    assert missing([alike(denied)], keys([line(granted, "cef", stamp=AT)])) == [alike(denied)]


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


def test_a_line_that_only_claims_to_be_pulled_hides_nothing() -> None:
    """Whoever may send can write the mark into what is missing: it is pulled all the same."""
    (event,) = Maker().some(1, at=AT)
    marked = b'{"relay_pulled":true,' + line(event, "json", stamp=AT)[1:]
    received = keys([alike(event), marked])

    assert missing([alike(event)], received) == [alike(event)]


def test_only_the_window_is_read() -> None:
    """Both of its ends belong to it."""
    events = Maker().some(10, at=AT, every=1.0)
    lines = [line(event, "cef", stamp=AT) for event in events]

    assert len(keys_of(lines, Window(AT + 2, AT + 5))) == 4


def test_a_received_line_without_a_time_is_like_none_that_is_pulled() -> None:
    """It would only take up memory: every entry that can be pulled has a time."""
    (event,) = Maker().some(1, at=AT)
    timeless = [re.sub(rb"rt=\d+", b"rt=0", line(event, "cef", stamp=AT)), b"no event"]

    assert keys_of(timeless, ALWAYS) == []
