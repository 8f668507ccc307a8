"""Recognising events that were accepted before: the log itself is the index.

Keeping every id for a week would cost more than the events. Nearly every event is newer than all that
came before, which `recent` sees without looking anything up. What is left - a retry, a replay, whatever
comes right after a restart - is looked up here, inside the transaction that appends, so that no two
requests can slip past each other: `event_times` names the few batches with events in the same
span of event time, and these are opened and compared by full event id.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict

from relay import gzipped
from relay.konnect.lines import event_ids
from relay.queue.dedup.fingerprint import Fingerprint
from relay.queue.sqlite.rows import COLUMNS, BatchRow
from relay.queue.sqlite.spans import BUCKET_MASK, Spans

_OPENED_BATCHES = 256  # id sets of batches opened for comparison are kept


class Search:
    """Looks suspicious batches up. Used in the writer's thread only."""

    def __init__(self) -> None:
        self._opened: OrderedDict[int, frozenset[str]] = OrderedDict()

    def reset(self) -> None:
        """Sequences of a transaction that was rolled back will be given to other batches."""
        self._opened.clear()

    def known(
        self,
        connection: sqlite3.Connection,
        source: int,
        each: Fingerprint,
        spans: Spans,
        since: float,
        ordinals: list[int] | None,
    ) -> frozenset[int]:
        """The indices of events accepted before, at or after *since* (seconds since the epoch)."""
        rows = {bucket: (first, last) for bucket, first, last in spans.rows}
        opened: dict[int, list[frozenset[str]]] = {}
        found = set()
        for index, event_id in enumerate(event_ids(each.lines, ordinals, pulled=each.pulled)):
            bucket = spans.bucket(each.lines[index])
            if bucket not in opened:
                low, high = rows.get(bucket, (0, BUCKET_MASK))
                opened[bucket] = self._candidates(connection, source, bucket, low, high, since)
            if any(event_id in ids for ids in opened[bucket]):
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
            loaded = load_ids(connection, sequence)
            if loaded is None:
                return None
            ids = self._opened[sequence] = frozenset(loaded)
            if len(self._opened) > _OPENED_BATCHES:
                self._opened.popitem(last=False)
        else:
            self._opened.move_to_end(sequence)
        return ids


def load_ids(connection: sqlite3.Connection, sequence: int) -> list[str] | None:
    """The event ids of a batch or of its tombstone; None when both are gone or the batch is broken."""
    row = connection.execute(f"SELECT {COLUMNS} FROM batches WHERE sequence=?", (sequence,)).fetchone()
    if row is not None:
        batch = BatchRow(*row)
        return batch.ids() if batch.intact else None
    row = connection.execute("SELECT ids FROM tombstones WHERE sequence=?", (sequence,)).fetchone()
    return None if row is None else gzipped.decompress(row[0]).decode().split(" ")
