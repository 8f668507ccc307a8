"""Readers: one destination's cursor over the log, with the watermark it owns.

A position is one integer here: the number of an event. Ranges may be settled in any order; those
beyond the first unsettled event wait in memory and enter the books when the watermark reaches them,
so that the books, the watermark and the dead letters on disk always tell the same story.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from relay.batch import StoredBatch
from relay.clock import Clock
from relay.errors import QueueError
from relay.model import Backlog, DeadLetter, Position, ReaderKind, Reason, RetryState, Settlement
from relay.queue.base import Reader
from relay.queue.ranges import Ranges, Tally
from relay.queue.sqlite.accounts import Account, DeadRow, Progress

STORE_AGAIN = 1.0  # seconds between attempts to store dead letters while the disk refuses
RELEASED = "released to make room; this destination was furthest behind"


class Log(Protocol):
    """What a reader needs of the queue."""

    @property
    def head(self) -> int:
        """The number the next event will get."""
        ...

    async def read(self, start: int, stop: int, max_events: int) -> list[StoredBatch]: ...


class LogReader:
    """A live, back-fill or replay reader. See `relay.queue.base.Reader`."""

    def __init__(
        self,
        *,
        id: int,  # noqa: A002 - the word of the Protocol
        kind: ReaderKind,
        account: Account,
        watermark: int,
        stop: int | None,
        retry: RetryState,
        rate: float | None,
        log: Log,
        progress: Progress,
        clock: Clock,
        remove: Callable[[Reader], Awaitable[None]],
    ) -> None:
        self.id = id
        self.kind = kind
        self.rate = rate
        self.retry = retry
        self.total = None if stop is None else stop - watermark
        self.account = account
        self._ranges = Ranges(watermark)
        self._stop = stop
        self._at = watermark  # the next event to read
        self._log = log
        self._progress = progress
        self._clock = clock
        self._remove = remove
        self._arrivals: deque[tuple[int, float]] = deque()  # (end, received_at) of batches read, in order
        self.oldest_hint: float | None = None  # arrival of the head, where nothing was read yet

    def __repr__(self) -> str:
        return f"<LogReader {self.account.name} {self.kind} {self._ranges.watermark}..{self._stop or 'head'}>"

    @property
    def watermark(self) -> Position:
        return Position(self._ranges.watermark)

    @property
    def position(self) -> int:
        return self._ranges.watermark

    @property
    def stop(self) -> int:
        return self._log.head if self._stop is None else self._stop

    @property
    def finished(self) -> bool:
        return self._stop is not None and self._ranges.watermark >= self._stop

    def stored_state(self) -> tuple[int, int, float]:
        return self._ranges.watermark, self.retry.attempts, self.retry.next_at

    def unread(self) -> bool:
        return self._at < self.stop

    async def read(self, max_events: int) -> Sequence[tuple[StoredBatch, int]]:
        while self.unread():
            start = self._at
            stop = self.stop  # as it is now: what is appended meanwhile is not missing
            batches = await self._log.read(start, stop, max_events)
            if self._at != start:  # released or rewound meanwhile
                continue
            if not batches:
                self._lost(start, stop)
                continue
            pieces = []
            for batch in batches:
                if batch.sequence > self._at:
                    self._lost(self._at, batch.sequence)
                pieces.append((batch, self._at - batch.sequence))
                self._at = batch.sequence + batch.count
                self._arrivals.append((self._at, batch.received_at))
            return pieces
        return ()

    def _lost(self, start: int, end: int) -> None:
        """No batch holds these numbers: they were quarantined. Owed events become dead letters."""
        self._at = end
        self._ranges.lose(start, end)
        self._advance()

    def _bury_range(self, start: int, end: int, reason: Reason, detail: str) -> None:
        self.account.bury(reason, end - start)
        row = DeadRow(self.account.id, reason, start, end - start, self._clock.now(), detail)
        self._progress.bury(self.account, row)
        self._progress.changed(self.account, self)

    async def settle(self, settlement: Settlement) -> None:
        self._ranges.settle(settlement)
        if self._advance():
            await self._store_dead_letters()

    def _advance(self) -> bool:
        """Move the watermark over what is settled without a break; True if that buried anything."""
        buried = False
        for tally in self._ranges.advance():
            self._book(tally)
            buried |= bool(tally.dead or tally.lost)
            self._progress.changed(self.account, self)
        while self._arrivals and self._arrivals[0][0] <= self._ranges.watermark:
            self._arrivals.popleft()
        return buried

    def _book(self, tally: Tally) -> None:
        account = self.account
        if self.kind is ReaderKind.REPLAY:
            # These events are in the books already; what a replay cannot deliver stays as it was.
            account.replayed += tally.delivered
            return
        account.delivered += tally.delivered
        account.delivered_bytes += tally.delivered_bytes
        account.filtered += tally.filtered
        if tally.lost:
            gone = "the stored batch no longer matched its checksum"
            self._bury_range(self.position, self.position + tally.lost, Reason.CORRUPT, gone)
        for letter in tally.dead:
            account.bury(letter.reason, 1)
            self._progress.bury(account, dead_row(account.id, letter, self._clock.now()))

    async def _store_dead_letters(self) -> None:
        # A destination that refuses everything while the disk is full must not fill the memory.
        while True:
            try:
                await self._progress.store()
            except QueueError:
                await self._clock.sleep(STORE_AGAIN)
            else:
                return

    async def retry_later(self, state: RetryState) -> None:
        self.retry = state
        self._progress.changed(self.account, self)
        await self._progress.store()

    def rewind(self) -> None:
        # What was settled beyond the watermark stays settled: reading passes over it again, so it
        # is forgotten here and sent once more (delivery is at least once).
        self._ranges.forget()
        self._arrivals.clear()
        self._at = self._ranges.watermark

    def expire(self, to: int) -> int:
        """Give up the events before number *to*; returns how many were owed."""
        to = min(to, self.stop)
        if to <= self._ranges.watermark:
            return 0
        given_up = to - self._ranges.watermark
        if self.kind is not ReaderKind.REPLAY:
            self._bury_range(
                self._ranges.watermark,
                to,
                Reason.EXPIRED,
                RELEASED,
            )
        self._ranges.give_up(to)
        self._at = max(self._at, to)
        self.oldest_hint = None
        self._progress.changed(self.account, self)
        self._advance()
        return given_up

    def backlog(self) -> Backlog:
        events = max(0, self.stop - self._ranges.watermark)
        if not events:
            return Backlog(0, None)
        oldest = self._arrivals[0][1] if self._arrivals else self.oldest_hint
        return Backlog(events, oldest)

    async def finish(self) -> None:
        await self._remove(self)


def dead_row(destination: int, letter: DeadLetter, now: float) -> DeadRow:
    event, response = letter.event, letter.response
    return DeadRow(
        destination=destination,
        reason=letter.reason,
        position=letter.position.sequence + letter.position.offset,
        count=1,
        created_at=now,
        detail=response.detail,
        status=response.status,
        excerpt=response.excerpt,
        attempts=response.attempt,
        event_id=event.id,
        source=event.source,
        received_at=event.received_at,
        line=event.line,
    )
