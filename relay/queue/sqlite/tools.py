"""Looking into, checking and saving the queue of a stopped relay.

Nothing here runs while a relay does: each function takes both of the queue's locks first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay import gzipped
from relay.errors import NotFound, QueueCorrupt, QueueError
from relay.queue.sqlite.database import (
    FileLock,
    connect,
    is_disk_trouble,
    open_database,
    require_current,
    translate,
)
from relay.queue.sqlite.log import next_sequence
from relay.queue.sqlite.rows import COLUMNS, MARKS, BatchRow

_SIDE_FILES = ("", "-wal", "-shm")
_LEFT_OVER = (*_SIDE_FILES, ".open.lock")  # of a repair, once its file is in the old one's place


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found. Everything in order means *ok*."""

    ok: bool
    batches: int
    events: int
    corrupt_batches: list[int]  # sequences whose checksum or content is wrong
    missing_events: int  # numbers no batch holds although some destination still needs them
    structure: list[str]  # what SQLite's integrity check says, empty when it is content
    books: list[str]  # destinations whose figures do not add up


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What `repair` saved."""

    kept_as: str  # where the old file is now
    batches_saved: int
    batches_quarantined: int  # readable, but failing their checksum
    batches_unreadable: int
    rows_unreadable: int  # in the other tables


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise NotFound(f"there is no queue at {path}")
    lock = FileLock(path, "all")
    try:
        with closing(connect(path)) as connection:
            require_current(connection, path)
            yield connection
    except sqlite3.Error as error:
        advice = "" if is_disk_trouble(error) else "; `queue repair` saves what is readable"
        raise translate(error, f"cannot read {path}{advice}") from error
    finally:
        lock.release()


def inspect(path: Path) -> dict[str, Any]:
    """What the file holds, as one JSON-able document. Raises `QueueError` or `NotFound`."""
    with _opened(path) as c:
        pages, free, size, version = (
            c.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size", "user_version")
        )
        batches, events, oldest, newest = c.execute(
            "SELECT count(*), coalesce(sum(count), 0), min(received_at), max(received_at) FROM batches"
        ).fetchone()
        head = next_sequence(c)
        return {
            "path": str(path),
            "schema_version": version,
            "bytes": pages * size,
            "free_bytes": free * size,
            "batches": batches,
            "events": events,
            "oldest_received_at": oldest,
            "newest_received_at": newest,
            "next_event": head,
            "accepted": _rows(
                c,
                "SELECT s.name AS source, a.format, a.events FROM accepted a"
                " JOIN sources s ON s.id = a.source",
            ),
            "destinations": _rows(
                c,
                "SELECT d.name, ?-d.start+d.backfilled AS owed, d.delivered, d.filtered, d.dead, d.discarded,"
                " d.replayed, d.hold_reason, d.hold_detail FROM destinations d ORDER BY d.id",
                head,
            ),
            "readers": _rows(
                c,
                "SELECT r.id, d.name AS destination, r.kind, r.watermark, r.attempts, r.next_at,"
                " CASE r.kind WHEN 'redrive' THEN"
                "  (SELECT count(*) FROM dead_letters l WHERE l.reader = r.id)"
                "  ELSE coalesce(r.stop, ?) - r.watermark END AS backlog"
                " FROM readers r JOIN destinations d ON d.id = r.destination ORDER BY r.id",
                head,
            ),
            "dead_letters": _rows(
                c,
                "SELECT d.name AS destination, l.reason, sum(l.count) AS events FROM dead_letters l"
                " JOIN destinations d ON d.id = l.destination GROUP BY 1, 2",
            ),
            "quarantine": _rows(
                c, "SELECT id, created_at, source, cause, sequence, length(body) AS bytes FROM quarantine"
            ),
            "open_gaps": _rows(
                c, "SELECT source, start, end, cause, refusals FROM gaps WHERE closed_at IS NULL"
            ),
        }


def _rows(connection: sqlite3.Connection, sql: str, *parameters: object) -> list[dict[str, Any]]:
    cursor = connection.execute(sql, parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def verify(path: Path) -> VerifyReport:
    """Check structure, every batch, and the books; changes nothing. Raises `QueueError` or `NotFound`."""
    with _opened(path) as c:
        try:
            return _verify(c)
        except sqlite3.DatabaseError as error:  # damage that even the integrity check cannot get past
            return VerifyReport(False, 0, 0, [], 0, [str(error)], [])


def _verify(c: sqlite3.Connection) -> VerifyReport:
    structure = [row[0] for row in c.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
    batches = events = 0
    corrupt, missing = [], 0
    needed = c.execute("SELECT min(watermark) FROM readers WHERE kind IN ('live', 'backfill')").fetchone()[0]
    expected = None
    for row in map(BatchRow._make, c.execute(f"SELECT {COLUMNS} FROM batches ORDER BY sequence")):
        batches += 1
        events += row.events
        if not _sound(row):
            corrupt.append(row.sequence)
        if expected is not None and needed is not None and row.sequence > max(expected, needed):
            missing += row.sequence - max(expected, needed)
        expected = row.sequence + row.events
    books = _wrong_books(c)
    ok = not (structure or corrupt or missing or books)
    return VerifyReport(ok, batches, events, corrupt, missing, structure, books)


def _sound(row: BatchRow) -> bool:
    if not row.intact:
        return False
    try:
        return gzipped.decompress(row.payload).count(b"\n") == row.events
    except Exception:  # noqa: BLE001 - whatever the decoder says, the batch is not what was stored
        return False


def _wrong_books(connection: sqlite3.Connection) -> list[str]:
    """Destinations for which `owed = delivered + filtered + dead + discarded + backlog` fails."""
    head = next_sequence(connection)
    rows = connection.execute(
        "SELECT d.name, ?1 - d.start + d.backfilled, d.delivered + d.filtered + d.dead + d.discarded,"
        " (SELECT coalesce(sum(coalesce(r.stop, ?1) - r.watermark), 0) FROM readers r"
        "  WHERE r.destination = d.id AND r.kind IN ('live', 'backfill')),"
        " d.dead, (SELECT coalesce(sum(l.count), 0) FROM dead_letters l WHERE l.destination = d.id)"
        " FROM destinations d",
        (head,),
    )
    wrong = []
    for name, owed, settled, backlog, dead, letters in rows:
        if owed != settled + backlog:
            wrong.append(f"{name}: owes {owed} events, books show {settled} settled and {backlog} waiting")
        if dead != letters:
            wrong.append(f"{name}: books show {dead} dead letters, the table holds {letters}")
    return wrong


def repair(path: Path) -> RepairReport:
    """Write what can be read into a new file and put it in the old one's place, which is kept.

    Batches that fail their checksum go to quarantine; destinations that still needed them find a
    hole and count it as dead letters with reason `corrupt`. Raises `QueueError` or `NotFound`.
    """
    if not path.exists():
        raise NotFound(f"there is no queue at {path}")
    lock = FileLock(path, "all")
    fresh = path.with_name(path.name + ".repaired")
    try:
        _remove(fresh)
        with closing(open_database(fresh)) as new:
            new.execute("PRAGMA foreign_keys=OFF")
            saved, quarantined, unreadable, rows_lost = _save(path, new)
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        kept = _next_free(path)
        for suffix in _SIDE_FILES:
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
        fresh.rename(path)
        return RepairReport(str(kept), saved, quarantined, unreadable, rows_lost)
    except sqlite3.Error as error:
        raise translate(error, f"cannot write {fresh}") from error
    except OSError as error:
        raise QueueError(f"cannot write {fresh}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            _remove(fresh)
        lock.release()


def _remove(fresh: Path) -> None:
    for suffix in _LEFT_OVER:
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)


def _next_free(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return kept


def _save(path: Path, new: sqlite3.Connection) -> tuple[int, int, int, int]:
    saved = quarantined = unreadable = rows_lost = 0
    try:
        old = connect(path)
        require_current(old, path)
    except sqlite3.Error as error:
        trouble = translate(error, f"cannot read {path}")
        if not isinstance(trouble, QueueCorrupt):  # rights or the disk, say: it may be as good as new
            raise trouble from error
        return 0, 0, 0, 0  # not even the header is readable: nothing can be saved
    with closing(old):
        new.execute("BEGIN")
        tables = [row[0] for row in new.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        for table in tables:
            if table != "batches" and not table.startswith("sqlite_"):
                rows_lost += _copy(old, new, table)
        for row in _batches(old):
            if row is None:
                unreadable += 1
            elif row.intact:
                new.execute(f"INSERT INTO batches ({COLUMNS}) VALUES ({MARKS})", row)
                saved += 1
            else:
                new.execute(
                    "INSERT INTO quarantine (created_at, source, cause, sequence, count, body) VALUES"
                    " (?, coalesce((SELECT name FROM sources WHERE id=?), 'unknown'), 'checksum', ?, ?, ?)",
                    (row.received_at, row.source, row.sequence, row.events, row.payload),
                )
                quarantined += 1
        # Numbers must not be given out twice, or a watermark would lie ahead of new events.
        highest = new.execute(
            "SELECT max(coalesce((SELECT max(watermark) FROM readers), 1), coalesce((SELECT max(start) FROM"
            " destinations), 1), coalesce((SELECT value FROM meta WHERE key='counted_to'), 1),"
            " coalesce((SELECT value FROM meta WHERE key='next_sequence'), 1))"
        ).fetchone()[0]
        new.execute("INSERT OR REPLACE INTO meta VALUES ('next_sequence', ?)", (highest,))
        new.execute(
            "INSERT OR REPLACE INTO meta SELECT 'batches', count(*) FROM batches WHERE sequence < coalesce("
            "(SELECT value FROM meta WHERE key='counted_to'), 1)"
        )
        new.execute("COMMIT")
    return saved, quarantined, unreadable, rows_lost


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    """Copy a table's rows from both ends until the damage; 1 when there was any."""
    width = len(new.execute(f"PRAGMA table_info({table})").fetchall())
    marks = ",".join("?" * width)
    damaged = 0
    # A WITHOUT ROWID table has no rowid to order by; its own order from the front has to do.
    for order in ("", " ORDER BY rowid DESC"):
        try:
            for row in old.execute(f"SELECT * FROM {table}{order}"):
                new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
        except sqlite3.Error:
            damaged = 1
            continue
        if not order:
            break
    return damaged


def _batches(old: sqlite3.Connection) -> Iterator[BatchRow | None]:
    """Every batch whose existence is known from either end or from the index; None for an unreadable one."""
    known: set[int] = set()
    for sql in (
        "SELECT sequence FROM batches ORDER BY sequence",
        "SELECT sequence FROM batches ORDER BY sequence DESC",
        "SELECT sequence FROM batches INDEXED BY batches_received_at ORDER BY received_at",
        "SELECT sequence FROM batches INDEXED BY batches_received_at ORDER BY received_at DESC",
    ):
        known.update(row[0] for row in _until_damage(old, sql))
    for sequence in sorted(known):
        try:
            found = old.execute(f"SELECT {COLUMNS} FROM batches WHERE sequence=?", (sequence,)).fetchone()
        except sqlite3.Error:
            found = None
        yield None if found is None else BatchRow(*found)


def _until_damage(connection: sqlite3.Connection, sql: str) -> Iterator[tuple[int]]:
    with suppress(sqlite3.Error):
        yield from connection.execute(sql)
