"""Recognising events that were accepted before: the log itself is the index.

Keeping every id for a week would cost more than the events. Nearly every event is newer than all that
came before, which `recent` sees without looking anything up. What is left - a retry, a replay, whatever
comes right after a restart - is looked up here, inside the transaction that appends, so that no two
requests can slip past each other: `event_times` names the few batches with events in the same
span of event time, and these are opened and compared by name.

An event with the id of a stored one is the same. One that only says the same is the same where nobody looks
at signatures, and otherwise where the stored one's is good. That is for a judge outside of the transaction:
what he has to be asked is handed back.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relay import gzipped
from relay.queue.dedup.fingerprint import Fingerprint
from relay.queue.dedup.names import Names
from relay.queue.sqlite.rows import COLUMNS, BatchRow
from relay.queue.sqlite.spans import BUCKET_MASK, Spans

_OPENED_BATCHES = 256  # names of batches opened for comparison are kept


@dataclass(frozen=True, slots=True)
class _Opened:
    """A batch that may hold one of the events."""

    sequence: int
    ids: frozenset[str]
    contents: frozenset[str]


@dataclass(slots=True)
class Known:
    """What was found of a batch's events."""

    indices: set[int] = field(default_factory=set)  # of those accepted before
    undecided: set[bytes] = field(default_factory=set)  # stored lines that decide of others, once judged


class Search:
    """Looks suspicious batches up. Used in the writer's thread only."""

    def __init__(self) -> None:
        self._opened: OrderedDict[int, _Opened] = OrderedDict()

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
        names: Names,
        vouched: Mapping[bytes, bool] | None,
    ) -> Known:
        """The events accepted before, at or after *since* (seconds since the epoch).

        *vouched*: what is known of the signatures of stored lines; None where nobody checks any.
        """
        rows = {bucket: (first, last) for bucket, first, last in spans.rows}
        opened: dict[int, list[_Opened]] = {}
        texts = _Texts(connection)
        known = Known()
        for index, (event_id, content) in enumerate(zip(names.ids, names.contents, strict=True)):
            bucket = spans.bucket(each.lines[index])
            if bucket not in opened:
                low, high = rows.get(bucket, (0, BUCKET_MASK))
                opened[bucket] = self._candidates(connection, source, bucket, low, high, since)
            if any(event_id in batch.ids for batch in opened[bucket]):
                known.indices.add(index)
            elif alike := [batch.sequence for batch in opened[bucket] if content in batch.contents]:
                copies = [] if vouched is None else texts.of(alike, content)
                if vouched is None or any(vouched.get(line) for line in copies):
                    known.indices.add(index)
                else:
                    known.undecided.update([line for line in copies if line not in vouched])
        return known

    def _candidates(
        self, connection: sqlite3.Connection, source: int, bucket: int, low: int, high: int, since: float
    ) -> list[_Opened]:
        """All batches with events of the bucket between *low* and *high*."""
        rows = connection.execute(
            "SELECT e.sequence FROM event_times e"
            " LEFT JOIN batches b USING (sequence) LEFT JOIN tombstones t USING (sequence)"
            " WHERE e.source=? AND e.bucket=? AND e.first<=? AND e.last>=?"
            " AND coalesce(b.received_at, t.received_at)>=?",
            (source, bucket, high, low, since),
        ).fetchall()
        return [found for (sequence,) in rows if (found := self._open(connection, sequence)) is not None]

    def _open(self, connection: sqlite3.Connection, sequence: int) -> _Opened | None:
        opened = self._opened.get(sequence)
        if opened is None:
            names = load(connection, sequence)
            if names is None:
                return None
            opened = _Opened(sequence, frozenset(names.ids), frozenset(names.contents))
            self._opened[sequence] = opened
            if len(self._opened) > _OPENED_BATCHES:
                self._opened.popitem(last=False)
        else:
            self._opened.move_to_end(sequence)
        return opened


class _Texts:
    """Stored lines by what they say, for the length of one search."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lines: dict[int, dict[str, bytes]] = {}

    def of(self, sequences: Sequence[int], content: str) -> list[bytes]:
        """The lines of that name; none of batches of which only names are left."""
        for sequence in sequences:
            if sequence not in self._lines:
                row = _row(self._connection, sequence)
                self._lines[sequence] = {} if row is None or not row.intact else row.by_content()
        found = [self._lines[sequence].get(content) for sequence in sequences]
        return [line for line in found if line is not None]


def load(connection: sqlite3.Connection, sequence: int) -> Names | None:
    """The names of a batch's events; None when it is gone or broken.

    Of a tombstone all its names are in both places: they cannot be told apart, and need not be.
    """
    row = _row(connection, sequence)
    if row is not None:
        return row.names() if row.intact else None
    kept = connection.execute("SELECT ids FROM tombstones WHERE sequence=?", (sequence,)).fetchone()
    if kept is None:
        return None
    names = gzipped.decompress(kept[0]).decode().split(" ")
    return Names(names, names)


def _row(connection: sqlite3.Connection, sequence: int) -> BatchRow | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM batches WHERE sequence=?", (sequence,)).fetchone()
    return None if row is None else BatchRow(*row)
