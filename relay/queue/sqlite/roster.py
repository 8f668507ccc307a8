"""Who reads: the destinations the queue knows, their accounts and their readers.

A destination's first reader is the live one. Back-fill, replay and redrive are further readers over a
range, made here, removed when they are through, and found again after a restart.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Literal

from relay.clock import Clock
from relay.errors import NotFound
from relay.model import ReaderKind, RetryState
from relay.queue.base import DeadLetterFilter, Reader, ReaderInfo
from relay.queue.sqlite.accounts import Account, Progress, load_accounts
from relay.queue.sqlite.deadletters import RedriveReader, condition
from relay.queue.sqlite.log import next_sequence
from relay.queue.sqlite.readers import Log, LogReader
from relay.queue.sqlite.store import BatchStore
from relay.queue.sqlite.writer import Writer

_OWED = (ReaderKind.LIVE, ReaderKind.BACKFILL)
# What a filter over dead letters applies to when they are to be changed: single events only (ranges
# have no bytes), and none that a redrive reader is working on.
_FREE = "l.reader IS NULL"


class Roster:
    """Accounts and readers by destination."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        log: Log,
        store: BatchStore,
        writer: Writer,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._log = log
        self._store = store
        self._writer = writer
        self._progress = progress
        self._clock = clock
        self._accounts = load_accounts(connection)
        self._log_readers: dict[str, list[LogReader]] = {name: [] for name in self._accounts}
        self._redrives: dict[str, RedriveReader] = {}
        for account in self._accounts.values():
            for row in _select_readers(connection, account.id):
                self._add_reader(account.name, row)

    def _add_reader(self, name: str, row: Sequence[Any]) -> LogReader | None:
        number, kind, watermark, stop, attempts, next_at, rate, marked = row
        retry = RetryState(attempts, next_at)
        if kind == ReaderKind.REDRIVE:
            self._redrives[name] = self._redrive_reader(number, name, marked, retry)
            return None
        reader = self._log_reader(number, name, ReaderKind(kind), watermark, stop, retry, rate)
        self._log_readers[name].append(reader)
        return reader

    def _log_reader(
        self,
        number: int,
        name: str,
        kind: ReaderKind,
        watermark: int,
        stop: int | None,
        retry: RetryState,
        rate: float | None,
    ) -> LogReader:
        return LogReader(
            id=number,
            kind=kind,
            account=self._accounts[name],
            watermark=watermark,
            stop=stop,
            retry=retry,
            rate=rate,
            log=self._log,
            progress=self._progress,
            clock=self._clock,
            remove=self._remove,
        )

    def _redrive_reader(self, number: int, name: str, left: int, retry: RetryState) -> RedriveReader:
        return RedriveReader(
            id=number,
            account=self._accounts[name],
            left=left,
            retry=retry,
            store=self._store,
            writer=self._writer,
            progress=self._progress,
            clock=self._clock,
            remove=self._remove,
        )

    # -- looking -----------------------------------------------------------------------------

    def account(self, destination: str) -> Account:
        try:
            return self._accounts[destination]
        except KeyError:
            raise NotFound(f"the queue knows no destination called {destination}") from None

    def destinations(self) -> Sequence[str]:
        return list(self._accounts)

    def readers(self, destination: str) -> Sequence[Reader]:
        self.account(destination)
        found: list[Reader] = list(self._log_readers[destination])
        if destination in self._redrives:
            found.append(self._redrives[destination])
        return found

    def log_readers(self) -> list[LogReader]:
        return [reader for readers in self._log_readers.values() for reader in readers]

    def owed_backlog(self, destination: str) -> int:
        return sum(r.backlog().events for r in self._log_readers[destination] if r.kind in _OWED)

    def infos(self) -> Sequence[ReaderInfo]:
        return [
            ReaderInfo(reader.id, name, reader.kind, reader.backlog().events, reader.total, reader.rate)
            for name in self._accounts
            for reader in self.readers(name)
        ]

    # -- changing ----------------------------------------------------------------------------

    async def attach(self, destination: str, start: Literal["now", "earliest"]) -> Sequence[Reader]:
        # Asked of the database even where it is known here: another process may have forgotten it.
        await self._writer.submit(
            lambda connection: _insert_destination(connection, destination, start), self._take_in
        )
        return self.readers(destination)

    def _take_in(self, found: tuple[Account, Sequence[Sequence[Any]]]) -> None:
        account, readers = found
        known = self._accounts.get(account.name)
        if known is not None and known.id == account.id:
            return
        self._accounts[account.name] = account
        self._log_readers[account.name] = []
        for row in readers:
            self._add_reader(account.name, row)

    async def replay(self, destination: str, start: float, end: float, rate: float | None) -> ReaderInfo:
        self.account(destination)
        rows = await self._store.query(
            "SELECT min(sequence), max(sequence + count) FROM batches"
            " WHERE received_at >= ? AND received_at < ?",
            (start, end),
        )
        first, stop = rows[0]
        if first is None:
            raise NotFound("no events received in this range are retained")
        account = self.account(destination)
        number = await self._writer.submit(
            lambda connection: _insert_reader(connection, account.id, ReaderKind.REPLAY, first, stop, rate)
        )
        reader = self._log_reader(number, destination, ReaderKind.REPLAY, first, stop, RetryState(), rate)
        self._log_readers[destination].append(reader)
        return ReaderInfo(reader.id, destination, reader.kind, stop - first, stop - first, rate)

    async def forget(self, destination: str) -> None:
        account = self.account(destination)

        def run(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM destinations WHERE id=?", (account.id,))

        def gone(_: None) -> None:
            self._progress.forget(account)
            del self._accounts[destination]
            del self._log_readers[destination]
            self._redrives.pop(destination, None)

        async with self._progress.exclusive:
            await self._writer.submit(run, gone)

    async def redrive(self, which: DeadLetterFilter) -> int:
        """Mark the dead letters that still have their bytes for their destination's redrive reader."""
        terms, values = condition(which)

        def run(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
            found = connection.execute(
                "SELECT d.id, d.name FROM dead_letters l JOIN destinations d ON d.id = l.destination"
                f" WHERE {terms} AND {_FREE} AND l.line IS NOT NULL GROUP BY d.id",
                values,
            ).fetchall()
            marked = []
            for account, name in found:
                row = connection.execute(
                    "SELECT id FROM readers WHERE destination=? AND kind='redrive'", (account,)
                ).fetchone()
                reader = (
                    row[0] if row else _insert_reader(connection, account, ReaderKind.REDRIVE, 0, None, None)
                )
                changed = connection.execute(
                    "UPDATE dead_letters SET reader=? WHERE id IN (SELECT l.id FROM dead_letters l"
                    " JOIN destinations d ON d.id = l.destination"
                    f" WHERE {terms} AND {_FREE} AND l.line IS NOT NULL AND d.id=?)",
                    (reader, *values, account),
                ).rowcount
                marked.append((name, reader, changed))
            return marked

        def take_in(marked: list[tuple[str, int, int]]) -> None:
            for name, number, letters in marked:
                reader = self._redrives.get(name)
                if reader is not None and reader.id == number:
                    reader.marked(letters)
                else:
                    self._redrives[name] = self._redrive_reader(number, name, letters, RetryState())

        return sum(letters for _, _, letters in await self._writer.submit(run, take_in))

    async def discard(self, which: DeadLetterFilter) -> int:
        terms, values = condition(which)

        def run(connection: sqlite3.Connection) -> list[tuple[str, int]]:
            gone = connection.execute(
                "DELETE FROM dead_letters WHERE id IN (SELECT l.id FROM dead_letters l"
                f" JOIN destinations d ON d.id = l.destination WHERE {terms} AND {_FREE})"
                " RETURNING destination, count",
                values,
            ).fetchall()
            by_id: dict[int, int] = {}
            for destination, count in gone:
                by_id[destination] = by_id.get(destination, 0) + count
            connection.executemany(
                "UPDATE destinations SET dead=dead-?1, discarded=discarded+?1 WHERE id=?2",
                [(count, destination) for destination, count in by_id.items()],
            )
            names = dict(connection.execute("SELECT id, name FROM destinations").fetchall())
            return [(names[destination], count) for destination, count in by_id.items()]

        def book(gone: list[tuple[str, int]]) -> None:
            for name, count in gone:
                account = self._accounts[name]
                account.dead -= count
                account.discarded += count
                self._progress.changed(account)  # a picture taken meanwhile may be on its way

        async with self._progress.exclusive:
            gone = await self._writer.submit(run, book)
        return sum(count for _, count in gone)

    async def _remove(self, reader: Reader) -> None:
        """Drop a bounded reader that is through, unless dead letters were just marked for it."""

        def run(connection: sqlite3.Connection) -> bool:
            gone = connection.execute(
                "DELETE FROM readers WHERE id=?1"
                " AND NOT EXISTS (SELECT 1 FROM dead_letters l WHERE l.reader = ?1)",
                (reader.id,),
            )
            return gone.rowcount > 0

        def forget(gone: bool) -> None:
            if gone:
                for readers in self._log_readers.values():
                    readers[:] = [each for each in readers if each is not reader]
                self._redrives = {name: each for name, each in self._redrives.items() if each is not reader}

        await self._progress.store()
        await self._writer.submit(run, forget)

    async def refresh_hints(self) -> None:
        """Find the age of backlogs nobody is reading at present, for the metrics."""
        for reader in self.log_readers():
            backlog = reader.backlog()
            if backlog.events and backlog.oldest_received_at is None:
                rows = await self._store.query(
                    "SELECT received_at FROM batches WHERE sequence + count > ? AND sequence >="
                    " coalesce((SELECT max(sequence) FROM batches WHERE sequence <= ?), 0)"
                    " ORDER BY sequence LIMIT 1",
                    (reader.position, reader.position),
                )
                reader.oldest_hint = rows[0][0] if rows else None


def _select_readers(connection: sqlite3.Connection, destination: int) -> list[Any]:
    return connection.execute(
        "SELECT id, kind, watermark, stop, attempts, next_at, rate,"
        " (SELECT count(*) FROM dead_letters l WHERE l.reader = readers.id)"
        " FROM readers WHERE destination=? ORDER BY id",
        (destination,),
    ).fetchall()


def _insert_destination(
    connection: sqlite3.Connection, name: str, start: Literal["now", "earliest"]
) -> tuple[Account, list[Any]]:
    """Make the destination with its readers, unless another process of this relay just did."""
    accounts = load_accounts(connection)
    if name not in accounts:
        head = next_sequence(connection)
        oldest = connection.execute("SELECT min(sequence) FROM batches").fetchone()[0]
        past = start == "earliest" and oldest is not None
        number = connection.execute(
            "INSERT INTO destinations (name, start, backfilled) VALUES (?,?,?) RETURNING id",
            (name, head, head - oldest if past else 0),
        ).fetchone()[0]
        _insert_reader(connection, number, ReaderKind.LIVE, head, None, None)
        if past:
            _insert_reader(connection, number, ReaderKind.BACKFILL, oldest, head, None)
        accounts = load_accounts(connection)
    account = accounts[name]
    return account, _select_readers(connection, account.id)


def _insert_reader(
    connection: sqlite3.Connection,
    destination: int,
    kind: ReaderKind,
    start: int,
    stop: int | None,
    rate: float | None,
) -> int:
    row = connection.execute(
        "INSERT INTO readers (destination, kind, start, stop, watermark, rate)"
        " VALUES (?,?,?,?,?,?) RETURNING id",
        (destination, kind.value, start, stop, start, rate),
    ).fetchone()
    return int(row[0])
