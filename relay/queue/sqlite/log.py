"""Appending: the part of the queue that runs inside the writer's transactions.

Gives sequences, drops duplicates, and writes the rows of a whole group with a few statements: each
statement lets go of the interpreter lock and has to win it back from a busy event loop.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from relay.batch import StoredBatch
from relay.model import Batch, Format, Receipt
from relay.queue.dedup.fingerprint import Fingerprint, ordinals
from relay.queue.dedup.names import names_of
from relay.queue.dedup.parts import with_lines
from relay.queue.sqlite.dedup import Known, Quest, Search
from relay.queue.sqlite.rows import COLUMNS, BatchRow, make_row
from relay.queue.sqlite.spans import Spans

# SQLite takes 32,766 variables a statement; a few dozen rows amortise its cost well enough.
_ROWS_A_STATEMENT = 32


@dataclass(frozen=True, slots=True)
class Request:
    """The batches of one request, with their fingerprints where the source deduplicates."""

    source: int
    source_name: str
    batches: Sequence[Batch]
    prints: Sequence[Fingerprint]
    spans: Sequence[Spans]  # where its events are to be found again; empty where that is not wanted
    suspicious: bool  # some of its events may have been accepted before
    since: float  # events accepted before this time (seconds since the epoch) are no duplicates
    vouched: Mapping[bytes, bool] | None = None  # which stored lines are signed; None: nobody checks


@dataclass(frozen=True, slots=True)
class Undecided:
    """Nothing was appended: what is new of the request depends on the signatures of these stored lines."""

    lines: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a request, ready for the readers once it is committed."""

    receipt: Receipt
    stored: tuple[StoredBatch, ...]
    formats: tuple[tuple[Format, int], ...]
    payload_bytes: int


class EventLog:
    """The tail of the log. Lives in the writer's thread; a `writer.Stage`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._next = self._committed_next = next_sequence(connection)
        self._rows: list[BatchRow] = []
        self._staged = 0  # batches of the transaction at hand
        self._times: list[tuple[int, int, int, int, int]] = []
        self._search = Search()

    def append(self, connection: sqlite3.Connection, request: Request) -> Appended | Undecided:
        """Stage a request's batches, without the events that were accepted before where that is suspected."""
        total = sum(batch.count for batch in request.batches)
        numbered = ordinals(request.prints) if request.suspicious or len(request.prints) > 1 else None
        found = self._known(connection, request, numbered) if request.suspicious else ()
        if undecided := frozenset().union(*[known.undecided for known in found]):
            return Undecided(undecided)
        kept = []
        for n, batch in enumerate(request.batches):
            numbers = numbered[n] if numbered else None
            known = found[n].indices if found else ()
            if len(known) == batch.count:
                continue
            if known:
                batch, numbers = _without(batch, request.prints[n], known, numbers)
            kept.append((batch, request.spans[n] if request.spans else None, numbers))
        # Staged only now, so that twins in two batches of this request do not find each other.
        return _appended([self._store(request, *each) for each in kept], total)

    def _known(
        self, connection: sqlite3.Connection, request: Request, numbered: list[list[int]] | None
    ) -> Sequence[Known]:
        """What of each batch was accepted before."""
        self.flush(connection)  # requests earlier in this transaction must be found, too
        twins: Counter[str] = Counter()
        names = [
            names_of(each.lines, numbered[n] if numbered else None, pulled=each.pulled, twins=twins)
            for n, each in enumerate(request.prints)
        ]
        quest = Quest(
            source=request.source,
            at=request.batches[0].received_at,
            since=request.since,
            ids=frozenset().union(*[each.ids for each in names]),
            vouched=request.vouched,
        )
        return [
            self._search.known(connection, quest, each, request.spans[n], names[n])
            for n, each in enumerate(request.prints)
        ]

    def _store(
        self, request: Request, batch: Batch, spans: Spans | None, numbers: list[int] | None
    ) -> tuple[Batch, StoredBatch]:
        row = make_row(self._next, request.source, batch, numbers)
        self._rows.append(row)
        self._staged += 1
        if spans is not None:
            # Of all its events, dropped ones too: too wide a span only costs a comparison.
            self._times += [(row.source, bucket, row.sequence, lo, hi) for bucket, lo, hi in spans.rows]
        self._next += row.events
        stored = StoredBatch(
            sequence=row.sequence,
            source=request.source_name,
            received_at=batch.received_at,
            count=row.events,
            payload=batch.payload,
            ordinals=numbers,
            pulled=batch.pulled,
            body=batch.body,
        )
        return batch, stored

    def flush(self, connection: sqlite3.Connection) -> None:
        _insert(connection, f"INSERT INTO batches ({COLUMNS})", self._rows)
        _insert(connection, "INSERT INTO event_times (source, bucket, sequence, first, last)", self._times)
        self._rows.clear()
        self._times.clear()

    def committed(self) -> int:
        self._committed_next = self._next
        batches, self._staged = self._staged, 0
        return batches

    def rolled_back(self) -> None:
        self._rows.clear()
        self._times.clear()
        self._staged = 0
        if self._next != self._committed_next:
            self._next = self._committed_next
            self._search.reset()


def _insert(connection: sqlite3.Connection, head: str, rows: Sequence[tuple[object, ...]]) -> None:
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        some = rows[start : start + _ROWS_A_STATEMENT]
        marks = "(" + ",".join("?" * len(some[0])) + ")"
        values = [value for row in some for value in row]
        connection.execute(f"{head} VALUES {','.join([marks] * len(some))}", values)


def _without(
    batch: Batch, each: Fingerprint, known: Collection[int], numbers: list[int] | None
) -> tuple[Batch, list[int] | None]:
    """The batch without the events at the indices *known*; twins keep the ordinals they had."""
    keep = [i for i in range(len(each.lines)) if i not in known]
    return with_lines(batch, [each.lines[i] for i in keep]), [numbers[i] for i in keep] if numbers else None


def _appended(kept: Sequence[tuple[Batch, StoredBatch]], total: int) -> Appended:
    formats: dict[Format, int] = {}
    for batch, _ in kept:
        for name, n in batch.formats:
            formats[name] = formats.get(name, 0) + n
    accepted = sum(formats.values())
    return Appended(
        receipt=Receipt(accepted, total - accepted),
        stored=tuple(stored for _, stored in kept),
        formats=tuple(formats.items()),
        payload_bytes=sum(len(batch.payload) for batch, _ in kept),
    )


def next_sequence(connection: sqlite3.Connection) -> int:
    """The number the next event gets, at least 1. Events that are gone have left their mark elsewhere."""
    last = connection.execute(f"SELECT {COLUMNS} FROM batches ORDER BY sequence DESC LIMIT 1").fetchone()
    behind = connection.execute(
        "SELECT max(coalesce((SELECT max(value) FROM meta WHERE key IN ('next_sequence', 'counted_to')), 1),"
        " coalesce((SELECT max(watermark) FROM readers WHERE kind='live'), 1),"
        " coalesce((SELECT max(start) FROM destinations), 1))"
    ).fetchone()[0]
    return max(int(behind), 1 if last is None else end_of(BatchRow(*last)))


def end_of(row: BatchRow) -> int:
    """The number behind a batch's last event; of a broken row nothing but its place is believed."""
    return row.sequence + (row.events if row.intact else 1)
