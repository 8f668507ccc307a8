"""Dead letters: looking at them, sending them again, deleting them.

They keep their own bytes, so they outlive the log. Redriving marks them as belonging to a reader;
a delivered one is deleted, a refused one keeps its place with the new answer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from relay import gzipped
from relay.batch import StoredBatch
from relay.clock import Clock
from relay.errors import QueueError
from relay.konnect.lines import format_of
from relay.model import Backlog, Event, Position, ReaderKind, Reason, RetryState, Settlement
from relay.queue.base import DeadLetterFilter, Reader, StoredDeadLetter
from relay.queue.sqlite.accounts import Account, Progress
from relay.queue.sqlite.readers import STORE_AGAIN, dead_row
from relay.queue.sqlite.store import BatchStore
from relay.queue.sqlite.writer import Writer

# Of `dead_letters l JOIN destinations d`, as `letter_of` takes them.
COLUMNS = (
    "l.id, d.name, l.reason, l.position, l.count, l.created_at, l.status, l.detail, l.excerpt,"
    " l.attempts, l.event_id, l.source, l.received_at, l.line, l.reader IS NOT NULL"
)


def condition(which: DeadLetterFilter) -> tuple[str, list[object]]:
    """The filter as SQL over `dead_letters l JOIN destinations d`."""
    terms, values = ["1"], list[object]()
    if which.destination is not None:
        terms.append("d.name = ?")
        values.append(which.destination)
    if which.reason is not None:
        terms.append("l.reason = ?")
        values.append(which.reason.value)
    if which.since is not None:
        terms.append("l.created_at >= ?")
        values.append(which.since)
    if which.ids is not None:
        terms.append(f"l.id IN ({','.join('?' * len(which.ids))})")
        values.extend(which.ids)
    return " AND ".join(terms), values


async def find(
    store: BatchStore, which: DeadLetterFilter, *, after: int, limit: int
) -> Sequence[StoredDeadLetter]:
    terms, values = condition(which)
    sql = (
        f"SELECT {COLUMNS} FROM dead_letters l JOIN destinations d ON d.id = l.destination"
        f" WHERE {terms} AND l.id > ? ORDER BY l.id LIMIT ?"
    )
    return [letter_of(row) for row in await store.query(sql, [*values, after, limit])]


def letter_of(row: Any) -> StoredDeadLetter:
    """A row of COLUMNS."""
    letter, name, reason, position, count, created_at, status, detail, excerpt, attempts, *rest = row
    event_id, source, received_at, line, redriving = rest
    return StoredDeadLetter(
        id=letter,
        destination=name,
        reason=Reason(reason),
        position=Position(position),
        count=count,
        created_at=created_at,
        status=status,
        detail=detail,
        excerpt=excerpt,
        attempts=attempts,
        event=None if line is None else Event(event_id, line, format_of(line), source, received_at),
        redriving=bool(redriving),
    )


class RedriveReader:
    """Reads the dead letters marked with its id, oldest first. See `relay.queue.base.Reader`."""

    kind = ReaderKind.REDRIVE
    rate: float | None = None

    def __init__(
        self,
        *,
        id: int,  # noqa: A002 - the word of the Protocol
        account: Account,
        left: int,
        retry: RetryState,
        store: BatchStore,
        writer: Writer,
        progress: Progress,
        clock: Clock,
        remove: Callable[[Reader], Awaitable[None]],
    ) -> None:
        self.id = id
        self.account = account
        self.retry = retry
        self.total = left
        self._left = left  # letters marked for this reader
        self._in_flight: set[int] = set()  # those of them that were read and not settled
        self._store = store
        self._writer = writer
        self._progress = progress
        self._clock = clock
        self._remove = remove

    @property
    def watermark(self) -> Position:
        return Position(0)

    @property
    def finished(self) -> bool:
        return self._left <= 0

    def marked(self, letters: int) -> None:
        """More dead letters were marked for this reader, old or new ones."""
        self._left += letters
        self.total += letters

    def unread(self) -> bool:
        return self._left > len(self._in_flight)

    async def read(self, max_events: int) -> Sequence[tuple[StoredBatch, int]]:
        rows = await self._store.query(
            "SELECT id, event_id, source, received_at, line FROM dead_letters"
            " WHERE reader=? AND destination=? ORDER BY id LIMIT ?",
            (self.id, self.account.id, max_events + len(self._in_flight)),
        )
        found = []
        for letter, event_id, source, received_at, line in rows:
            if letter in self._in_flight:
                continue
            body = line + b"\n"
            batch = StoredBatch(
                sequence=letter,
                source=source,
                received_at=received_at,
                count=1,
                payload=gzipped.compress(body),
                body=body,
                ids=[event_id],
            )
            found.append((batch, 0))
            self._in_flight.add(letter)
        if not found:
            self._left = len(self._in_flight)  # nothing else is there, whatever was counted
        return found

    async def settle(self, settlement: Settlement) -> None:
        """Delete what was delivered or is filtered by now, keep what was refused again. At once."""
        first, last = settlement.start.sequence, settlement.end.sequence
        if settlement.end.offset == 0:
            last -= 1
        # Never the whole range: letters in between may have been marked after this chunk was read.
        letters = {letter for letter in self._in_flight if first <= letter <= last}
        now = self._clock.now()
        refused = [dead_row(self.account.id, letter, now) for letter in settlement.dead]

        def run(connection: sqlite3.Connection) -> int:
            for row in refused:
                connection.execute(
                    "UPDATE dead_letters SET reader=NULL, reason=?, created_at=?, status=?, detail=?,"
                    " excerpt=?, attempts=attempts+? WHERE id=? AND reader=?",
                    (
                        row.reason.value,
                        now,
                        row.status,
                        row.detail,
                        row.excerpt,
                        row.attempts,
                        row.position,
                        self.id,
                    ),
                )
            settled = connection.executemany(
                "DELETE FROM dead_letters WHERE reader=? AND id=?", [(self.id, letter) for letter in letters]
            ).rowcount
            # In the same transaction, so that a crash in between cannot count a letter twice.
            connection.execute(
                "UPDATE destinations SET dead=dead-?, delivered=delivered+?,"
                " delivered_bytes=delivered_bytes+?, filtered=filtered+? WHERE id=?",
                (
                    settled,
                    settled - settlement.filtered,
                    settlement.delivered_bytes,
                    settlement.filtered,
                    self.account.id,
                ),
            )
            return settled

        def book(settled: int) -> None:
            self.account.dead -= settled
            self.account.delivered += settled - settlement.filtered
            self.account.delivered_bytes += settlement.delivered_bytes
            self.account.filtered += settlement.filtered
            self._progress.changed(self.account)  # a picture taken meanwhile may be on its way
            self._in_flight -= letters
            self._left -= len(letters)

        while True:
            try:
                async with self._progress.exclusive:
                    await self._writer.submit(run, book)
            except QueueError:  # never send again what was delivered because the disk was full
                await self._clock.sleep(STORE_AGAIN)
            else:
                return

    async def retry_later(self, state: RetryState) -> None:
        self.retry = state

        def run(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE readers SET attempts=?, next_at=? WHERE id=?",
                (state.attempts, state.next_at, self.id),
            )

        await self._writer.submit(run)

    def rewind(self) -> None:
        self._in_flight.clear()

    def backlog(self) -> Backlog:
        return Backlog(max(0, self._left), None)

    async def finish(self) -> None:
        await self._remove(self)
