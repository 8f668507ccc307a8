"""The rows of the queue's file in the neutral form of a move, and back.

Knows every table and nothing of locks, names of files or the order of a move: see `moving`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final, assert_never

from relay import gzipped
from relay.model import Gap, ReaderKind, RetryState
from relay.queue.base import StoredDeadLetter
from relay.queue.belongings import (
    DestinationBooks,
    Inventory,
    Item,
    MovedBatch,
    MovedReader,
    Part,
    Quarantined,
    Remembered,
    SourceBooks,
)
from relay.queue.dedup.fingerprint import fingerprint
from relay.queue.sqlite import deadletters, gaps
from relay.queue.sqlite.accounts import Account, load_accounts
from relay.queue.sqlite.log import next_sequence
from relay.queue.sqlite.rows import COLUMNS, MARKS, BatchRow, decode_formats, decode_ordinals, make_row
from relay.queue.sqlite.spans import BUCKET_BITS, BUCKET_MASK, spans_of
from relay.queue.sqlite.totals import Totals

_TABLES: Final = {
    Part.BATCHES: "batches",
    Part.REMEMBERED: "tombstones",
    Part.DEAD_LETTERS: "dead_letters",
    Part.QUARANTINED: "quarantine",
}
_LETTERS: Final = (
    f"SELECT {deadletters.COLUMNS} FROM dead_letters l NOT INDEXED"
    " CROSS JOIN destinations d ON d.id = l.destination WHERE l.reader IS {} ORDER BY l.id"
)


# -- reading -----------------------------------------------------------------------------------


def read_inventory(c: sqlite3.Connection) -> Inventory:
    """Everything that is small."""
    head = next_sequence(c)
    stored = next((batch.number for batch in _batches(c)), head)
    destinations = tuple(_destination(c, account, stored) for account in load_accounts(c).values())
    owed = [r.watermark for d in destinations for r in d.readers if r.kind is not ReaderKind.REDRIVE]
    return Inventory(
        head=head,
        first=min([stored, *owed]),
        sources=tuple(_sources(c)),
        destinations=destinations,
        gaps=tuple(_gaps(c)),
        alive_at=gaps.read_alive(c),
        sizes=sizes(c),
    )


def sizes(c: sqlite3.Connection) -> dict[Part, int]:
    """How many rows there are of each part."""
    return {part: c.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for part, name in _TABLES.items()}


def _sources(c: sqlite3.Connection) -> Iterator[SourceBooks]:
    totals = Totals(c).all
    for (name,) in c.execute("SELECT name FROM sources ORDER BY name").fetchall():
        accepted = sorted((each, n) for (source, each), n in totals.accepted.items() if source == name)
        yield SourceBooks(name, tuple(accepted), totals.duplicates[name], totals.last_received.get(name))


def _gaps(c: sqlite3.Connection) -> Iterator[Gap]:
    for number, gap in enumerate(gaps.read(c), start=1):
        yield replace(gap, id=number)


def _destination(c: sqlite3.Connection, account: Account, stored: int) -> DestinationBooks:
    return DestinationBooks(
        name=account.name,
        start=account.start,
        backfilled=account.backfilled,
        delivered=account.delivered,
        delivered_bytes=account.delivered_bytes,
        filtered=account.filtered,
        dead=account.dead,
        discarded=account.discarded,
        replayed=account.replayed,
        dead_by_reason=tuple(sorted(account.dead_by_reason.items())),
        hold=account.hold,
        readers=tuple(_readers(c, account.id, stored)),
    )


def _readers(c: sqlite3.Connection, destination: int, stored: int) -> Iterator[MovedReader]:
    rows = c.execute(
        "SELECT kind, start, watermark, stop, rate, attempts, next_at,"
        " (SELECT count(*) FROM dead_letters l WHERE l.reader = readers.id)"
        " FROM readers WHERE destination=? ORDER BY id",
        (destination,),
    )
    for kind, start, watermark, stop, rate, attempts, next_at, left in rows:
        kind = ReaderKind(kind)
        if kind is ReaderKind.REPLAY:
            # A replay holds nothing back: what was purged before it is no longer to be sent, though a
            # relay that crashed has not noted that yet.
            watermark = max(watermark, min(stored, stop))
        yield MovedReader(kind, start, watermark, stop, rate, RetryState(attempts, next_at), left)


def read(c: sqlite3.Connection, part: Part) -> Iterator[Item]:
    """All items of a part."""
    match part:
        case Part.BATCHES:
            return _batches(c)
        case Part.REMEMBERED:
            return _remembered(c)
        case Part.DEAD_LETTERS:
            return _dead_letters(c)
        case Part.QUARANTINED:
            return _quarantined(c)
    assert_never(part)


def _batches(c: sqlite3.Connection) -> Iterator[MovedBatch]:
    names = dict(c.execute("SELECT id, name FROM sources").fetchall())
    indexed = {source for (source,) in c.execute("SELECT DISTINCT source FROM event_times")}
    for row in map(BatchRow._make, c.execute(f"SELECT {COLUMNS} FROM batches ORDER BY sequence")):
        if row.intact:
            ordinals = () if row.ordinals is None else decode_ordinals(row.ordinals)
            yield MovedBatch(
                number=row.sequence,
                source=names.get(row.source, "unknown"),
                received_at=row.received_at,
                formats=tuple(decode_formats(row.formats, row.events)),
                payload=row.payload,
                ordinals=tuple(ordinals) if any(ordinals) else None,
                deduplicated=row.source in indexed,
                pulled=bool(row.pulled),
            )


def _remembered(c: sqlite3.Connection) -> Iterator[Remembered]:
    rows = c.execute(
        "SELECT t.sequence, t.received_at, s.name, e.bucket, e.first, e.last"
        " FROM tombstones t JOIN event_times e USING (sequence) JOIN sources s ON s.id = e.source"
        " ORDER BY t.sequence DESC, e.bucket"
    )
    for (number, received_at, source), places in groupby(rows, key=lambda row: row[:3]):
        times, untimed = [], []
        for _, _, _, bucket, first, last in places:
            if bucket < 0:
                untimed.append(-1 - bucket)
            else:
                times.append((bucket << BUCKET_BITS | first, bucket << BUCKET_BITS | last))
        data = c.execute("SELECT ids FROM tombstones WHERE sequence=?", (number,)).fetchone()[0]
        ids = tuple(gzipped.decompress(data).decode().split())
        yield Remembered(source, received_at, ids, tuple(times), tuple(untimed))


def _dead_letters(c: sqlite3.Connection) -> Iterator[StoredDeadLetter]:
    # By the table's own order, in two passes: sorting them would hold every line in memory.
    for marked in ("NOT NULL", "NULL"):
        for row in c.execute(_LETTERS.format(marked)):
            yield replace(deadletters.letter_of(row), id=0)


def _quarantined(c: sqlite3.Connection) -> Iterator[Quarantined]:
    for row in c.execute(
        "SELECT created_at, source, cause, body, sequence, count FROM quarantine ORDER BY id"
    ):
        yield Quarantined(*row)


# -- writing -----------------------------------------------------------------------------------


def write_inventory(c: sqlite3.Connection, inventory: Inventory) -> None:
    """Everything that is small, into an empty queue."""
    for source in inventory.sources:
        number = _source_number(c, source.name)
        c.execute("UPDATE sources SET duplicates=? WHERE id=?", (source.duplicates, number))
        c.executemany(
            "INSERT INTO accepted VALUES (?,?,?)", [(number, name.value, n) for name, n in source.accepted]
        )
        if source.last_received is not None:
            c.execute("INSERT INTO meta VALUES (?,?)", (f"last_received:{source.name}", source.last_received))
    # The counts are true of all events that are about to come, and no number is given out twice.
    c.executemany(
        "INSERT INTO meta VALUES (?,?)", [(key, inventory.head) for key in ("counted_to", "next_sequence")]
    )
    gaps.Gaps.write(c, list(inventory.gaps))
    if inventory.alive_at is not None:
        c.execute("INSERT INTO meta VALUES (?,?)", (gaps.ALIVE, inventory.alive_at))
    for destination in inventory.destinations:
        _write_destination(c, destination)


def _write_destination(c: sqlite3.Connection, it: DestinationBooks) -> None:
    hold = (it.hold.reason.value, it.hold.since, it.hold.detail) if it.hold else (None, None, None)
    number = c.execute(
        "INSERT INTO destinations (name, start, backfilled, delivered, delivered_bytes, filtered, dead,"
        " discarded, replayed, hold_reason, hold_since, hold_detail) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"
        " RETURNING id",
        (
            it.name,
            it.start,
            it.backfilled,
            it.delivered,
            it.delivered_bytes,
            it.filtered,
            it.dead,
            it.discarded,
            it.replayed,
            *hold,
        ),
    ).fetchone()[0]
    c.executemany(
        "INSERT INTO dead_letter_totals VALUES (?,?,?)",
        [(number, reason.value, n) for reason, n in it.dead_by_reason],
    )
    c.executemany(
        "INSERT INTO readers (destination, kind, start, stop, watermark, attempts, next_at, rate)"
        " VALUES (?,?,?,?,?,?,?,?)",
        [
            (number, r.kind.value, r.start, r.stop, r.watermark, r.retry.attempts, r.retry.next_at, r.rate)
            for r in it.readers
        ],
    )


def forget(c: sqlite3.Connection) -> None:
    """Delete what is remembered, but not where batches of the log are found. Their numbers are positive."""
    c.execute("DELETE FROM tombstones")
    c.execute("DELETE FROM event_times WHERE sequence < 0")


def write(c: sqlite3.Connection, items: Sequence[Item]) -> None:
    """Add items; those of earlier parts, and the inventory, have to be there."""
    for item in items:
        match item:
            case MovedBatch():
                _write_batch(c, item)
            case Remembered():
                _write_remembered(c, item)
            case StoredDeadLetter():
                _write_dead_letter(c, item)
            case Quarantined():
                c.execute(
                    "INSERT INTO quarantine (created_at, source, cause, body, sequence, count)"
                    " VALUES (?,?,?,?,?,?)",
                    (item.created_at, item.source, item.cause, item.body, item.number, item.count),
                )


def _source_number(c: sqlite3.Connection, name: str) -> int:
    c.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", (name,))
    return int(c.execute("SELECT id FROM sources WHERE name=?", (name,)).fetchone()[0])


def _write_batch(c: sqlite3.Connection, item: MovedBatch) -> None:
    source, batch = _source_number(c, item.source), item.batch()
    row = make_row(item.number, source, batch, list(item.ordinals) if item.ordinals else None)
    c.execute(f"INSERT INTO batches ({COLUMNS}) VALUES ({MARKS})", row)
    if item.deduplicated:
        _write_places(c, source, item.number, spans_of(fingerprint(batch)).rows)


def _write_remembered(c: sqlite3.Connection, item: Remembered) -> None:
    # Numbers of the log belong to batches: a queue that was moved here may have given it other ones.
    number = c.execute("SELECT min(coalesce(min(sequence), 0), 0) - 1 FROM tombstones").fetchone()[0]
    ids = gzipped.compress(" ".join(item.ids).encode())
    c.execute("INSERT INTO tombstones VALUES (?,?,?)", (number, item.received_at, ids))
    places = [(-1 - key, 0, 0) for key in item.untimed]
    for oldest, newest in item.times:
        first, last = oldest >> BUCKET_BITS, newest >> BUCKET_BITS
        for bucket in range(first, last + 1):
            low = oldest & BUCKET_MASK if bucket == first else 0
            high = newest & BUCKET_MASK if bucket == last else BUCKET_MASK
            places.append((bucket, low, high))
    _write_places(c, _source_number(c, item.source), number, places)


def _write_places(
    c: sqlite3.Connection, source: int, number: int, places: Sequence[tuple[int, int, int]]
) -> None:
    """Where deduplication finds the events of a batch, or of one that is gone: bucket, first and last."""
    c.executemany(
        "INSERT INTO event_times (source, bucket, sequence, first, last) VALUES (?,?,?,?,?)",
        [(source, bucket, number, low, high) for bucket, low, high in places],
    )


def _write_dead_letter(c: sqlite3.Connection, letter: StoredDeadLetter) -> None:
    event = letter.event
    c.execute(
        "INSERT INTO dead_letters (destination, reader, reason, position, count, created_at, status, detail,"
        " excerpt, attempts, event_id, source, received_at, line)"
        " SELECT d.id, CASE WHEN ? THEN (SELECT r.id FROM readers r WHERE r.destination=d.id AND"
        " r.kind='redrive') END, ?,?,?,?,?,?,?,?,?,?,?,? FROM destinations d WHERE d.name=?",
        (
            letter.redriving,
            letter.reason.value,
            letter.position.sequence + letter.position.offset,
            letter.count,
            letter.created_at,
            letter.status,
            letter.detail,
            letter.excerpt,
            letter.attempts,
            *((event.id, event.source, event.received_at, event.line) if event else (None,) * 4),
            letter.destination,
        ),
    )
