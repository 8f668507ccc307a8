"""Times as people type them."""

from __future__ import annotations

import pytest
import typer

from relay.admin.times import parse_rfc3339, rfc3339
from relay.cli.moments import duration, moment
from relay.cli.output import size, span

NOW = 1_787_390_000.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("-2h", NOW - 7200),
        ("-90s", NOW - 90),
        ("-1.5d", NOW - 129600),
        ("-30m", NOW - 1800),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T00:01:00", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-02", 86400.0),
    ],
)
def test_a_time_is_understood(text: str, expected: float) -> None:
    """RFC 3339, a date, `now`, or so long ago; without a zone it is UTC."""
    assert moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2h", "+2h", "-2y", "-h", "12:00", "2026-13-01"])
def test_anything_else_is_wrong_usage(text: str) -> None:
    """The message says what can be written instead."""
    with pytest.raises(typer.BadParameter, match="2026-08-22T09:30:00Z"):
        moment(text, NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3s", 3.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("7d", 604800.0),
        ("500ms", 0.5),
        ("90", 90.0),
        ("0", 0.0),
    ],
)
def test_a_length_of_time_is_written_as_in_the_configuration(text: str, seconds: float) -> None:
    """And a plain number is one of seconds."""
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-3s", "3 weeks", "1h30m", "nan", "inf", "1e3"])
def test_what_is_no_length_of_time_is_wrong_usage(text: str) -> None:
    """The message says what can be written instead."""
    with pytest.raises(typer.BadParameter, match="5m"):
        duration(text)


def test_a_written_time_reads_back_to_the_millisecond() -> None:
    """What one command prints another one takes."""
    assert parse_rfc3339(rfc3339(NOW + 0.125)) == NOW + 0.125
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"


def test_sizes_and_spans_are_short() -> None:
    """Three significant digits are enough for people."""
    assert [size(n) for n in (0, 1023, 1536, 10 * 1024**3, 5 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "10.0 GiB",
        "5.0 TiB",
    ]
    assert [span(s) for s in (0.25, 90, 7000, 86400, 604800)] == ["0.2 s", "90.0 s", "117 min", "24 h", "7 d"]
