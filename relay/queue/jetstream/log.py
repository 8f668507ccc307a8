"""The end of the log as this replica knows it: follows the stream, keeps the ledger, wakes who waits.

What this replica publishes itself enters the ledger with its acknowledgement, as soon as everything
before it is known; what other replicas publish comes by following the stream's headers. Owns the ledger and
a small cache of batches, so that destinations that are up to date share what was decoded once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Final

from relay.batch import StoredBatch
from relay.clock import Clock
from relay.errors import QueueError
from relay.model import Format
from relay.observe.logs import Log as Logger
from relay.queue.jetstream.bucket import Bucket, Entry, Stale
from relay.queue.jetstream.by_sequence import Message, get, last_sequence
from relay.queue.jetstream.fetch import scan
from relay.queue.jetstream.follow import Follow
from relay.queue.jetstream.ledger import KEY, Ledger, dump, load
from relay.queue.jetstream.link import ApiError, Link
from relay.queue.jetstream.message import Meta, Newer, NotABatch, decode, encode_loss
from relay.queue.jetstream.message import stored as stored_batch
from relay.queue.jetstream.pausing import pause
from relay.queue.jetstream.record import Mark
from relay.queue.jetstream.walk import walk

_CACHE_BYTES: Final = 16 << 20
_RECENT: Final = 4_096  # messages by which it is recognised where a stream that lost some went another way
_MEET_SECONDS: Final = 8.0  # within it a sender is told that nothing was stored
_AGAIN_SECONDS: Final = 0.5  # between attempts to follow the stream
# A replica that cannot read the log for so long neither accepts nor delivers: it does not see what others
# accept, and what it accepts itself piles up. An election is over before.
_STALLED_SECONDS: Final = 10.0
_MOST_OWN: Final = 20_000  # messages that were acknowledged and not yet come to in the log
_LINE_COSTS: Final = 3  # a cached batch holds its payload, its body and perhaps its lines


@dataclass(frozen=True, slots=True)
class _Own:
    """A message of ours that was acknowledged; None where it is not kept for the cache."""

    meta: Meta
    payload: bytes | None
    body: bytes

    @property
    def nbytes(self) -> int:
        return len(self.payload or b"") + len(self.body)


class Log:
    """Made with the last stored ledger; `run` follows."""

    def __init__(
        self,
        link: Link,
        stream: str,
        bucket: Bucket,
        *,
        foreign: Callable[[Meta], None],
        lost: Callable[[Ledger], None],
        replica: str,
        clock: Clock,
        log: Logger,
    ) -> None:
        self.ledger = Ledger()
        self.head = 0  # last sequence known to be in the stream
        self.stored_seq = 0  # what the stored snapshot covers
        self.caught_up = asyncio.Event()
        self.met = asyncio.Event()  # the stream is known to be no shorter than the ledger, on this connection
        self._link = link
        self._stream = stream
        self._bucket = bucket
        self._foreign = foreign
        self._lost = lost  # called with the ledger when the stream lacks what was acknowledged
        self._replica = replica
        self._clock = clock
        self._logger = log
        self._revision = 0
        self._own: dict[int, _Own] = {}  # acknowledged, not folded
        self._own_bytes = 0
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)  # sequences and checksums
        self._cache: OrderedDict[int, tuple[StoredBatch, int]] = OrderedDict()
        self._cached_bytes = 0
        self._drops = 0  # of the connection
        self._claiming = False  # we counted more than the log tells
        self._trouble: QueueError | None = None  # why the stream cannot be followed
        self._failing_since: float | None = None  # by the monotonic clock
        self.when_resumed: list[Callable[[], None]] = []  # called when it is followed again
        self._mark = 0
        self._changed = asyncio.Event()

    async def load(self, marks: Sequence[Mark] = ()) -> None:
        """Begin with the stored ledger. *marks* are places that readers have reached. Raises `QueueError`."""
        entry = await self._bucket.get(KEY)
        if entry is not None:
            self.seen(entry)
            self.ledger = load(entry.value)
        await self._meet_stream()
        furthest = max(marks, key=lambda mark: mark.seq, default=None)
        if furthest is None:
            return
        last = await last_sequence(self._link, self._stream, known=furthest.seq - 1)
        if furthest.seq <= last + 1:
            return
        # The ledger was stored before what was lost was appended, but somebody had read that already.
        start = Mark(self.ledger.seq + 1, self.ledger.number)
        async with aclosing(walk(self._link, self._stream, start)) as steps:
            async for step in steps:
                self.ledger.seq = step.seq
                if step.meta is not None:
                    self.ledger.fold(step.meta)
        self.ledger.number = max([self.ledger.number, *[mark.number for mark in marks]])
        await self._prove(last, self.ledger)
        self._lose(furthest.seq - 1, last)

    async def _meet_stream(self) -> None:
        """A cluster that lost power may come back with less than it had acknowledged."""
        known = max([self.ledger.seq, *self._own])
        ends = await last_sequence(self._link, self._stream, known=known)
        last = await self._agreed(ends)
        if last >= known:
            self.head = max(self.head, self.ledger.seq)
            return
        counted = deepcopy(self.ledger)
        for seq in sorted(self._own):  # accepted all the same
            counted.fold(self._own[seq].meta)
        if last == ends:
            await self._prove(last, counted)
        else:  # others have said so already; what they counted may be less
            self._claiming = True
        # Not before: where nothing was lost, what others accepted in between is still to be counted.
        for seq in sorted(self._own):
            self._fold_own(seq)
        self._lose(known, last)
        self.head = self.ledger.seq

    async def _prove(self, last: int, counted: Ledger) -> None:
        """Have a quorum confirm that the stream ends with *last*, and note how far we had *counted*.

        A server that was the leader until a moment ago would tell us the same of a stream that goes on.
        Raises `QueueError` where that is not so.
        """
        at = max([totals.last_received for totals in counted.sources.values()], default=0.0)
        await self._link.publish(encode_loss(self._stream, at, counted.number, last))

    async def _claim(self) -> None:
        """Other replicas counted less than we did before the loss: tell them where the log ends now."""
        with suppress(ApiError):  # it went on meanwhile; there is a next time
            await self._prove(self.ledger.seq, self.ledger)
            self._claiming = False

    async def _agreed(self, last: int) -> int:
        """Up to which sequence the stream, which ends with *last*, is as we know it.

        Other replicas may have been faster and appended something where it ended.
        """
        if not self._recent:
            return last
        newest, checksum = self._recent[-1]
        if newest <= last:
            message = await get(self._link, self._stream, newest)
            if message is None or _checksum(message) in (None, checksum):
                return last
        known = dict(self._recent)
        start = self._recent[0][0]
        async with aclosing(scan(self._link, self._stream, start=start, headers_only=True)) as messages:
            async for message in messages:
                if message.seq in known and _checksum(message) not in (None, known[message.seq]):
                    return message.seq - 1
        if newest <= last:
            raise QueueError("the servers do not agree yet on what is in the stream")
        return last

    def _lose(self, known: int, last: int) -> None:
        """The stream is ours up to *last* and had reached *known*: the sequences behind are given away."""
        # The books keep what was lost, so every reader misses it when it has read everything else.
        self._logger.error("queue.lost_batches", batches=known - last)
        self.ledger.seq = last
        self.stored_seq = min(self.stored_seq, last - 1)
        self._recent = deque([each for each in self._recent if each[0] <= last], _RECENT)
        self._cache.clear()
        self._cached_bytes = 0
        self._lost(self.ledger)

    def dropped(self) -> None:
        """The connection was lost: whatever answers next may have forgotten something."""
        self._drops += 1
        self.met.clear()

    async def meet(self) -> None:
        """Wait until it is known whether something was lost. Nothing may be appended before.

        It would get sequences that readers and books connect with what was lost. Nor while the log cannot be
        read; where only another relay can, the sender is told at once, to find that one. Raises `QueueError`.
        """
        stalled = self.stalled()
        if stalled is not None:
            self.met.clear()
            if isinstance(self._trouble, Newer):
                raise QueueError(stalled)
        if len(self._own) >= _MOST_OWN:
            raise QueueError("what was accepted here is too far ahead of the log as it comes back")
        if self.met.is_set():
            return
        try:
            async with asyncio.timeout(_MEET_SECONDS):
                await self.met.wait()
        except TimeoutError:
            why = "" if self._trouble is None else f": {self._trouble}"
            raise QueueError(f"NATS could not be reached within {_MEET_SECONDS:g} s{why}") from None

    @property
    def trouble(self) -> str | None:
        """Why the stream cannot be followed at this moment."""
        return None if self._trouble is None else str(self._trouble)

    def stalled(self) -> str | None:
        """Why this replica is of no use at present: it has not been able to read the log for some time."""
        if self._failing_since is None:
            return None
        seconds = self._clock.monotonic() - self._failing_since
        if seconds < _STALLED_SECONDS:
            return None
        return f"the log cannot be followed for {seconds:.0f} s: {self._trouble}"

    async def run(self) -> None:
        """Follow the stream without end."""
        while True:
            follow = Follow(self._link, self._stream, headers_only=True)
            try:
                drops = self._drops
                await self._meet_stream()
                async for messages in follow.run(self.ledger.seq + 1):
                    if drops != self._drops:
                        break
                    for message in messages:
                        self._follow(message)
                    self._succeeded()
                    if messages:
                        self.wake()
                    else:
                        self.caught_up.set()
                        if self._claiming:
                            await self._claim()
            except QueueError as error:
                self._failed(error)
                await pause(_AGAIN_SECONDS)

    def _failed(self, error: QueueError) -> None:
        if str(error) != self.trouble:
            self._logger.warning("queue.follow_failed", detail=str(error))
            self.wake()  # what came before it can be read
        self._trouble = error
        if self._failing_since is None:
            self._failing_since = self._clock.monotonic()

    def _succeeded(self) -> None:
        if self._trouble is not None:
            self._trouble = self._failing_since = None
            self._logger.info("queue.follows")
            for tell in self.when_resumed:
                tell()
        if not self.met.is_set():
            self.met.set()
            self.wake()

    def _follow(self, message: Message) -> None:
        if message.seq <= self.ledger.seq:
            return  # our own, folded with its acknowledgement
        self.head = max(self.head, message.seq)
        # Sequences that are missing were deleted, except for our own: those were accepted, so they count.
        for seq in sorted(seq for seq in self._own if seq < message.seq):
            self._fold_own(seq)
        if message.seq in self._own:
            self._fold_own(message.seq)
            return
        try:
            meta = decode(message)
        except NotABatch as error:
            self._logger.error("queue.foreign_message", detail=str(error))  # noqa: TRY400 - nothing of ours
            self.ledger.seq = message.seq
            return
        self.ledger.fold(meta)
        self._recent.append((meta.seq, meta.checksum))
        if meta.replica != self._replica:
            self._foreign(meta)

    def published(self, meta: Meta, payload: bytes, body: bytes) -> None:
        """This replica's own message was acknowledged."""
        self.head = max(self.head, meta.seq)
        if meta.seq > self.ledger.seq:
            own = _Own(meta, payload, body)
            if self._own_bytes + own.nbytes > _CACHE_BYTES:  # whoever delivers it gets it from the stream
                own = _Own(replace(meta, hashes=None, ordinals=None), None, b"")
            self._own[meta.seq] = own
            self._own_bytes += own.nbytes
            while self.ledger.seq + 1 in self._own:
                self._fold_own(self.ledger.seq + 1)
        self.wake()

    def _fold_own(self, seq: int) -> None:
        own = self._own.pop(seq)
        self._own_bytes -= own.nbytes
        meta = own.meta
        number = self.ledger.fold(meta)
        self._recent.append((meta.seq, meta.checksum))
        if meta.count and own.payload is not None:
            self.remember(meta.seq, stored_batch(meta, number, own.payload, own.body))

    # -- totals ------------------------------------------------------------------------------

    def accepted(self) -> Mapping[tuple[str, Format], int]:
        """Events by source and format."""
        sources = self.ledger.sources.items()
        return {(name, form): n for name, totals in sources for form, n in totals.accepted.items()}

    def duplicates(self) -> Mapping[str, int]:
        return {name: totals.duplicates for name, totals in self.ledger.sources.items()}

    def last_received(self) -> Mapping[str, float]:
        """Seconds since the epoch."""
        sources = self.ledger.sources.items()
        return {name: totals.last_received for name, totals in sources if totals.last_received}

    def newest(self) -> Mapping[str, int]:
        """The newest event time of each source, in milliseconds since the epoch."""
        return {name: totals.newest for name, totals in self.ledger.sources.items()}

    # -- shared batches ----------------------------------------------------------------------

    def cached(self, seq: int) -> StoredBatch | None:
        found = self._cache.get(seq)
        return None if found is None else found[0]

    def remember(self, seq: int, batch: StoredBatch) -> None:
        """Keep a batch for the other destinations, within a few megabytes."""
        if seq in self._cache:
            return
        size = len(batch.payload) + _LINE_COSTS * batch.nbytes
        self._cache[seq] = (batch, size)
        self._cached_bytes += size
        while self._cached_bytes > _CACHE_BYTES:
            _, (_, gone) = self._cache.popitem(last=False)
            self._cached_bytes -= gone

    # -- waiting -----------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was appended, or a reader or a hold changed."""
        self._mark += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def append_wait(self, after: int) -> int:
        if self._mark <= after:
            await self._changed.wait()
        return self._mark

    # -- the stored ledger -------------------------------------------------------------------

    def seen(self, entry: Entry) -> None:
        """The watch saw the stored ledger."""
        if entry.deleted:  # by hand: it is written anew, from what is known here
            self._revision = max(self._revision, entry.revision)
            self.stored_seq = -1
        elif entry.revision > self._revision:
            stored = load(entry.value)
            self._revision = entry.revision
            self.stored_seq = stored.seq
            self.ledger.first = max(self.ledger.first, stored.first, key=lambda mark: mark.seq)

    async def store(self) -> None:
        """Store the ledger, unless another replica stored a later one. Raises `QueueError`."""
        if self.ledger.seq <= self.stored_seq:
            return
        await self._store()

    async def purging(self, first: Mark) -> None:
        """What is before *first* is about to be purged: from now on the log begins there."""
        self.ledger.first = first
        await self._store()

    async def _store(self) -> None:
        seq = self.ledger.seq
        try:
            self._revision = await self._bucket.put(KEY, dump(self.ledger), revision=self._revision)
        except Stale:
            # Whatever there is counts, an earlier revision as well: the cluster may have forgotten changes.
            entry = await self._bucket.get(KEY)
            self._revision = 0 if entry is not None else await self._bucket.revision(KEY)
            if entry is not None:
                self.seen(entry)
            raise
        self.stored_seq = seq


def _checksum(message: Message) -> int | None:
    """That of its batch; None where it holds none."""
    try:
        return decode(message).checksum
    except NotABatch:
        return None
