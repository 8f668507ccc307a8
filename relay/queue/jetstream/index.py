"""Where a batch's events are found again: its place in the subject, and hashes of its events in a header.

    13.219116210    every event happened in this span of 8.192 s
    19.3423         … in this one of 8.7 minutes; a batch takes the smallest span that holds its events
    u.9b1f3ac204    a single event without a time: a hash of it

The spans of a level follow each other without overlapping, so an event can only be in one place of each
level, or in the one of its hash. Both are functions of the lines alone: whoever looks for an event
comes to the same places as whoever stored it, in any process. Pure.
"""

from __future__ import annotations

import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from relay.konnect.times import event_time
from relay.queue.dedup.fingerprint import Fingerprint

# The logarithm of a span's milliseconds. Every third power of two: fewer levels to search, for wider spans
# where a batch does not fit a smaller one. The last holds all times of thirteen digits.
LEVELS: Final = tuple(range(13, 47, 3))
NOWHERE: Final = "0.0"  # the place of what nobody is to find: markers, sources that do not deduplicate


def place_of(each: Fingerprint) -> str:
    """Where a batch is stored. Of several events those with a time decide."""
    if each.timed:
        return span(each.oldest, each.newest)
    keys = each.identities
    times = [time for key in keys if (time := event_time(key)) is not None]
    return span(min(times), max(times)) if times else untimed_place(keys)


def places_of(each: Fingerprint, *, singly: bool) -> set[str]:
    """Every place where a batch with some of these events may be.

    Events without a time are looked up each by itself where they are stored so (*singly*), otherwise as
    the whole they were in the batch.
    """
    keys = each.identities
    times = set()
    untimed = []
    for key in keys:
        if (time := event_time(key)) is None:
            untimed.append(key)
        else:
            times.add(time)
    found = {f"{level}.{index}" for level in LEVELS for index in {time >> level for time in times}}
    if singly:
        found.update([untimed_place([key]) for key in untimed])
    elif len(untimed) == len(keys):
        found.add(untimed_place(keys))
    return found


def span(oldest: int, newest: int) -> str:
    """The smallest place that holds all events between these times, in milliseconds since the epoch."""
    level = next(level for level in LEVELS if oldest >> level == newest >> level)
    return f"{level}.{oldest >> level}"


def untimed_place(keys: Sequence[bytes]) -> str:
    return hashed(int.from_bytes(blake2b(b"\n".join(keys), digest_size=5).digest(), "big"))


def hashed(number: int) -> str:
    """The place of events without a time, by their hash."""
    return f"u.{number:010x}"


def start_of(place: str) -> int:
    """The first millisecond of a span of time. Raises `ValueError` for a place that is none."""
    level, _, index = place.partition(".")
    return int(index) << int(level)


def hash_in(place: str) -> int | None:
    """The hash that names the place of events without a time; None for a span of time."""
    kind, _, digest = place.partition(".")
    return int(digest, 16) if kind == "u" else None


def pack(hashes: Iterable[int]) -> bytes:
    """Four bytes each, the lowest first."""
    numbers = tuple(hashes)
    return struct.pack(f"<{len(numbers)}I", *numbers)


def unpack(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def to_header(packed: bytes) -> str:
    return b2a_base64(packed, newline=False).decode()


def from_header(value: str | None) -> bytes | None:
    """None where there are no hashes, or none that can be read."""
    try:
        packed = a2b_base64(value or "")
    except ValueError:
        return None
    return packed if packed and len(packed) % 4 == 0 else None
