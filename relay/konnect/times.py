"""When an event happened, as far as its own bytes say: the `rt` field in milliseconds.

Two questions. `event_time` is asked to find an event again (`relay.queue.dedup`): what matters there is not
that the time is right but that the same event always gives the same answer, and one without a usable `rt` has
none. `happened_at` is asked to tell a destination, and always has an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from relay.model import Event

# Thirteen digits: 2001 to 2286. Kong's documentation also prints `3958q3097698` and 14 digits.
_DIGITS = 13
_CEF_FIRST = b"|rt="  # Konnect writes rt right behind the header,
_CEF_LATER = re.compile(rb" rt=(\d{13})")  # but warns not to depend on it
_JSON_NUMBER = b'"rt":'
_JSON_STRING = re.compile(rb'"rt":"(\d{13})')

# What a caller chose may read like a time, and whoever can move his events into the past hides them: many
# SIEMs drop or bury what is days old. So each format is asked only where Konnect alone can have written: in
# CEF right behind the header, in JSON a key (a quote inside a value is escaped).
_CEF_RT = re.compile(rb"\|rt=(\d+)")
_CEF_HEADER_PIPES = 7
_JSON_RT = re.compile(rb'(?<!\\)"rt":\s*"?(\d+)')
# The stamp in front of a CEF line, or the same as JSON's field. Konnect's stamps are UTC; the form
# of 2023 (`Apr 14 05:39:08`) has no year and is left to the arrival time.
_STAMP = rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z)"
_CEF_STAMP = re.compile(_STAMP)
_JSON_STAMP = re.compile(rb'(?<!\\)"event_ts":\s*"' + _STAMP)


def happened_at(event: Event) -> int:
    """When the event happened, in milliseconds since the epoch: by itself, its header, or its arrival."""
    return line_time(event.received, event.received_at)


def line_time(line: bytes, received_at: float) -> int:
    """As `happened_at`, of an event's bytes and their arrival in seconds since the epoch."""
    if line[:1] == b"{":
        rt, stamp = _JSON_RT.search(line), _JSON_STAMP.search(line)
    else:
        rt, stamp = _CEF_RT.match(line, _end_of_header(line)), _CEF_STAMP.match(line)
    if rt is not None and len(rt[1]) == _DIGITS:
        return int(rt[1])
    if stamp is not None:
        try:
            return round(datetime.fromisoformat(stamp[1].decode()).timestamp() * 1000)
        except ValueError:  # the 31st of February
            pass
    return round(received_at * 1000)


def rfc3339(milliseconds: int) -> str:
    """*milliseconds* since the epoch as `2025-06-18T21:01:06.889Z`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _end_of_header(line: bytes) -> int:
    """Where the last pipe of a CEF header stands, or the end of the line."""
    at = -1
    for _ in range(_CEF_HEADER_PIPES):
        at = line.find(b"|", at + 1)
        if at < 0:
            return len(line)
    return at


def event_time(identity: bytes) -> int | None:
    """Milliseconds since the epoch by the event's `rt`, or None when that is not 13 digits."""
    marker, otherwise = (_JSON_NUMBER, _JSON_STRING) if identity[:1] == b"{" else (_CEF_FIRST, _CEF_LATER)
    at = identity.find(marker)
    digits = identity[at + len(marker) : at + len(marker) + _DIGITS]
    if at >= 0 and len(digits) == _DIGITS and digits.isdigit():
        return int(digits)
    found = otherwise.search(identity)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Timed:
    """A batch of which every `event_time` stands as Konnect writes it."""

    rests: list[bytes]  # each line from the digits of its time on
    oldest: int  # milliseconds since the epoch
    newest: int


def timed(lines: Sequence[bytes], end: int) -> Timed | None:
    """The short cut for whole batches: their times, and the lines without their last *end* bytes; or None."""
    marker = _marker(lines[0])
    rests = [line.partition(marker)[2][:-end] for line in lines]
    stamps = [rest[:_DIGITS] for rest in rests]
    joined = b"".join(stamps)
    if len(joined) < _DIGITS * len(lines) or not joined.isdigit():
        return None
    # As digits of equal length they compare like numbers. Konnect writes events in the order of their times;
    # then sorting is a single look at each, faster than finding first and last.
    stamps.sort()
    return Timed(rests, int(stamps[0]), int(stamps[-1]))


def _marker(line: bytes) -> bytes:
    return _JSON_NUMBER if line[:1] == b"{" else _CEF_FIRST
