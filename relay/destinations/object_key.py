"""What an archived object is called: a pure function of what is in it.

A chunk that is sent again has the same name, so that a store which already holds it can say so. Never asks
a clock: the partition is the time of the events, not of the upload.
"""

from __future__ import annotations

from datetime import UTC, datetime

from relay.batch import Chunk
from relay.konnect.times import happened_at
from relay.model import Event

ENDING = ".ndjson.gz"

_EARLIEST = 946_684_800.0  # the year 2000; Konnect is younger
_AHEAD = 86_400.0  # seconds an event may lie in the future of its arrival: clocks differ, but not by days


def partition_time(event: Event) -> datetime:
    """When *event* happened, in UTC; when it arrived, where its own time is impossible.

    The arrival is stored with the event, so that this too is the same each time.
    """
    seconds = happened_at(event) / 1000
    if not _EARLIEST <= seconds <= event.received_at + _AHEAD:
        seconds = event.received_at
    return datetime.fromtimestamp(seconds, UTC)


def object_key(prefix: str, at: datetime, digest: str) -> str:
    """`prefix/dt=2025-06-18/hh=21/20250618T210236889Z-<digest>.ndjson.gz`, readable as a Hive partition.

    *at* is the time of the first event, *digest* the SHA-256 of the uncompressed lines in hex: a newer
    compressor makes other bytes of the same events, but no second object.
    """
    stamp = f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"
    name = f"dt={at:%Y-%m-%d}/hh={at:%H}/{stamp}-{digest}{ENDING}"
    return f"{prefix}/{name}" if prefix else name


def content_type(chunk: Chunk, body: bytes) -> str:
    """The media type of *body*, the lines of *chunk*: NDJSON where each of them is an object."""
    objects = body.count(b"\n{") + body.startswith(b"{")
    return "application/x-ndjson" if objects == len(chunk) else "text/plain"
