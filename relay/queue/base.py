"""The durable queue as the rest of the relay sees it: one log, one reader per destination and purpose.

Two implementations (SQLite here, NATS JetStream for a cluster) pass one contract suite,
tests/contract/queue/. What both sides must be able to say naturally is why the seam is drawn here:

- *append* is atomic over the batches of one request and durable when it returns: an fsync, or
  the acknowledgement of a quorum.
- The *queue* owns the watermark. A worker settles ranges in whatever order its requests end; the
  reader joins them (SQLite: an interval set; JetStream: acknowledgements and their floor).
- Progress may be stored lazily, because delivery is at least once; retry state may not, because a
  crash must not restart a schedule.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from relay.batch import StoredBatch
from relay.model import (
    Backlog,
    Batch,
    Books,
    Event,
    Format,
    Gap,
    Hold,
    Position,
    ReaderKind,
    Reason,
    Receipt,
    Replica,
    RetryState,
    Settlement,
)
from relay.queue.dedup.judge import Judge


class Observer(Protocol):
    """Where a queue reports what no one asks it for."""

    def commit(self, batches: int, seconds: float) -> None:
        """Batches were made durable together."""
        ...

    def corrupt(self, batches: int) -> None:
        """Batches were found not to match their checksum."""
        ...


class Lease(Protocol):
    """The right to deliver to one destination; one process of the relay has it at a time."""

    @property
    def lost(self) -> asyncio.Event:
        """Set when another process may be delivering by now: stop at once, settle nothing more."""
        ...

    @property
    def wanted(self) -> asyncio.Event:
        """Set when another process is to go on: begin nothing more, end what was begun, and release."""
        ...

    async def release(self) -> None:
        """Store what is still in memory and let another process go on from there.

        Whoever had the lease does this in any case, also when it is lost. Raises `QueueError` where the
        queue cannot be reached; the lease then runs out by itself.
        """
        ...


class Reader(Protocol):
    """A cursor over a range of the log on behalf of one destination.

    Every process sees every reader; only the one with the destination's `Lease` reads and settles.
    Used by one task at a time. What has been read is handed out again only after `rewind` or a
    restart, and then from the watermark on: ranges settled beyond it may be sent a second time.
    """

    @property
    def id(self) -> int: ...

    @property
    def kind(self) -> ReaderKind: ...

    @property
    def rate(self) -> float | None:
        """Events per second this reader may send at most, or None."""
        ...

    @property
    def total(self) -> int | None:
        """How many events a bounded reader had before it when it was made."""
        ...

    @property
    def retry(self) -> RetryState:
        """The stored retry state of the head of the backlog."""
        ...

    @property
    def watermark(self) -> Position:
        """Everything before it is settled."""
        ...

    async def read(self, max_events: int) -> Sequence[tuple[StoredBatch, int]]:
        """The next batches, each with the offset of the first event not yet read.

        Whole batches until they hold *max_events* events or about a megabyte of payload, at least
        one; empty when there is nothing more at present. Batches that fail their checksum are
        quarantined, booked and passed over.
        """
        ...

    def unread(self) -> bool:
        """Whether `read` would find something, as far as is known without touching the disk."""
        ...

    @property
    def finished(self) -> bool:
        """A bounded reader with everything settled. Live readers never are."""
        ...

    async def settle(self, settlement: Settlement) -> None:
        """Book a range of events that were read. Ranges may come in any order, never twice.

        Returns once the books are updated in memory; the disk follows within a second, or at
        once where the settlement holds dead letters.
        """
        ...

    async def retry_later(self, state: RetryState) -> None:
        """Store the retry state of the head, durably."""
        ...

    def rewind(self) -> None:
        """Forget what was read beyond the watermark: it will be read again."""
        ...

    def backlog(self) -> Backlog:
        """Events in this reader's range that are not settled."""
        ...

    async def finish(self) -> None:
        """Remove a bounded reader that has nothing left."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters; None means any."""

    destination: str | None = None
    reason: Reason | None = None
    since: float | None = None  # dead-lettered at or after, seconds since the epoch
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A kept dead letter. `expired` and `corrupt` ones stand for *count* events whose bytes are gone."""

    id: int
    destination: str
    reason: Reason
    position: Position
    count: int
    created_at: float  # seconds since the epoch
    status: int | None
    detail: str
    excerpt: bytes
    attempts: int
    event: Event | None  # None for a range
    redriving: bool


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What the queue knows about itself."""

    bytes: int  # on disk, in use
    max_bytes: int
    disk_free_bytes: int | None  # None where the queue lies on other machines
    batches: int
    events: int
    oldest_received_at: float | None
    head: Position  # where the next batch will go
    corrupt_batches: int
    quarantined_bodies: int  # kept in quarantine: undecodable bodies, and corrupt batches
    accepting: bool  # False while appends are refused for lack of room


@dataclass(frozen=True, slots=True)
class ReaderInfo:
    """A reader as `status` shows it."""

    id: int
    destination: str
    kind: ReaderKind
    backlog: int
    total: int | None  # events in a bounded range
    rate: float | None


class Queue(Protocol):
    """The durable log with its readers, dead letters and books."""

    @property
    def sees_delivery(self) -> bool:
        """Whether books, readers and holds are those of the whole relay, to be read and changed here.

        False only in a process that accepts beside another one that delivers and keeps them to itself.
        """
        ...

    async def append(self, batches: Sequence[Batch]) -> Receipt:
        """Store the batches of one request, all or none, durably; drop what was accepted before.

        Raises `QueueFull` when there is no room and `QueueError` when the commit failed; in both
        cases nothing of the request is stored.
        """
        ...

    async def set_sources(self, deduplicate: Mapping[str, float | None]) -> None:
        """Make sources known, each with its deduplication window in seconds or None."""
        ...

    def judge_by(self, judge: Judge) -> None:
        """Whom to ask, from now on, where events say the same and are signed otherwise.

        Until then only events with equal ids are the same.
        """
        ...

    async def append_wait(self, after: int) -> int:
        """Wait until something was appended since the call that returned *after*; return the new mark.

        Wakes up spuriously, and when a destination's readers or hold changed. Start with 0, which
        returns at once.
        """
        ...

    async def quarantine(self, source: str, body: bytes, cause: str) -> None:
        """Keep a request body that could not be decoded, within a bounded space."""
        ...

    async def attach(self, destination: str, start: Literal["now", "earliest"]) -> Sequence[Reader]:
        """The readers of a destination, the live one first; created at *start* on first sight.

        A destination named in the configuration when the queue is new owes everything from then
        on. `earliest` gives a destination added later a back-fill reader over what is retained.
        """
        ...

    def readers(self, destination: str) -> Sequence[Reader]:
        """The destination's readers as they are now, the live one first."""
        ...

    async def lease(self, destination: str) -> Lease:
        """Wait until this process is the one that delivers to *destination*, which it has attached.

        Whoever has waited asks for `readers`, `hold` and the retry states anew: another process may
        have changed them. Cancelled while it waits, it leaves nothing taken.
        """
        ...

    async def forget(self, destination: str) -> None:
        """Drop a destination's readers, books and dead letters. Raises `NotFound`."""
        ...

    async def replay(self, destination: str, start: float, end: float, rate: float | None) -> ReaderInfo:
        """Send batches received in [start, end) again, at most *rate* events a second."""
        ...

    async def dead_letters(
        self, which: DeadLetterFilter, *, after: int = 0, limit: int = 100
    ) -> Sequence[StoredDeadLetter]:
        """Dead letters by ascending id, those with an id above *after*."""
        ...

    async def redrive(self, which: DeadLetterFilter) -> int:
        """Give these dead letters to a redrive reader; how many events."""
        ...

    async def discard(self, which: DeadLetterFilter) -> int:
        """Delete dead letters for good; how many events."""
        ...

    def hold(self, destination: str) -> Hold | None:
        """The destination's hold, as this process or another one set it last."""
        ...

    async def set_hold(self, destination: str, hold: Hold | None) -> None:
        """Put a hold in force or lift it, from the call on; stored durably when it returns."""
        ...

    def books(self, destination: str) -> Books: ...

    def accepted(self) -> Mapping[tuple[str, Format], int]:
        """Events accepted so far per source and format, since the queue was made."""
        ...

    def duplicates(self) -> Mapping[str, int]:
        """Events dropped as duplicates so far per source."""
        ...

    def last_received(self) -> Mapping[str, float]:
        """When each source last sent an accepted event, seconds since the epoch. Pulls do not count."""
        ...

    def destinations(self) -> Sequence[str]:
        """Every destination the queue knows, configured or not."""
        ...

    def reader_infos(self) -> Sequence[ReaderInfo]: ...

    def received(self, start: float, end: float) -> AsyncGenerator[StoredBatch, None]:
        """The batches received in [start, end) that are still there, in order; nothing is settled by this.

        Broken ones are left out. Raises `QueueError`.
        """
        ...

    async def open_gap(self, source: str, start: float, end: float, cause: str, *, refusals: int = 1) -> None:
        """Note that Konnect may have given up on events of *source*.

        Joined with a recent gap of the same cause. Kept in memory where it cannot be stored, and stored with
        the upkeep.
        """
        ...

    async def close_gap(
        self, number: int, *, at: float, lost_until: float | None = None, known: Gap | None = None
    ) -> None:
        """Nothing more can be fetched of a gap; stored durably when this returns.

        *lost_until* where Konnect had deleted its events from its start up to that time, *known* where it is
        to be closed only if it has not grown beyond that. Closing a closed gap changes nothing. Raises
        `NotFound`, `Conflict` where it has grown or another process has the gaps, or `QueueError`; after the
        last the gap is open again, here or after a restart.
        """
        ...

    async def beat(self, at: float) -> None:
        """Note durably that the relay accepts requests at *at*, in seconds since the epoch.

        Raises `QueueError`.
        """
        ...

    async def last_beat(self) -> float | None:
        """The last such note of any process on this queue; None where there is none. Raises `QueueError`."""
        ...

    async def gaps(self, *, include_closed: bool = False) -> Sequence[Gap]: ...

    async def note(self, name: str, text: str) -> None:
        """Keep a short text durably in place of the last one of this *name*, a word. Raises `QueueError`.

        For what saves work and may be lost: `queue migrate` leaves it behind.
        """
        ...

    async def last_note(self, name: str) -> str | None:
        """The last such text of any process on this queue; None where there is none. Raises `QueueError`."""
        ...

    async def announce(self, replica: Replica) -> None:
        """Tell the other processes of this relay what this one is and sees; again whenever it changes."""
        ...

    def replicas(self) -> Sequence[Replica]:
        """The processes at work on this queue, as they described themselves; this one first."""
        ...

    async def ping(self) -> None:
        """Prove that the queue can commit. Raises `QueueError`."""
        ...

    def stats(self) -> QueueStats: ...

    async def flush(self) -> None:
        """Store progress and counts that are only in memory yet. Raises `QueueError`.

        Whoever publishes the books calls this first: a counter that somebody has seen must not be lower
        after a crash.
        """
        ...

    async def close(self) -> None:
        """Store what is still in memory and let go of the queue."""
        ...
