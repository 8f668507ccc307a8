"""What Datadog's answers mean, and that no line gets out of its log."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.classify import Reply
from relay.destinations.datadog import array, judge, write
from relay.konnect.lines import format_of
from relay.model import Event
from tests.fakes.chunks import RECEIVED_AT


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (202, Delivered),
        (200, Delivered),
        (204, Misconfigured),
        (400, Rejected),
        (401, Misconfigured),
        (403, Misconfigured),
        (404, Misconfigured),
        (408, Transient),
        (413, TooLarge),
        (415, Misconfigured),
        (429, Throttled),
        (500, Transient),
        (503, Transient),
    ],
)
def test_table(status: int, expected: type[Outcome]) -> None:
    """Each documented status, and a success that is none of Datadog's."""
    assert type(judge(Reply(status, body=b"{}"), 3, 0.0)) is expected


@given(
    st.lists(
        st.binary(min_size=1, max_size=80).filter(lambda line: b"\n" not in line), min_size=1, max_size=4
    )
)
def test_always_one_array(lines: list[bytes]) -> None:
    """Any lines give one array with a log of the known attributes for each."""
    events = [Event("0" * 32, line, format_of(line), "konnect-us", RECEIVED_AT) for line in lines]

    logs = json.loads(array([write(event, head=b'{"ddsource":"konnect",') for event in events]))

    assert len(logs) == len(lines)
    assert all(log.keys() == {"ddsource", "timestamp", "message", "kong"} for log in logs)
    assert all(log["kong"].keys() <= {"event_id", "source", "audit"} for log in logs)


@pytest.mark.parametrize(
    "line", [b'{"a":1},"service":"x"}', b'{"event":{"a":1}},{"b":2}', b'"},{"message":"x', b"}]"]
)
def test_a_line_cannot_break_out(line: bytes) -> None:
    """No line adds an attribute to its log or a log to the array."""
    event = Event("0" * 32, line, format_of(line), "konnect-us", RECEIVED_AT)

    (log,) = json.loads(array([write(event, head=b"{")]))

    assert log.keys() == {"timestamp", "message", "kong"}
    assert log["kong"] == {"event_id": "0" * 32, "source": "konnect-us"}
