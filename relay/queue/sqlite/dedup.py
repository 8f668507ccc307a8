"""Recognising events that were accepted before: the log itself is the index.

Keeping every id for a week would cost more than the events. Three facts make that unnecessary:

1. Nearly every event is newer than all that came before. *Hot* hashes of the last some hundred
   thousand events are kept in memory, and for everything that has left them only the newest event
   time, the *floor*. An event above the floor whose hash is not hot cannot have been seen. That is
   the whole check for live traffic.
2. An event at or below the floor (a replay, a late retry, anything after a restart) is looked up by its
   event time: `event_times` names the few batches with events in that span, and these are opened
   and compared by full event id. A hot hash that matches is verified the same way.
3. Both read the tables inside the transaction that appends, so no two requests can slip past each other.

An event without a usable time is looked up by a bucket made from its identity, as is one that
claims to come from the future (it would lift the floor for all the others).
"""

from __future__ import annotations

import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from relay.konnect.lines import event_ids, identity
from relay.konnect.times import event_stamps, event_time
from relay.model import Batch

_BUCKET_BITS = 13  # 8.192 s
_BUCKET_MASK = (1 << _BUCKET_BITS) - 1
# Clocks of Konnect's services may differ a little; beyond this an event time is not believed.
_FUTURE_MS = 600_000
_HOT_EVENTS = 60_000  # per generation; two generations are kept: about 8 MB
_OPENED_BATCHES = 256  # id sets of batches opened for comparison

Spans = list[tuple[int, int, int]]  # bucket, first and last millisecond within it


@dataclass(slots=True)
class Fingerprint:
    """What deduplication needs to know of one batch, computed outside the writer's thread."""

    hashes: set[int]
    identities: list[bytes]
    limit: int  # milliseconds; event times above are not believed
    newest: int  # milliseconds; 0 when no event has a believable time
    oldest: int | None  # None when some event has no believable time
    spans: Spans = field(default_factory=list)

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


def fingerprint(batch: Batch) -> Fingerprint:
    """Take a batch's fingerprint: one pass for hashes, one for times."""
    identities = _identities(batch.lines or batch.body.split(b"\n")[:-1])
    hashes = set(map(hash, identities))
    limit = int(batch.received_at * 1000) + _FUTURE_MS
    stamps = event_stamps(identities)
    if stamps is not None and (newest := int(max(stamps))) <= limit:
        oldest = int(min(stamps))
        taken = Fingerprint(hashes, identities, limit, newest, oldest)
        if oldest >> _BUCKET_BITS == newest >> _BUCKET_BITS:
            taken.spans = [(oldest >> _BUCKET_BITS, oldest & _BUCKET_MASK, newest & _BUCKET_MASK)]
            return taken
    else:
        times = [time for i in identities if (time := event_time(i)) is not None and time <= limit]
        complete = len(times) == len(identities)
        taken = Fingerprint(
            hashes, identities, limit, max(times, default=0), min(times) if complete else None
        )
    taken.spans = _spans(map(taken.bucket, range(len(identities))))
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


class Deduplicator:
    """The hot set and the search behind it. Used in the writer's thread only."""

    def __init__(
        self,
        load_ids: Callable[[sqlite3.Connection, int], list[str] | None],
        before_search: Callable[[sqlite3.Connection], None],
    ) -> None:
        self._load_ids = load_ids  # ids of a stored batch or tombstone; None when it is gone
        self._before_search = before_search  # writes rows still staged, so that they are found
        self._opened: OrderedDict[int, frozenset[str]] = OrderedDict()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next events are looked up in the tables."""
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._young_newest: dict[int, int] = {}
        self._old_newest: dict[int, int] = {}
        self._floor: dict[int, int] = {}
        self._opened.clear()

    def duplicates(
        self, connection: sqlite3.Connection, source: int, prints: Sequence[Fingerprint], since: float
    ) -> list[frozenset[int]]:
        """The indices of events accepted before, at or after *since*, for each batch of a request."""
        floor = self._floor.get(source)
        if floor is None:
            floor = self._floor[source] = _newest_event_time(connection, source)
        found = []
        for each in prints:
            if each.oldest is not None and each.oldest > floor and self._is_new(source, each, each.oldest):
                found.append(frozenset[int]())
            else:
                self._before_search(connection)
                found.append(self._search(connection, source, each, floor, since))
        return found

    def _is_new(self, source: int, each: Fingerprint, oldest: int) -> bool:
        """Whether nothing hot is like these events; a generation that is older altogether is not asked."""
        return (oldest > self._young_newest.get(source, 0) or each.hashes.isdisjoint(self._young)) and (
            oldest > self._old_newest.get(source, 0) or each.hashes.isdisjoint(self._old)
        )

    def remember(self, source: int, prints: Sequence[Fingerprint]) -> None:
        """These events are about to be stored."""
        for each in prints:
            self._young |= each.hashes
            self._young_newest[source] = max(self._young_newest.get(source, 0), each.newest)
        if len(self._young) >= _HOT_EVENTS:
            for key, newest in self._old_newest.items():
                self._floor[key] = max(self._floor.get(key, 0), newest)
            self._old, self._young = self._young, set()
            self._old_newest, self._young_newest = self._young_newest, {}

    def _search(
        self, connection: sqlite3.Connection, source: int, each: Fingerprint, floor: int, since: float
    ) -> frozenset[int]:
        ids = event_ids(each.identities)
        spans = {bucket: (first, last) for bucket, first, last in each.spans}
        known: dict[int, list[frozenset[str]]] = {}
        found = set()
        for index, event_id in enumerate(ids):
            time = each.time(index)
            value = hash(each.identities[index])
            if time is not None and time > floor and value not in self._young and value not in self._old:
                continue
            bucket, _ = each.bucket(index)
            if bucket not in known:
                low, high = spans[bucket]
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
    row: Mapping[int, int | None] | None = connection.execute(
        "SELECT bucket, max(last) FROM event_times WHERE source=? AND bucket=("
        " SELECT max(bucket) FROM event_times WHERE source=? AND bucket>=0)",
        (source, source),
    ).fetchone()
    if row is None or row[0] is None:
        return 0
    return (row[0] << _BUCKET_BITS) | (row[1] or 0)
