"""Recognising events that were accepted before: the log itself is the index.

Keeping every id for a week would cost more than the events. Three facts make that unnecessary:

1. Nearly every event is newer than all that came before. For the last batches of a source (`_Recent`)
   we know between which times their events lie, and for everything before them only the newest
   event time, the *floor*. A batch that lies above the floor and between the recent ones cannot
   have been seen. Finding a batch's first and last time is the whole cost for live traffic.
2. Where a batch overlaps recent ones in time, hashes of their events decide; they are made for
   those batches only.
3. An event at or below the floor (a replay, a late retry, anything after a restart), or with the hash of a
   recent one, is looked up: `event_times` names the few batches with events in that span, and these
   are opened and compared by full event id, inside the transaction that appends, so that no
   two requests can slip past each other.

An event without a usable time is looked up by a bucket made from its identity, as is one that
claims to come from the future (it would lift the floor for all the others).
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from relay import gzipped
from relay.konnect.lines import event_ids, identity
from relay.konnect.times import event_stamps, event_time
from relay.model import Batch

_BUCKET_BITS = 13  # 8.192 s
_BUCKET_MASK = (1 << _BUCKET_BITS) - 1
# Clocks of Konnect's services may differ a little; beyond this an event time is not believed.
_FUTURE_MS = 600_000
# What is kept of each source's recent past: 10 MB at most.
_RECENT_EVENTS = 100_000
_RECENT_BATCHES = 4_096
_OPENED_BATCHES = 256  # id sets of batches opened for comparison

Spans = list[tuple[int, int, int]]  # bucket, first and last millisecond within it


@dataclass(slots=True)
class Fingerprint:
    """What deduplication needs to know of one batch. Hashes and identities are made on first use."""

    lines: list[bytes]
    payload: bytes  # gzip of the lines
    limit: int  # milliseconds; event times above are not believed
    oldest: int  # milliseconds; of the believable times
    newest: int  # milliseconds; 0 when no event has a believable time
    complete: bool  # every event has a believable time
    spans: Spans = field(default_factory=list)
    _identities: list[bytes] | None = None
    _hashes: set[int] | None = None

    @property
    def identities(self) -> list[bytes]:
        if self._identities is None:
            self._identities = _identities(self.lines)
        return self._identities

    @property
    def hashes(self) -> set[int]:
        if self._hashes is None:
            self._hashes = set(map(hash, self.identities))
        return self._hashes

    @property
    def hashed(self) -> set[int] | None:
        """The hashes if somebody asked for them already."""
        return self._hashes

    def time(self, index: int) -> int | None:
        """An event's believable time in milliseconds."""
        time = event_time(self.identities[index])
        return None if time is None or time > self.limit else time

    def bucket(self, index: int) -> tuple[int, int]:
        """Where to look the event up: bucket and millisecond in it."""
        time = self.time(index)
        if time is None:
            digest = blake2b(self.identities[index], digest_size=5).digest()
            return -1 - int.from_bytes(digest, "big"), 0
        return time >> _BUCKET_BITS, time & _BUCKET_MASK

    def without(self, lines: list[bytes], payload: bytes) -> Fingerprint:
        """The fingerprint of what is left; too wide a time span only costs a comparison."""
        return Fingerprint(
            lines, payload, self.limit, self.oldest, self.newest, self.complete, spans=self.spans
        )


def fingerprint(batch: Batch) -> Fingerprint:
    """Take a batch's fingerprint: when its first and its last event happened."""
    lines = batch.lines or batch.body.split(b"\n")[:-1]
    limit = int(batch.received_at * 1000) + _FUTURE_MS
    stamps = event_stamps(lines)
    if stamps is not None and (newest := int(max(stamps))) <= limit:
        taken = Fingerprint(lines, batch.payload, limit, int(min(stamps)), newest, complete=True)
        bucket = newest >> _BUCKET_BITS
        if taken.oldest >> _BUCKET_BITS == bucket:
            taken.spans = [(bucket, taken.oldest & _BUCKET_MASK, newest & _BUCKET_MASK)]
            return taken
    else:
        taken = Fingerprint(lines, batch.payload, limit, 0, 0, complete=False)
        times = [time for n in range(len(lines)) if (time := taken.time(n)) is not None]
        taken.oldest, taken.newest = min(times, default=0), max(times, default=0)
        taken.complete = len(times) == len(lines)
    taken.spans = _spans(map(taken.bucket, range(len(lines))))
    return taken


def _identities(lines: list[bytes]) -> list[bytes]:
    """`identity` of each line; at once where all are JSON, or CEF with the marker at one place."""
    head = lines[0]
    at = -1 if head[:1] == b"{" else head.find(b"CEF:", 0, 80)
    if at > 0:
        end = at + 4
        # Few different heads occur in one batch, so looking closely at each costs next to nothing.
        if all(each[:1] != b"{" and each.find(b"CEF:") == at for each in {line[:end] for line in lines}):
            return [line[at:] for line in lines]
    elif {line[:1] for line in lines} == {b"{"}:
        return lines
    return [identity(line) for line in lines]


def _spans(buckets: Iterable[tuple[int, int]]) -> Spans:
    merged: dict[int, tuple[int, int]] = {}
    for bucket, at in buckets:
        first, last = merged.get(bucket, (at, at))
        merged[bucket] = (min(first, at), max(last, at))
    return [(bucket, first, last) for bucket, (first, last) in sorted(merged.items())]


@dataclass(slots=True, eq=False)
class _Known:
    """A recent batch: between which times its events lie, and their hashes once somebody asked."""

    oldest: int
    newest: int
    events: int
    payload: bytes | None  # gzip; None when the hashes are there
    made: set[int] | None

    @property
    def hashes(self) -> set[int]:
        if self.made is None or self.payload is not None:
            lines = gzipped.decompress(self.payload or b"").split(b"\n")[:-1]
            self.made, self.payload = set(map(hash, _identities(lines))), None
        return self.made


class _Recent:
    """The last batches of one source by time, and the floor below which only the tables know."""

    def __init__(self, floor: int) -> None:
        self.floor = floor  # milliseconds; the newest event time of all that is not recent
        self._arrived: deque[_Known] = deque()
        self._by_oldest: list[tuple[int, int, _Known]] = []
        self._events = 0
        self._longest = 0  # milliseconds between the first and the last event of a recent batch
        self._number = 0

    def overlapping(self, oldest: int, newest: int) -> Iterator[_Known]:
        """Recent batches with events between these times, or nearly."""
        start = bisect_left(self._by_oldest, (oldest - self._longest,))
        stop = bisect_right(self._by_oldest, (newest + 1,))
        for _, _, known in self._by_oldest[start:stop]:
            if known.newest >= oldest:
                yield known

    def add(self, each: Fingerprint) -> None:
        if not each.newest:
            return  # nothing but events without a time: they are always looked up
        hashed = each.hashed
        known = _Known(each.oldest, each.newest, len(each.lines), None if hashed else each.payload, hashed)
        self._number += 1
        insort(self._by_oldest, (each.oldest, self._number, known))
        self._arrived.append(known)
        self._events += known.events
        self._longest = max(self._longest, each.newest - each.oldest)
        while self._events > _RECENT_EVENTS or len(self._arrived) > _RECENT_BATCHES:
            self._drop(self._arrived.popleft())

    def _drop(self, known: _Known) -> None:
        at = bisect_left(self._by_oldest, (known.oldest,))
        while self._by_oldest[at][2] is not known:
            at += 1
        del self._by_oldest[at]
        self._events -= known.events
        self.floor = max(self.floor, known.newest)
        if not self._arrived:
            self._longest = 0


class Deduplicator:
    """What is recent, and the search behind it. Used in the writer's thread only."""

    def __init__(
        self,
        load_ids: Callable[[sqlite3.Connection, int], list[str] | None],
        before_search: Callable[[sqlite3.Connection], None],
    ) -> None:
        self._load_ids = load_ids  # ids of a stored batch or tombstone; None when it is gone
        self._before_search = before_search  # writes rows still staged, so that they are found
        self._opened: OrderedDict[int, frozenset[str]] = OrderedDict()
        self._recent: dict[int, _Recent] = {}

    def reset(self) -> None:
        """Forget everything: the next events are looked up in the tables."""
        self._recent.clear()
        self._opened.clear()

    def duplicates(
        self, connection: sqlite3.Connection, source: int, prints: Sequence[Fingerprint], since: float
    ) -> list[frozenset[int]]:
        """The indices of events accepted before, at or after *since*, for each batch of a request."""
        recent = self._recent.get(source)
        if recent is None:
            recent = self._recent[source] = _Recent(_newest_event_time(connection, source))
        found = []
        for each in prints:
            if each.complete and each.oldest > recent.floor and _is_new(recent, each):
                found.append(frozenset[int]())
            else:
                self._before_search(connection)
                found.append(self._search(connection, source, each, recent, since))
        return found

    def remember(self, source: int, prints: Sequence[Fingerprint]) -> None:
        """These events are about to be stored."""
        for each in prints:
            self._recent[source].add(each)

    def _search(
        self, connection: sqlite3.Connection, source: int, each: Fingerprint, recent: _Recent, since: float
    ) -> frozenset[int]:
        ids = event_ids(each.identities)
        spans = {bucket: (first, last) for bucket, first, last in each.spans}
        known: dict[int, list[frozenset[str]]] = {}
        alike = set().union(*[k.hashes for k in recent.overlapping(each.oldest, each.newest)])
        found = set()
        for index, event_id in enumerate(ids):
            time = each.time(index)
            if time is not None and time > recent.floor and hash(each.identities[index]) not in alike:
                continue
            bucket, _ = each.bucket(index)
            if bucket not in known:
                low, high = spans.get(bucket, (0, _BUCKET_MASK))
                known[bucket] = self._candidates(connection, source, bucket, low, high, since)
            if any(event_id in batch for batch in known[bucket]):
                found.add(index)
        return frozenset(found)

    def _candidates(
        self, connection: sqlite3.Connection, source: int, bucket: int, low: int, high: int, since: float
    ) -> list[frozenset[str]]:
        """The id sets of all batches with events of the bucket between *low* and *high*."""
        rows = connection.execute(
            "SELECT e.sequence FROM event_times e"
            " LEFT JOIN batches b USING (sequence) LEFT JOIN tombstones t USING (sequence)"
            " WHERE e.source=? AND e.bucket=? AND e.first<=? AND e.last>=?"
            " AND coalesce(b.received_at, t.received_at)>=?",
            (source, bucket, high, low, since),
        ).fetchall()
        return [ids for (sequence,) in rows if (ids := self._open(connection, sequence)) is not None]

    def _open(self, connection: sqlite3.Connection, sequence: int) -> frozenset[str] | None:
        ids = self._opened.get(sequence)
        if ids is None:
            loaded = self._load_ids(connection, sequence)
            if loaded is None:
                return None
            ids = self._opened[sequence] = frozenset(loaded)
            if len(self._opened) > _OPENED_BATCHES:
                self._opened.popitem(last=False)
        else:
            self._opened.move_to_end(sequence)
        return ids


def _is_new(recent: _Recent, each: Fingerprint) -> bool:
    """Whether no recent batch has an event like one of these."""
    return all(known.hashes.isdisjoint(each.hashes) for known in recent.overlapping(each.oldest, each.newest))


def bucket_at(seconds: float) -> int:
    """The bucket of a time in seconds since the epoch."""
    return int(seconds * 1000) >> _BUCKET_BITS


def request_ordinals(prints: Sequence[Fingerprint]) -> list[list[int]] | None:
    """Twins' ordinals counted over all batches of one request, or None where there are none across them.

    A request that was cut into several batches must not give twins in two of them the same id.
    """
    if len(prints) < 2 or len(set().union(*[p.hashes for p in prints])) == sum(len(p.hashes) for p in prints):
        return None
    seen: Counter[bytes] = Counter()
    ordinals = []
    for each in prints:
        numbers = []
        for key in each.identities:
            numbers.append(seen[key])
            seen[key] += 1
        ordinals.append(numbers)
    return ordinals


def _newest_event_time(connection: sqlite3.Connection, source: int) -> int:
    """The newest believable event time stored for a source, in milliseconds; 0 when there is none."""
    row = connection.execute(
        "SELECT bucket, max(last) FROM event_times WHERE source=? AND bucket=("
        " SELECT max(bucket) FROM event_times WHERE source=? AND bucket>=0)",
        (source, source),
    ).fetchone()
    if row is None or row[0] is None:
        return 0
    return int((row[0] << _BUCKET_BITS) | row[1])
