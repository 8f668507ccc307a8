"""Room: retention, the size limit, and giving space back.

What is given back, and in which order, is the promise of architecture.md section 4: retained events that
everyone has; then what `laggards` lets the destination furthest behind give up; and otherwise nothing - the
intake refuses.

Every replica measures; one of them, the janitor, purges. Were there two for a moment, nothing breaks: where
the log begins is changed in the ledger, on condition, before anything is purged. Owns the limits and the
beginning of the log, never a watermark.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from relay.clock import Clock
from relay.errors import QueueFull
from relay.model import ReaderKind
from relay.queue.jetstream.accounts import PREFIX as DESTINATION
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.by_sequence import Message, get, get_next
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.log import Log
from relay.queue.jetstream.message import NotABatch, decode, token
from relay.queue.jetstream.record import Mark, ReaderRecord
from relay.queue.jetstream.walk import Step, walk

_BATCHES_A_STEP: Final = 500
_STEPS_A_ROUND: Final = 40
_NEAR: Final = 0.95  # of the limit: space is given back from here on, before anything is refused
_ROOM: Final = 0.90  # how far it is given back
_REFUSED_SECONDS: Final = 60.0  # how long the size at which the server refused is taken for its limit
_SEEN: Final = "seen.>"  # keys of the ids of purged batches, see `remembered`
_GIVEN_UP: Final = "expired"  # key of the number before which events are missing somewhere
_OWED: Final = (ReaderKind.LIVE, ReaderKind.BACKFILL)
_ALL: Final = (*_OWED, ReaderKind.REPLAY)


@dataclass(frozen=True, slots=True)
class Limits:
    max_bytes: int
    retention: float  # seconds
    release_laggards: bool


@dataclass(slots=True)
class Usage:
    """What was last measured; `bytes` grows with appends in between."""

    bytes: int = 0  # of both streams, on each server that holds them
    limit: int = 0  # for them: the configured one, or what the NATS account grants at present
    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    oldest_received_at: float | None = None

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit - self.bytes)


class Space:
    """Measures and gives back. `admit` is asked before every append.

    *window* tells a source's deduplication window in seconds, or None; *remember* keeps the ids of a batch
    that goes before its window is over.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        bucket: Bucket,
        accounts: Accounts,
        log: Log,
        limits: Limits,
        *,
        clock: Clock,
        window: Callable[[str], float | None],
        remember: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.limits = limits
        self.usage = Usage(limit=limits.max_bytes)
        self.accepting = True
        self._link = link
        self._stream = stream
        self._bucket = bucket
        self._accounts = accounts
        self._log = log
        self._clock = clock
        self._window = window
        self._remember = remember
        self._refused_at = 0  # bytes
        self._refused_until = clock.monotonic()
        self._subjects: frozenset[str] = frozenset()  # of accounts, also of those deleted of late

    # -- admission ---------------------------------------------------------------------------

    def admit(self, nbytes: int) -> None:
        """Raise `QueueFull` unless *nbytes* fit."""
        limit = self._limit()
        if self.usage.bytes + nbytes > limit:
            self.accepting = False
            raise QueueFull(f"the queue has reached its limit of {limit} bytes")
        self.accepting = True

    def appended(self, nbytes: int) -> None:
        self.usage.bytes += nbytes

    def refused(self) -> None:
        """The server had no room although `admit` saw some: its own limit is where we are, for a while."""
        self.accepting = False
        self._refused_at = self.usage.bytes
        self._refused_until = self._clock.monotonic() + _REFUSED_SECONDS

    def _limit(self) -> int:
        refused = self._clock.monotonic() < self._refused_until
        return min(self.usage.limit, self._refused_at) if refused else self.usage.limit

    def short(self, share: float = _NEAR) -> bool:
        """Whether space has to be given back."""
        return self.usage.bytes > share * self._limit()

    def lacking(self) -> int:
        """How many bytes have to be given back."""
        return self.usage.bytes - int(_ROOM * self._limit())

    # -- measuring ---------------------------------------------------------------------------

    async def measure(self) -> None:
        """Read the true figures; they replace what was added up since. Raises `QueueError`."""
        stream = await self._link.api(f"STREAM.INFO.{self._stream}")
        accounts = {"subjects_filter": f"{self._bucket.subject}{DESTINATION}.>"}
        state = (await self._link.api(f"STREAM.INFO.{self._bucket.stream}", accounts))["state"]
        free = _free(await self._link.api("INFO"), stream["config"]["num_replicas"])
        log = stream["state"]
        nbytes = log["bytes"] + state["bytes"]
        limit = self.limits.max_bytes if free is None else min(self.limits.max_bytes, nbytes + free)
        oldest = self.usage.oldest_received_at
        if log["first_seq"] != self.usage.first_seq or oldest is None:
            oldest = await self._received_at(log["first_seq"]) if log["messages"] else None
        self._subjects = frozenset(state.get("subjects") or ())
        self.usage = Usage(nbytes, limit, log["messages"], log["first_seq"], log["last_seq"], oldest)
        if not self.short():
            self.accepting = True

    async def _received_at(self, seq: int) -> float | None:
        """When the first batch at or after *seq* was received."""
        try:
            message = await get_next(self._link, self._stream, seq)
            return None if message is None else decode(message).received_at
        except NotABatch:
            return None

    # -- purging -----------------------------------------------------------------------------

    async def give_back(self) -> None:
        """The janitor's round of upkeep, after `measure`: retention, then size. Raises `QueueError`."""
        await self._learn_of_accounts()
        if self.usage.first_seq < self._log.ledger.first.seq and self.usage.messages:
            await self._begin_at(self._log.ledger.first)  # announced, and then somebody died
        await self._purge(_ALL, self._clock.now() - self.limits.retention)
        if self.short():
            # Replays do not hold space back: they go on from where the log begins.
            await self._purge(_OWED, None)
        if self.short():
            await self._forget_ids()

    async def _learn_of_accounts(self) -> None:
        """Read accounts that exist and are not known here: the watch may be behind, and they are owed."""
        known = {f"{self._bucket.subject}{DESTINATION}.{token(name)}" for name in self._accounts}
        for subject in self._subjects - known:
            entry = await self._bucket.get(subject.removeprefix(self._bucket.subject))
            if entry is not None:
                self._accounts.seen(entry)

    async def _purge(self, kinds: Sequence[ReaderKind], received_before: float | None) -> None:
        """Purge the oldest batches that no reader of these kinds needs: by age, or until there is room."""
        for _ in range(_STEPS_A_ROUND):
            if received_before is None:
                due = self.short(_ROOM)
            else:
                oldest = self.usage.oldest_received_at
                due = oldest is None or oldest < received_before
            # What is folded into the ledger is stored with it before it is purged: no count is ever lost.
            below = min([self._log.ledger.seq + 1, *[reader.mark.seq for reader in self._readers(kinds)]])
            if not due or not self.usage.messages or self._log.ledger.first.seq >= below:
                return
            going = await self._oldest(below, received_before)
            if not going:
                return
            await self._remember_ids(going)
            await self._begin_at(going[-1].end)

    async def _oldest(self, below: int, received_before: float | None) -> Sequence[Step]:
        found: list[Step] = []
        async with aclosing(walk(self._link, self._stream, self._log.ledger.first)) as steps:
            async for step in steps:
                young = received_before is not None and step.meta and step.meta.received_at >= received_before
                if step.seq >= below or young or len(found) == _BATCHES_A_STEP:
                    break
                found.append(step)
        return found

    async def _begin_at(self, first: Mark) -> None:
        """Purge what is before *first*, and measure."""
        # No wait between this and the conditional write in `purging`: whoever was janitor meanwhile and went
        # further has changed the ledger, which is seen here or fails there.
        if first.seq < self._log.ledger.first.seq:
            return
        await self._log.purging(first)
        await self._link.api(f"STREAM.PURGE.{self._stream}", {"seq": first.seq})
        await self.measure()

    async def _remember_ids(self, going: Sequence[Step]) -> None:
        """Keep the ids of batches while a second copy would be a duplicate, unless somebody lacks them.

        What a destination had to give up, a replay by Konnect may bring back.
        """
        wanted = [step for step in going if self._in_window(step)]
        if not wanted:
            return
        given_up, _ = await self._given_up()
        for step in wanted:
            if step.end.number <= given_up:
                continue
            if (message := await get(self._link, self._stream, step.seq)) is not None:
                await self._remember(message)

    def _in_window(self, step: Step) -> bool:
        if step.meta is None or not step.meta.count:
            return False
        window = self._window(step.meta.source)
        return window is not None and step.meta.received_at > self._clock.now() - window

    async def _forget_ids(self) -> None:
        """Forget the oldest ids before anything is refused: a duplicate is better than a loss."""
        while self.short(_ROOM) and (ids := await self._bucket.count(_SEEN)):
            await self._link.api(
                f"STREAM.PURGE.{self._bucket.stream}",
                {"filter": self._bucket.subject + _SEEN, "keep": ids // 2},
            )
            await self.measure()

    # -- what somebody lacks -----------------------------------------------------------------

    async def exhausted(self, behind: Mark) -> bool:
        """Whether nothing can be given back any more without taking it from the reader at *behind*."""
        return self.usage.first_seq >= behind.seq and not await self._bucket.count(_SEEN)

    async def _given_up(self) -> tuple[int, int | None]:
        """Events before this number are missing somewhere; and the revision of this knowledge."""
        entry = await self._bucket.get(_GIVEN_UP)
        return (1, None) if entry is None else (int(entry.value), entry.revision)

    async def note_given_up(self, number: int) -> None:
        """Somebody gives up events before *number*, as far as they are there. Raises `QueueError`."""
        before, revision = await self._given_up()
        if before < number:
            await self._bucket.put(_GIVEN_UP, b"%d" % number, revision=revision)

    def _readers(self, kinds: Sequence[ReaderKind]) -> Iterator[ReaderRecord]:
        """Those of these kinds that are not through, as they are stored."""
        for name in self._accounts:
            for reader in self._accounts[name].readers:
                through = reader.stop is not None and reader.mark.number >= reader.stop.number
                if reader.kind in kinds and not through:
                    yield reader


def _free(info: Mapping[str, Any], replicas: int) -> int | None:
    """Bytes that an account lets us store, on each server; None where it sets no limit.

    Usage is the sum over all servers. An account's limit is for that sum, the limit of a tier for one server:
    https://docs.nats.io/running-a-nats-service/nats_admin/jetstream_admin/account
    """
    tier = info.get("tiers", {}).get(f"R{replicas}")
    if tier is not None:
        limit, used = tier["limits"]["max_storage"] * replicas, tier["storage"]
    else:
        limit, used = info["limits"]["max_storage"], info["storage"]
    return max(0, (limit - used) // replicas) if limit > 0 else None
