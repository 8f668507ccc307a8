"""Where the tables keep a batch's events: buckets of event time, with the first and last millisecond in each.

Every batch is found again through the few rows its spans make, whatever other batch its events come back
in. Pure; made in the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from relay.konnect.lines import identity
from relay.konnect.times import event_time
from relay.queue.dedup.fingerprint import Fingerprint

BUCKET_BITS = 13  # events are looked up by spans of 8.192 s
BUCKET_MASK = (1 << BUCKET_BITS) - 1

# An event without a time costs a row and a look-up. A batch with more of them than this is no audit log
# of Konnect's; its events are looked up together, by the whole batch, which still finds a retry.
_MANY_UNTIMED = 1_000


@dataclass(frozen=True, slots=True)
class Spans:
    """The buckets of one batch."""

    rows: list[tuple[int, int, int]]  # bucket, first and last millisecond within it
    limit: int  # milliseconds; event times above are not believed
    common: int | None = None  # one bucket for all events without a time, where there are very many

    def bucket(self, line: bytes) -> int:
        """Where to look an event up. Without a believable time that is a negative number."""
        bucket, _ = _bucket(line, self.limit)
        return self.common if bucket < 0 and self.common is not None else bucket


def spans_of(each: Fingerprint) -> Spans:
    """The spans of a batch."""
    first = each.oldest >> BUCKET_BITS
    if each.timed and first == each.newest >> BUCKET_BITS:
        return Spans([(first, each.oldest & BUCKET_MASK, each.newest & BUCKET_MASK)], each.limit)
    places = [_bucket(line, each.limit) for line in each.lines]
    common = None
    if sum(bucket < 0 for bucket, _ in places) > _MANY_UNTIMED:
        common = _negative(b"\n".join(each.lines) + b"\n")
    merged: dict[int, tuple[int, int]] = {}
    for bucket, at in places:
        if bucket < 0 and common is not None:
            bucket = common
        low, high = merged.get(bucket, (at, at))
        merged[bucket] = (min(low, at), max(high, at))
    return Spans([(bucket, low, high) for bucket, (low, high) in sorted(merged.items())], each.limit, common)


def bucket_at(seconds: float) -> int:
    """The bucket of a time in seconds since the epoch."""
    return int(seconds * 1000) >> BUCKET_BITS


def _bucket(line: bytes, limit: int) -> tuple[int, int]:
    """An event's bucket and the millisecond in it; one made from its identity where it has no time."""
    key = identity(line)
    time = event_time(key)
    if time is None or time > limit:
        return _negative(key), 0
    return time >> BUCKET_BITS, time & BUCKET_MASK


def _negative(key: bytes) -> int:
    return -1 - int.from_bytes(blake2b(key, digest_size=5).digest(), "big")
