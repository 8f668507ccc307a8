"""When an event happened."""

from __future__ import annotations

import pytest

from relay.konnect.lines import format_of
from relay.konnect.times import happened_at
from relay.model import Event
from tests.fakes.chunks import RECEIVED_AT, sample


@pytest.mark.parametrize(
    ("expected", "line"),
    [
        (1_750_280_466_889, sample("cef")[0]),
        (1_750_280_466_889, sample("json")[0]),
        (1_750_280_466_889, sample("cps")[0]),
        (1_750_280_466_889, b'{"rt":"1750280466889"}'),
        (1_750_280_496_000, b"2025-06-18T21:01:36Z konghq.com CEF:0|KongInc|Konnect|1.0|a|b|0|src=x"),
        (1_750_280_496_000, b"2025-06-18T21:01:36Z konghq.com CEF:0|K|K|1.0|a|b|0|rt=16738287345642 src=x"),
        (1_750_280_496_000, b'{"event_ts":"2025-06-18T21:01:36Z","rt":"3958q3097698"}'),
        (1_750_280_500_250, b"2025-02-31T21:01:36Z konghq.com CEF:0|KongInc|Konnect|1.0|a|b|0|src=x"),
        (1_750_280_500_250, b"Apr 14 05:39:08 konghq.com CEF:0|KongInc|Konnect|1.0|a|b|0|src=x"),
        (1_750_280_500_250, b"not a record at all"),
    ],
)
def test_happened_at(expected: int, line: bytes) -> None:
    """The time is `rt`, else the header's stamp, else the arrival; a bad one never fails an event."""
    assert happened_at(Event("0" * 32, line, format_of(line), "us", RECEIVED_AT)) == expected


def test_a_rewritten_event_keeps_its_time() -> None:
    """The time is that of the line as it was received, however it is written for a destination."""
    event = Event("0" * 32, b'{"@timestamp":"x"}', format_of(b"{"), "us", RECEIVED_AT, sample("cef")[0])

    assert happened_at(event) == 1_750_280_466_889


@pytest.mark.parametrize(
    "line",
    [
        b'{"name":"Ingress","query":"{\\"a\\":\\"x rt=1000000000000\\"}","rt":1750280466889}',
        b'{"principal_name":"Eve rt=1000000000000 |rt=1000000000000","rt":1750280466889}',
        b'{"query":"\\"rt\\":1000000000000","rt":1750280466889}',
        b"2025-06-18T21:01:06Z konghq.com CEF:0|K|K|1.0|a|b|0|rt=1750280466889 request=/x|rt=1000000000000",
    ],
)
def test_a_caller_cannot_move_an_event_in_time(line: bytes) -> None:
    """What reads like a time inside a value is none: old events would be dropped or buried by many SIEMs."""
    assert happened_at(Event("0" * 32, line, format_of(line), "us", RECEIVED_AT)) == 1_750_280_466_889


@pytest.mark.parametrize(
    "line",
    [
        b"Apr 14 05:39:08 konghq.com CEF:0|K|K|1.0|a|b|0|src=x request=/?rt=1000000000000 rt=1000000000000",
        b'Apr 14 05:39:08 konghq.com CEF:0|K|K|1.0|a|b|0|src=x query={"event_ts":"2001-01-01T00:00:00Z"}',
        b'{"query":"\\"event_ts\\":\\"2001-01-01T00:00:00Z\\""}',
        b"not a record |rt=1000000000000",
    ],
)
def test_without_a_time_of_its_own_the_arrival_counts(line: bytes) -> None:
    """Whatever a caller wrote in its place."""
    assert happened_at(Event("0" * 32, line, format_of(line), "us", RECEIVED_AT)) == 1_750_280_500_250
