"""Recognising events that were accepted before: the log itself is the index.

Keeping every id for a week would cost more than the events. Nearly every event is newer than all that
came before, which `recent` sees without looking anything up. What is left - a retry, a replay, whatever
comes right after a restart - is looked up here, inside the transaction that appends, so that no two
requests can slip past each other: `event_times` names the few batches with events in the same
span of event time, and these are opened and compared by name.

An event with the id of a stored one is the same. One that only says the same (`relay.queue.dedup.opened`) is
the same where nobody looks at signatures, and otherwise where the stored one's is good. That is for a judge
outside of the transaction: what he has to be asked is handed back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from relay import gzipped
from relay.queue.dedup.fingerprint import Fingerprint
from relay.queue.dedup.names import Names
from relay.queue.dedup.opened import LastOpened, Opened
from relay.queue.sqlite.rows import COLUMNS, BatchRow
from relay.queue.sqlite.spans import BUCKET_MASK, Spans


@dataclass(frozen=True, slots=True)
class Quest:
    """What is looked for."""

    source: int
    at: float  # when the request was received; seconds since the epoch
    since: float  # what was accepted before does not count
    ids: AbstractSet[str]  # of all events of the request
    vouched: Mapping[bytes, bool] | None  # which stored lines are signed; None: nobody checks


@dataclass(slots=True)
class Known:
    """What was found of a batch's events."""

    indices: set[int] = field(default_factory=set)  # of those accepted before
    undecided: set[bytes] = field(default_factory=set)  # stored lines that decide of others, once judged


_Candidates = Mapping[int, Opened]
"""Batches that may hold one of the events, by their sequence."""


class Search:
    """Looks suspicious batches up. Used in the writer's thread only."""

    def __init__(self) -> None:
        self._opened = LastOpened()

    def reset(self) -> None:
        """Sequences of a transaction that was rolled back will be given to other batches."""
        self._opened = LastOpened()

    def known(
        self, connection: sqlite3.Connection, quest: Quest, each: Fingerprint, spans: Spans, names: Names
    ) -> Known:
        """The events of a batch of the request that were accepted before."""
        rows = {bucket: (first, last) for bucket, first, last in spans.rows}
        opened: dict[int, _Candidates] = {}
        held: dict[int, Opened | None] = {}  # of all of them: a batch of many buckets is opened once
        texts = _Texts(connection)
        known = Known()
        for index, (event_id, content) in enumerate(zip(names.ids, names.contents, strict=True)):
            bucket = spans.bucket(each.lines[index])
            if bucket not in opened:
                low, high = rows.get(bucket, (0, BUCKET_MASK))
                opened[bucket] = self._candidates(connection, quest, bucket, low, high, held)
            batches = opened[bucket]
            if any(event_id in batch.ids for batch in batches.values()):
                known.indices.add(index)
                continue
            alike = {
                sequence: batch
                for sequence, batch in batches.items()
                if batch.says(content, at=quest.at, request=quest.ids)
            }
            if alike:
                vouched = quest.vouched
                copies = [] if vouched is None else texts.of(alike, content)
                if vouched is None or any(vouched.get(line) for line in copies):
                    known.indices.add(index)
                else:
                    known.undecided.update([line for line in copies if line not in vouched])
        return known

    def _candidates(
        self,
        connection: sqlite3.Connection,
        quest: Quest,
        bucket: int,
        low: int,
        high: int,
        held: dict[int, Opened | None],
    ) -> _Candidates:
        """All batches with events of the bucket between *low* and *high*."""
        rows = connection.execute(
            "SELECT e.sequence FROM event_times e"
            " LEFT JOIN batches b USING (sequence) LEFT JOIN tombstones t USING (sequence)"
            " WHERE e.source=? AND e.bucket=? AND e.first<=? AND e.last>=?"
            " AND coalesce(b.received_at, t.received_at)>=?",
            (quest.source, bucket, high, low, quest.since),
        ).fetchall()
        for (sequence,) in rows:
            if sequence not in held:
                held[sequence] = self._open(connection, sequence)
        return {sequence: batch for (sequence,) in rows if (batch := held[sequence]) is not None}

    def _open(self, connection: sqlite3.Connection, sequence: int) -> Opened | None:
        """None when it is gone or broken."""
        opened = self._opened.get(sequence)
        if opened is None and (opened := _load(connection, sequence)) is not None:
            self._opened.put(sequence, opened)
        return opened


class _Texts:
    """Stored lines by what they say, for the length of one search."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lines: dict[int, dict[str, bytes]] = {}

    def of(self, batches: _Candidates, content: str) -> list[bytes]:
        """The lines of that name; none of batches of which only names are left."""
        for sequence, batch in batches.items():
            if sequence not in self._lines:
                row = _row(self._connection, sequence)
                lines = () if row is None or not row.intact else row.lines()
                self._lines[sequence] = dict(zip(batch.contents, lines, strict=False))
        found = [self._lines[sequence].get(content) for sequence in batches]
        return [line for line in found if line is not None]


def names_at(connection: sqlite3.Connection, sequence: int) -> Names | None:
    """The names of a batch's events; None when it is broken."""
    row = _row(connection, sequence)
    return None if row is None or not row.intact else row.names()


def _load(connection: sqlite3.Connection, sequence: int) -> Opened | None:
    row = _row(connection, sequence)
    if row is not None:
        return Opened.of(row.received_at, row.names()) if row.intact else None
    kept = connection.execute(
        "SELECT received_at, ids FROM tombstones WHERE sequence=?", (sequence,)
    ).fetchone()
    if kept is None:
        return None
    received_at, packed = kept
    return Opened.remembered(received_at, gzipped.decompress(packed).decode().split(" "))


def _row(connection: sqlite3.Connection, sequence: int) -> BatchRow | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM batches WHERE sequence=?", (sequence,)).fetchone()
    return None if row is None else BatchRow(*row)
