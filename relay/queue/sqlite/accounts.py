"""The books in memory, and how they reach the disk.

Every figure of a destination lives in an `Account`; readers change it as they settle. What changed
is written about once a second, in the same transaction as the dead letters and watermarks that belong
to it. After a crash the last second may be delivered again, but watermark, counts and dead letters
always agree: `owed = delivered + filtered + dead + backlog` is true of any state on disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relay.errors import QueueError
from relay.model import Hold, HoldReason, Reason
from relay.queue.sqlite.writer import Writer


@dataclass(slots=True, eq=False)
class Account:
    """One destination's books. Meanings as in `relay.model.Books`."""

    id: int
    name: str
    start: int  # number of the first event owed
    backfilled: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    filtered: int = 0
    dead: int = 0  # kept at present
    discarded: int = 0
    replayed: int = 0
    hold: Hold | None = None
    dead_by_reason: dict[Reason, int] = field(default_factory=dict)
    forgotten: bool = False

    def bury(self, reason: Reason, events: int) -> None:
        self.dead += events
        self.dead_by_reason[reason] = self.dead_by_reason.get(reason, 0) + events


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A dead letter on its way to the table; *line* is None for a range whose bytes are gone."""

    destination: int
    reason: Reason
    position: int
    count: int
    created_at: float
    detail: str
    status: int | None = None
    excerpt: bytes = b""
    attempts: int = 0
    event_id: str | None = None
    source: str | None = None
    received_at: float | None = None
    line: bytes | None = None


class Tracked(Protocol):
    """A reader, as far as storing it goes."""

    @property
    def id(self) -> int: ...

    def stored_state(self) -> tuple[int, int, float]:
        """Watermark, attempts, next attempt."""
        ...


class Progress:
    """Collects what changed and writes it in one transaction, one at a time."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._accounts: set[Account] = set()
        self._readers: set[Tracked] = set()
        self._dead: list[tuple[Account, DeadRow]] = []
        self._storing: set[asyncio.Task[None]] = set()
        # Held while figures are on their way to the disk. Whoever changes a figure on disk and in memory
        # in one step takes it too, or a picture taken in between would undo his change.
        self.exclusive = asyncio.Lock()

    def changed(self, account: Account, reader: Tracked | None = None) -> None:
        # A worker may still settle for a destination that was forgotten: nothing of it is written.
        if not account.forgotten:
            self._accounts.add(account)
            if reader is not None:
                self._readers.add(reader)

    def bury(self, account: Account, row: DeadRow) -> None:
        if not account.forgotten:
            self._dead.append((account, row))

    def forget(self, account: Account) -> None:
        account.forgotten = True
        self._accounts.discard(account)
        self._dead = [each for each in self._dead if each[0] is not account]

    async def store(self) -> None:
        """Write everything that changed. Raises `QueueError`; what failed is kept for the next time.

        Cancelling the caller does not interrupt it: were what it took given up half-way, a later
        watermark could reach the disk without the dead letters below it.
        """
        task = asyncio.create_task(self._store())  # noqa: TID251 - kept in _storing, awaited in close()
        self._storing.add(task)
        task.add_done_callback(self._stored)
        await asyncio.shield(task)

    def _stored(self, task: asyncio.Task[None]) -> None:
        self._storing.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, even where the caller is gone

    async def close(self) -> None:
        """Wait for what is on its way to the disk."""
        await asyncio.gather(*self._storing, return_exceptions=True)

    async def _store(self) -> None:
        async with self.exclusive:
            if not (self._accounts or self._readers or self._dead):
                return
            accounts, self._accounts = self._accounts, set()
            readers, self._readers = self._readers, set()
            dead, self._dead = self._dead, []
            figures = [_figures(account) for account in accounts]
            reasons = [(a.id, r.value, n) for a in accounts for r, n in a.dead_by_reason.items()]
            states = [(*reader.stored_state(), reader.id) for reader in readers]
            rows = [row for _, row in dead]
            try:
                await self._writer.submit(lambda c: _write(c, figures, reasons, states, rows))
            except QueueError:
                self._accounts |= {account for account in accounts if not account.forgotten}
                self._readers |= readers
                self._dead[:0] = [each for each in dead if not each[0].forgotten]
                raise


def _figures(account: Account) -> tuple[object, ...]:
    hold = account.hold
    return (
        account.backfilled,
        account.delivered,
        account.delivered_bytes,
        account.filtered,
        account.dead,
        account.discarded,
        account.replayed,
        hold.reason.value if hold else None,
        hold.since if hold else None,
        hold.detail if hold else None,
        account.id,
    )


def _write(
    connection: sqlite3.Connection,
    figures: list[tuple[object, ...]],
    reasons: list[tuple[int, str, int]],
    states: Sequence[tuple[object, ...]],
    dead: list[DeadRow],
) -> None:
    connection.executemany(
        "UPDATE destinations SET backfilled=?, delivered=?, delivered_bytes=?, filtered=?, dead=?,"
        " discarded=?, replayed=?, hold_reason=?, hold_since=?, hold_detail=? WHERE id=?",
        figures,
    )
    connection.executemany(
        "INSERT INTO dead_letter_totals (destination, reason, events)"
        " SELECT id, ?2, ?3 FROM destinations WHERE id=?1"
        " ON CONFLICT DO UPDATE SET events=excluded.events",
        reasons,
    )
    connection.executemany("UPDATE readers SET watermark=?, attempts=?, next_at=? WHERE id=?", states)
    for row in dead:
        if row.line is None and _grow_range(connection, row):
            continue
        connection.execute(
            "INSERT INTO dead_letters (destination, reason, position, count, created_at, status, detail,"
            " excerpt, attempts, event_id, source, received_at, line) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                row.destination,
                row.reason.value,
                row.position,
                row.count,
                row.created_at,
                row.status,
                row.detail,
                row.excerpt,
                row.attempts,
                row.event_id,
                row.source,
                row.received_at,
                row.line,
            ),
        )


def _grow_range(connection: sqlite3.Connection, row: DeadRow) -> bool:
    """Join a range to the one it continues, so that a month of released events is one entry."""
    changed = connection.execute(
        "UPDATE dead_letters SET count=count+?"
        " WHERE id=(SELECT max(id) FROM dead_letters WHERE destination=?)"
        " AND reason=? AND line IS NULL AND position+count=?",
        (row.count, row.destination, row.reason.value, row.position),
    )
    return changed.rowcount > 0


def load_accounts(connection: sqlite3.Connection) -> dict[str, Account]:
    """Every destination the queue knows, by name."""
    accounts = {}
    for row in connection.execute(
        "SELECT id, name, start, backfilled, delivered, delivered_bytes, filtered, dead, discarded, replayed,"
        " hold_reason, hold_since, hold_detail FROM destinations"
    ):
        hold = Hold(HoldReason(row[10]), row[11], row[12]) if row[10] else None
        accounts[row[1]] = account = Account(*row[:10])
        account.hold = hold
    by_id = {account.id: account for account in accounts.values()}
    for destination, reason, events in connection.execute(
        "SELECT destination, reason, events FROM dead_letter_totals"
    ):
        by_id[destination].dead_by_reason[Reason(reason)] = events
    return accounts
