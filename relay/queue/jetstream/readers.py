"""Readers over the log: live, back-fill and replay.

Every replica has every reader, as its record says; the one with the lease works it: numbers the events
it reads, keeps the watermark, and books what the watermark passes. Owns positions in both countings,
stream sequences and event numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from relay.batch import StoredBatch
from relay.clock import Clock
from relay.errors import QueueError
from relay.model import Backlog, Position, ReaderKind, Reason, RetryState, Settlement
from relay.queue.base import Reader
from relay.queue.jetstream import letters
from relay.queue.jetstream.by_sequence import Message
from relay.queue.jetstream.holding import Holding
from relay.queue.jetstream.log import Log
from relay.queue.jetstream.message import Meta, NotABatch, decode, intact, stored
from relay.queue.jetstream.record import LeaseLost, Mark, ReaderRecord
from relay.queue.jetstream.tape import Tape
from relay.queue.ranges import Ranges, Tally

STORE_AGAIN: Final = 1.0  # seconds between attempts to store dead letters while NATS refuses
_READ_BYTES: Final = 1 << 20
_MOST_MESSAGES: Final = 256  # of one request to the consumer
_STORE_AFTER: Final = 256  # settled messages; then progress is stored before its second is over
_LOST: Final = "the stored batch is gone from the stream or no longer matches its checksum"


class Keeper(Protocol):
    """What a reader needs of the queue."""

    async def keep_corrupt(self, meta: Meta, payload: bytes) -> None:
        """Put a batch that fails its checksum aside."""
        ...


@dataclass(frozen=True, slots=True)
class _Part:
    """A message that was read and is not settled and stored."""

    seq: int
    number: int  # of its first event
    end: int  # of the event behind its last
    received_at: float


class LogReader:
    """See `relay.queue.base.Reader`. A view until `take_over`, and again from `let_go` on."""

    def __init__(
        self,
        name: str,
        record: ReaderRecord,
        *,
        log: Log,
        keeper: Keeper,
        clock: Clock,
        remove: Callable[[Reader], Awaitable[None]],
    ) -> None:
        self.id = record.id
        self.kind = record.kind
        self.rate = record.rate
        self.total = record.total
        self.retry = record.retry
        self.stop = record.stop
        self.oldest_hint: float | None = None  # arrival of the head, where nothing was read yet
        self._name = name
        self._log = log
        self._keeper = keeper
        self._clock = clock
        self._remove = remove
        self._stored = record.mark
        self._ranges = Ranges(record.mark.number)
        self._holding: Holding | None = None
        self._tape: Tape | None = None
        self._next = record.mark  # the next message to read and the number of its first event
        self._parts: dict[int, _Part] = {}  # by sequence, in order
        self._ahead: deque[tuple[StoredBatch, int]] = deque()  # read, not given out
        self._average = (100.0, 10_000.0)  # events and bytes of a message
        self._unstored = 0  # messages

    def __repr__(self) -> str:
        return f"<LogReader {self._name} {self.kind} {self._ranges.watermark} {'held' if self._tape else ''}>"

    # -- hands -------------------------------------------------------------------------------

    def follow(self, record: ReaderRecord) -> None:
        """The account changed. Whoever works the reader knows better."""
        if self._tape is None:
            self._stand_at(record)

    def _stand_at(self, record: ReaderRecord) -> None:
        if record.mark != self._stored:
            self.oldest_hint = None
        self.retry = record.retry
        self._stored = record.mark
        self._ranges = Ranges(record.mark.number)
        self._next = record.mark
        self._parts.clear()
        self._ahead.clear()

    def take_over(self, record: ReaderRecord, holding: Holding, tape: Tape) -> None:
        """This replica has the lease: go on from where the account stands."""
        self._stand_at(record)
        self._holding = holding
        self._tape = tape

    async def let_go(self) -> None:
        """This replica no longer has the lease."""
        tape, self._tape, self._holding = self._tape, None, None
        if tape is not None:
            await tape.close()

    @property
    def at_work(self) -> bool:
        return self._tape is not None

    def _held(self) -> tuple[Holding, Tape]:
        if self._holding is None or self._tape is None:
            raise LeaseLost(f"this replica does not deliver to {self._name}")
        return self._holding, self._tape

    # -- where it stands ---------------------------------------------------------------------

    @property
    def watermark(self) -> Position:
        return Position(self._ranges.watermark)

    @property
    def mark(self) -> Mark:
        """The watermark in both countings."""
        number = self._ranges.watermark
        for part in self._parts.values():
            if part.end > number:
                return Mark(part.seq, number, number - part.number)
        return Mark(self._next.seq, number, self._next.offset + max(0, number - self._next.number))

    @property
    def finished(self) -> bool:
        return self.stop is not None and self._ranges.watermark >= self.stop.number

    def backlog(self) -> Backlog:
        stop = self._log.ledger.number if self.stop is None else self.stop.number
        events = max(0, stop - self._ranges.watermark)
        if not events:
            return Backlog(0, None)
        for part in self._parts.values():
            if part.end > self._ranges.watermark:
                return Backlog(events, part.received_at)
        return Backlog(events, self.oldest_hint)

    def unread(self) -> bool:
        return bool(self._ahead) or self._unread()

    def _unread(self) -> bool:
        # On a new connection, sequences mean nothing until it is known that none was lost.
        return self._log.met.is_set() and (self._next.seq <= self._last_seq() or self._vanished() > 0)

    def _begin(self) -> Mark:
        """Where the log begins for this reader: replays do not keep what is purged for want of room."""
        first = self._log.ledger.first
        return first if self.stop is None or first.seq < self.stop.seq else self.stop

    def _at_hand(self) -> int:
        return sum([batch.count - offset for batch, offset in self._ahead])

    def _last_seq(self) -> int:
        return self._log.head if self.stop is None else self.stop.seq - 1

    def _vanished(self) -> int:
        """Events the books know of that are not in the stream, seen when everything else was read."""
        if self.stop is not None:
            return self.stop.number - self._next.number if self._next.seq >= self.stop.seq else 0
        ledger = self._log.ledger
        return ledger.number - self._next.number if self._next.seq == ledger.seq + 1 else 0

    # -- reading -----------------------------------------------------------------------------

    async def read(self, max_events: int) -> Sequence[tuple[StoredBatch, int]]:
        _, tape = self._held()
        while self._at_hand() < max_events and self._unread():
            at = self._next
            if (first := self._begin()).seq > at.seq:
                await self._lose(first)
            elif (vanished := self._vanished()) > 0:
                await self._lose(Mark(self._next.seq, self._next.number + vanished))
            else:
                await self._fetch(tape, max_events - self._at_hand())
            if self._next == at:
                break
        pieces = []
        events = size = 0
        while self._ahead and events < max_events and size < _READ_BYTES:
            batch, offset = self._ahead.popleft()
            events += batch.count - offset
            size += len(batch.payload)
            pieces.append((batch, offset))
        return pieces

    async def _fetch(self, tape: Tape, max_events: int) -> None:
        events, size = self._average
        most = int(min(max_events / events, _READ_BYTES / size, _MOST_MESSAGES)) + 1
        at = self._next
        messages, following = await tape.read(at.seq, most)
        if self._next != at or self._tape is not tape:  # rewound, given up or let go meanwhile
            return
        for message in messages:
            if self.stop is not None and message.seq >= self.stop.seq:
                following = self.stop.seq
                break
            await self._take_in(message)
        if self.stop is not None:
            following = min(following, self.stop.seq)
        if self._next.seq < following:
            self._next = Mark(following, self._next.number)

    async def _take_in(self, message: Message) -> None:
        at = self._next
        skip = at.offset if message.seq == at.seq else 0
        number = at.number - skip
        batch = self._log.cached(message.seq)
        # Where messages vanished before this one, our count is behind the ledger's until the end of the log.
        if batch is not None and batch.sequence == number:
            self._enter(message, number, number + batch.count, batch.received_at)
        else:
            try:
                meta = decode(message)
            except NotABatch:
                self._next = Mark(message.seq + 1, number)
                return
            end = self._enter(message, number, meta.after(number), meta.received_at)
            if not meta.count:
                if end > number:  # here the cluster lost what it had acknowledged
                    self._ranges.lose(number, end)
                    await self._pass_on()
                return
            if not intact(meta, message.payload):
                await self._keeper.keep_corrupt(meta, message.payload)
                self._ranges.lose(number + skip, end)
                await self._pass_on()
                return
            batch = stored(meta, number, message.payload)
            self._log.remember(message.seq, batch)
        self._ahead.append((batch, skip))

    def _enter(self, message: Message, number: int, end: int, received_at: float) -> int:
        """A message was read that holds the events from *number* to *end*, which is returned."""
        self._next = Mark(message.seq + 1, end)
        self._parts.setdefault(message.seq, _Part(message.seq, number, end, received_at))
        if message.payload:
            count = end - number
            events, size = self._average
            self._average = (
                events + (count - events) / 8,
                max(1.0, size + (len(message.payload) - size) / 8),
            )
        return end

    def cut(self, last: int) -> None:
        """The stream lost everything behind *last*. What was read of it is settled all the same."""
        if self._holding is None or self._tape is None:
            return
        self._tape.cut(last)
        if self.stop is not None and self.stop.seq > last:
            self.stop = Mark(last + 1, self.stop.number)
        if self._next.seq > last:
            self._next = Mark(last + 1, self._next.number)
        self._parts = {seq: part for seq, part in self._parts.items() if seq <= last}
        self._holding.place(self.id, self.mark, self.retry)

    async def _lose(self, to: Mark) -> None:
        """What the log should hold before *to* is not there."""
        self._ranges.lose(self._next.number, to.number)
        self._next = to
        await self._pass_on()

    # -- settling ----------------------------------------------------------------------------

    async def settle(self, settlement: Settlement) -> None:
        self._held()
        self._ranges.settle(settlement)
        await self._pass_on()

    async def _pass_on(self) -> None:
        """Book what is settled without a break; what was buried is stored at once."""
        holding, _ = self._held()
        buried = False
        for tally in self._ranges.advance():
            self._book(holding, tally)
            buried |= bool(tally.dead or tally.lost)
            self._unstored += 1
        self._place(holding)
        while buried or self._unstored > _STORE_AFTER:
            # A destination that refuses everything while NATS is away must not fill the memory.
            try:
                await holding.store()
            except LeaseLost:
                raise
            except QueueError:
                await self._clock.sleep(STORE_AGAIN)
                self._held()
            else:
                return

    def _book(self, holding: Holding, tally: Tally) -> None:
        if self.kind is ReaderKind.REPLAY:
            # These events are in the books already; what a replay cannot deliver stays as it was.
            holding.book_replayed(tally.delivered)
            return
        now = self._clock.now()
        changes = [
            letters.change_of(self._name, letter, letter.position.sequence + letter.position.offset, now)
            for letter in tally.dead
        ]
        if tally.lost:
            first = self._ranges.watermark
            changes.append(letters.range_change(self._name, Reason.CORRUPT, first, tally.lost, now, _LOST))
        holding.book(tally, changes)

    def _place(self, holding: Holding) -> None:
        mark = self.mark
        if mark != self._stored:
            holding.place(self.id, mark, self.retry)

    async def retry_later(self, state: RetryState) -> None:
        holding, _ = self._held()
        self.retry = state
        holding.place(self.id, self.mark, state)
        await holding.store()

    def rewind(self) -> None:
        if self._tape is None:
            return
        mark = self.mark
        self._ranges.forget()
        self._ahead.clear()
        self._next = mark

    def expire(self, to: Mark) -> int:
        """Give up the events before *to* to make room; how many were owed."""
        holding, _ = self._held()
        if self.stop is not None and to.number > self.stop.number:
            to = self.stop
        first = self._ranges.watermark
        if to.number <= first:
            return 0
        if self.kind is not ReaderKind.REPLAY:
            holding.expired(
                to.number - first,
                letters.range_change(
                    self._name,
                    Reason.EXPIRED,
                    first,
                    to.number - first,
                    self._clock.now(),
                    "released to make room; this destination was furthest behind",
                ),
            )
        self._ranges.give_up(to.number)
        if self._next.number < to.number:
            self._next = to
            self._ahead.clear()
        self._parts = {seq: part for seq, part in self._parts.items() if part.end > to.number}
        self.oldest_hint = None
        holding.place(self.id, self.mark, self.retry)
        return to.number - first

    async def progress_stored(self, mark: Mark) -> None:
        """The account holds this watermark now."""
        self._stored = mark
        self._unstored = 0
        self._parts = {
            seq: part for seq, part in self._parts.items() if part.end > mark.number or seq >= mark.seq
        }
        if self._tape is not None:
            await self._tape.settled(mark.seq)

    async def tend(self) -> None:
        """Keep what is in hand from being delivered again, and clear up behind those who are gone."""
        if self._tape is not None:
            await self._tape.keep()
            if not self.unread():
                await self._tape.sweep()

    async def finish(self) -> None:
        await self._remove(self)
