"""What deduplication needs to know of a batch: when its events happened, and hashes to tell them apart.

Made in the event loop for every batch, so each step is one pass in C over all lines, and what
most batches never need (`hashes`, `identities`) is made when somebody asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from relay.konnect.lines import CEF_MARKER_BEFORE, identity
from relay.konnect.times import event_stamps, event_time
from relay.model import Batch

BUCKET_BITS = 13  # events are looked up by spans of 8.192 s
BUCKET_MASK = (1 << BUCKET_BITS) - 1
# Clocks of Konnect's services may differ a little; an event further in the future would make
# everything that follows look old.
_FUTURE_MS = 600_000
# Hashes are taken over the last bytes of a line: the signature, or trace id and user agent. They only
# raise suspicion; who is alike in them is compared by full event id.
_TAIL = 192
# A line must be so long that its tail lies within its identity, whatever its header's time stamp.
# The shortest Konnect event seen has 343 bytes.
_SHORT = _TAIL + CEF_MARKER_BEFORE

# An event without a time costs a row and a look-up. A batch with more of them than this is no audit log
# of Konnect's; its events are looked up together, by the whole batch, which still finds a retry.
_MANY_UNTIMED = 1_000

Spans = list[tuple[int, int, int]]  # bucket, first and last millisecond within it


@dataclass(slots=True)
class Fingerprint:
    """A batch as deduplication sees it."""

    lines: list[bytes]
    payload: bytes  # gzip of the lines
    limit: int  # milliseconds; event times above are not believed
    oldest: int  # milliseconds; of the believable times
    newest: int  # milliseconds; 0 when no event has a believable time
    plain: bool  # every event has a believable time and a line long enough to be hashed by its tail
    spans: Spans = field(default_factory=list)
    common: int | None = None  # one bucket for all events without a time, where there are very many
    made: set[int] | None = None  # the hashes, once somebody asked for them

    @property
    def hashes(self) -> set[int]:
        """Equal events have equal hashes, in every batch."""
        if self.made is None:
            self.made = tail_hashes(self.lines)
        return self.made

    @property
    def identities(self) -> list[bytes]:
        return [identity(line) for line in self.lines]

    def bucket(self, line: bytes) -> tuple[int, int]:
        """Where to look an event up: bucket and millisecond in it.

        An event without a believable time has a negative bucket made from its identity.
        """
        key = identity(line)
        time = event_time(key)
        if time is None or time > self.limit:
            if self.common is not None:
                return self.common, 0
            return -1 - int.from_bytes(blake2b(key, digest_size=5).digest(), "big"), 0
        return time >> BUCKET_BITS, time & BUCKET_MASK

    def without(self, lines: list[bytes], payload: bytes) -> Fingerprint:
        """The fingerprint of what is left; too wide a time span only costs a comparison."""
        return Fingerprint(
            lines, payload, self.limit, self.oldest, self.newest, self.plain, self.spans, self.common
        )


def tail_hashes(lines: Iterable[bytes]) -> set[int]:
    return {hash(line[-_TAIL:]) for line in lines}


def fingerprint(batch: Batch) -> Fingerprint:
    """Take a batch's fingerprint."""
    lines = batch.lines or batch.body.split(b"\n")[:-1]
    limit = int(batch.received_at * 1000) + _FUTURE_MS
    stamps = event_stamps(lines)
    if stamps is not None and (newest := int(max(stamps))) <= limit:
        long = min(map(len, lines)) >= _SHORT
        taken = Fingerprint(lines, batch.payload, limit, int(min(stamps)), newest, plain=long)
        bucket = newest >> BUCKET_BITS
        if taken.oldest >> BUCKET_BITS == bucket:
            taken.spans = [(bucket, taken.oldest & BUCKET_MASK, newest & BUCKET_MASK)]
            return taken
    else:
        times = [time for i in map(identity, lines) if (time := event_time(i)) is not None and time <= limit]
        oldest, newest = min(times, default=0), max(times, default=0)
        taken = Fingerprint(lines, batch.payload, limit, oldest, newest, plain=False)
        if len(lines) - len(times) > _MANY_UNTIMED:
            taken.common = -1 - int.from_bytes(blake2b(batch.body, digest_size=5).digest(), "big")
    taken.spans = _spans(map(taken.bucket, lines))
    return taken


def _spans(buckets: Iterable[tuple[int, int]]) -> Spans:
    merged: dict[int, tuple[int, int]] = {}
    for bucket, at in buckets:
        first, last = merged.get(bucket, (at, at))
        merged[bucket] = (min(first, at), max(last, at))
    return [(bucket, first, last) for bucket, (first, last) in sorted(merged.items())]


def bucket_at(seconds: float) -> int:
    """The bucket of a time in seconds since the epoch."""
    return int(seconds * 1000) >> BUCKET_BITS


def ordinals(prints: Sequence[Fingerprint]) -> list[list[int]] | None:
    """Each event's ordinal among its twins in the whole request; None where no two are alike.

    Counted over all batches of a request: were it cut between twins, both would get the same id.
    """
    if len(set().union(*[each.hashes for each in prints])) == sum(len(each.lines) for each in prints):
        return None
    seen: Counter[bytes] = Counter()
    found = []
    for each in prints:
        numbers = []
        for key in each.identities:
            numbers.append(seen[key])
            seen[key] += 1
        found.append(numbers)
    return found
