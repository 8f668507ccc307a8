"""The queue on NATS JetStream: opens the parts in order, connects them, and closes them in reverse.

    append ──▶ Deduplicator ──▶ publish ──ack──▶ Log (ledger, wake-up) ◀── follows what others publish
    readers ──▶ Holding ──one commit──▶ account + dead letters (state bucket) ──▶ acknowledgements
    Watch ──▶ Accounts, Members, Gaps, Log          Upkeep ──▶ progress, room

Any number of replicas work on one stream; none is special. docs/jetstream.md tells what is promised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final, Literal, Self

from relay.batch import StoredBatch
from relay.clock import Clock
from relay.config.queue import JetStreamQueueConfig
from relay.errors import QueueError
from relay.model import Batch, Books, Format, Gap, Hold, Position, Receipt, Replica
from relay.observe.logs import Log as Logger
from relay.queue.base import (
    DeadLetterFilter,
    Lease,
    Observer,
    QueueStats,
    Reader,
    ReaderInfo,
    StoredDeadLetter,
)
from relay.queue.dedup.judge import Judge
from relay.queue.jetstream.accounts import PREFIX as ACCOUNTS
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.appending import Appending
from relay.queue.jetstream.assets import ensure
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.client import Client
from relay.queue.jetstream.connect import connect
from relay.queue.jetstream.deadletters import Letters
from relay.queue.jetstream.deduplicate import Deduplicator
from relay.queue.jetstream.durability import report
from relay.queue.jetstream.gaps import ALIVE, Gaps, dump_alive, read_alive
from relay.queue.jetstream.isolation import Isolation
from relay.queue.jetstream.janitor import JanitorLease
from relay.queue.jetstream.laggards import Laggards, expire_idle
from relay.queue.jetstream.leases import Leases
from relay.queue.jetstream.ledger import KEY as LEDGER
from relay.queue.jetstream.ledger import Ledger
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.log import Log
from relay.queue.jetstream.members import PREFIX as REPLICAS
from relay.queue.jetstream.members import Members
from relay.queue.jetstream.message import Meta
from relay.queue.jetstream.moving import refuse_unfinished
from relay.queue.jetstream.pausing import pause
from relay.queue.jetstream.quarantine import Quarantine
from relay.queue.jetstream.received import received
from relay.queue.jetstream.record import Account, LeaseLost, Mark
from relay.queue.jetstream.roster import Roster, Surroundings
from relay.queue.jetstream.space import Limits, Space
from relay.queue.jetstream.upkeep import Upkeep
from relay.queue.jetstream.watch import Watch

_CLOSE_SECONDS: Final = 2.0  # for each of three farewells
_LOOP_PAUSE: Final = 1.0  # seconds before a loop that failed begins anew
_READY_SECONDS: Final = 60.0  # to follow the log from the last stored ledger to its end


class JetStreamQueue:
    """See `relay.queue.base.Queue`. Made by `open`."""

    sees_delivery = True  # the books are in the state bucket, for every replica to read

    def __init__(
        self,
        config: JetStreamQueueConfig,
        client: Client,
        link: Link,
        *,
        replica: str,
        clock: Clock,
        observer: Observer,
        log: Logger,
    ) -> None:
        prefix = config.stream
        self._prefix = prefix
        self._link = link
        self._clock = clock
        self._observer = observer
        self._logger = log
        self._max_bytes = config.max_bytes
        self._corrupt = 0
        bucket = Bucket(link, f"{prefix}-state")
        self._bucket = bucket
        self._dedup = Deduplicator(link, prefix, bucket, replica=replica, clock=clock)
        self._log = Log(
            link,
            prefix,
            bucket,
            foreign=self._dedup.foreign,
            lost=self._lost,
            replica=replica,
            clock=clock,
            log=log,
        )
        self._accounts = Accounts(bucket, replica, self._account_changed)
        self._members = Members(bucket, replica, clock=clock, log=log)
        self._letters = Letters(bucket, self._accounts)
        self._gaps = Gaps(bucket)
        self._quarantine = Quarantine(link, bucket, clock)
        self._roster = Roster(
            Surroundings(
                link,
                prefix,
                bucket,
                self._accounts,
                self._log,
                self._letters,
                self,
                clock,
                log,
                manage=config.manage,
            ),
            fence=self._fence,
        )
        self._leases = Leases(
            self._accounts,
            self._members,
            prepare=self._roster.prepare,
            settle=self._roster.settle,
            unable=self._log.stalled,
            clock=clock,
            log=log,
        )
        self._log.when_resumed.append(self._leases.wake)
        self._space = Space(
            link,
            prefix,
            bucket,
            self._accounts,
            self._log,
            Limits(config.max_bytes, config.retention, config.when_full == "release_laggards"),
            clock=clock,
            window=self._dedup.window,
            remember=self._dedup.remember,
        )
        self._laggards = Laggards(
            link, prefix, self._accounts, self._log, self._space, expire=self._expire, logger=log
        )
        self._appending = Appending(
            link,
            prefix,
            self._dedup,
            self._space,
            self._log,
            replica=replica,
            clock=clock,
            observer=observer,
        )
        self._isolation = Isolation(client, self._members, clock=clock, log=log)
        self._janitor = JanitorLease(bucket, self._members, unable=self._log.stalled, log=log)
        self._upkeep = Upkeep(
            clock=clock,
            janitor=self._janitor,
            roster=self._roster,
            space=self._space,
            laggards=self._laggards,
            log=self._log,
            gaps=self._gaps,
            quarantine=self._quarantine,
            accounts=self._accounts,
        )
        self._watch = Watch(
            link,
            bucket,
            {
                ACCOUNTS: self._accounts.seen,
                REPLICAS: self._members.seen,
                "gap": self._gaps.seen,
                LEDGER: self._log.seen,
            },
            log=log,
            changed=self._leases.wake,
            lost=self._accounts.forget_all,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @classmethod
    async def open(
        cls,
        config: JetStreamQueueConfig,
        *,
        replica: str,
        clock: Clock,
        metrics: Observer,
        log: Logger,
        deduplicate: Mapping[str, float | None] | None = None,
    ) -> Self:
        """Connect, make or check the streams, and follow the log to its end.

        *replica* is this process's id, new with every start; *deduplicate* each source's window in
        seconds, None to switch it off. Raises `QueueError`.
        """
        client = await connect(config, log=log, name=f"konnect-relay {replica}")
        link = await Link.open(client, api_prefix=config.api_prefix)
        client.when_dropped.append(link.dropped)
        client.when_forbidden.append(link.forbidden)
        try:
            await ensure(link, config, log=log)
            await report(config, log=log)
            queue = cls(config, client, link, replica=replica, clock=clock, observer=metrics, log=log)
            client.when_dropped += [queue._log.dropped, queue._isolation.dropped]
            await queue._start(deduplicate or {})
        except BaseException:
            await link.close()
            raise
        return queue

    async def _start(self, deduplicate: Mapping[str, float | None]) -> None:
        await refuse_unfinished(self._bucket)
        try:
            self._run(self._watch.run)
            await _soon(self._watch.complete, "its state bucket", lambda: self._watch.trouble)
            await self._log.load(self._roster.marks())
            self._dedup.start(self._log.newest())
            self._dedup.set_sources(deduplicate)
            self._run(self._log.run)
            await _soon(self._log.caught_up, "its stream", lambda: self._log.trouble)
            await self._quarantine.count()
            await self._space.measure()
            await self._roster.refresh_hints()
        except BaseException:
            await self._stop_tasks()
            raise
        self._run(self._members.run)
        self._run(self._isolation.run)
        self._run(self._leases.run)
        self._run(self._upkeep.store_progress)
        self._run(self._upkeep.keep_house)

    def _run(self, loop: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(self._again(loop)))  # noqa: TID251 - awaited in close()

    async def _again(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A bug in one of the loops must not leave a relay that only looks alive: log it and begin anew."""
        while True:
            try:
                await loop()
            except Exception:
                self._logger.exception("queue.loop_failed")
                await pause(_LOOP_PAUSE)

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _account_changed(self, name: str) -> None:
        self._roster.sync(name)
        self._leases.wake()
        self._log.wake()

    def _fence(self, account: Account) -> None:
        self._leases.fence(account)

    def _lost(self, ledger: Ledger) -> None:
        """The cluster forgot what it had acknowledged: Konnect may still have it."""
        self._roster.cut(ledger.seq)
        self._dedup.forget_stored()
        now = self._clock.now()
        for source, totals in ledger.sources.items():
            self._gaps.note(source, totals.last_received or now, now, "lost by the cluster")

    # -- intake ------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Batch]) -> Receipt:
        if not batches:
            return Receipt(0, 0)
        await self._log.meet()
        return await self._appending.append(batches)

    async def set_sources(self, deduplicate: Mapping[str, float | None]) -> None:
        self._dedup.set_sources(deduplicate)

    def judge_by(self, judge: Judge) -> None:
        self._dedup.judge_by(judge)

    async def append_wait(self, after: int) -> int:
        return await self._log.append_wait(after)

    async def quarantine(self, source: str, body: bytes, cause: str) -> None:
        await self._quarantine.keep_body(source, body, cause)

    async def keep_corrupt(self, meta: Meta, payload: bytes) -> None:
        """See `readers.Keeper`."""
        # Nothing is left of events that a move of the queue did not find any more.
        if payload and await self._quarantine.keep_batch(meta, payload):
            self._corrupt += 1
            self._observer.corrupt(1)

    # -- delivery ----------------------------------------------------------------------------

    async def attach(self, destination: str, start: Literal["now", "earliest"]) -> Sequence[Reader]:
        return await self._roster.attach(destination, start)

    async def lease(self, destination: str) -> Lease:
        return await self._leases.lease(destination)

    def readers(self, destination: str) -> Sequence[Reader]:
        return self._roster.readers(destination)

    async def forget(self, destination: str) -> None:
        await self._roster.forget(destination)

    async def replay(self, destination: str, start: float, end: float, rate: float | None) -> ReaderInfo:
        return await self._roster.replay(destination, start, end, rate)

    def hold(self, destination: str) -> Hold | None:
        return self._roster.hold(destination)

    async def set_hold(self, destination: str, hold: Hold | None) -> None:
        await self._roster.set_hold(destination, hold)

    def destinations(self) -> Sequence[str]:
        return list(self._accounts)

    def reader_infos(self) -> Sequence[ReaderInfo]:
        return self._roster.infos()

    async def _expire(self, destination: str, to: Mark) -> int:
        """Give up events where this replica may: what it delivers itself, and what nobody does."""
        if destination in self._roster.held():
            return await self._roster.expire(destination, to)
        if not await self._janitor.ours():
            return 0
        alive = self._members.is_alive
        return await expire_idle(self._accounts, destination, to, alive=alive, clock=self._clock)

    # -- dead letters ------------------------------------------------------------------------

    async def dead_letters(
        self, which: DeadLetterFilter, *, after: int = 0, limit: int = 100
    ) -> Sequence[StoredDeadLetter]:
        await self._upkeep.store()
        return await self._letters.find(which, after=after, limit=limit)

    async def redrive(self, which: DeadLetterFilter) -> int:
        await self._upkeep.store()
        return await self._letters.redrive(which)

    async def discard(self, which: DeadLetterFilter) -> int:
        await self._upkeep.store()
        return await self._letters.discard(which)

    # -- the books ---------------------------------------------------------------------------

    def books(self, destination: str) -> Books:
        return self._roster.books(destination)

    def accepted(self) -> Mapping[tuple[str, Format], int]:
        return self._log.accepted()

    def duplicates(self) -> Mapping[str, int]:
        return self._log.duplicates()

    def last_received(self) -> Mapping[str, float]:
        return self._log.last_received()

    async def received(self, start: float, end: float) -> AsyncGenerator[StoredBatch, None]:
        first = self._log.ledger.first
        async with aclosing(received(self._link, self._prefix, first, start, end)) as batches:
            async for batch in batches:
                yield batch

    async def open_gap(self, source: str, start: float, end: float, cause: str, *, refusals: int = 1) -> None:
        self._gaps.note(source, start, end, cause, refusals)

    async def close_gap(
        self, number: int, *, at: float, lost_until: float | None = None, known: Gap | None = None
    ) -> None:
        await self._gaps.close(number, at, lost_until, known)

    async def gaps(self, *, include_closed: bool = False) -> Sequence[Gap]:
        return self._gaps.all() if include_closed else self._gaps.open()

    async def note(self, name: str, text: str) -> None:
        await self._bucket.put(f"note.{name}", text.encode())

    async def last_note(self, name: str) -> str | None:
        entry = await self._bucket.get(f"note.{name}")
        return None if entry is None else entry.value.decode(errors="replace")

    async def beat(self, at: float) -> None:
        await self._bucket.put(ALIVE, dump_alive(at))

    async def last_beat(self) -> float | None:
        return await read_alive(self._bucket)

    def stats(self) -> QueueStats:
        usage = self._space.usage
        return QueueStats(
            bytes=usage.bytes,
            max_bytes=self._max_bytes,
            disk_free_bytes=None,  # no server tells how much its disk has left
            batches=usage.messages,
            events=self._log.ledger.number - self._log.ledger.first.number,
            oldest_received_at=usage.oldest_received_at,
            head=Position(self._log.ledger.number),
            corrupt_batches=self._corrupt,
            quarantined_bodies=self._quarantine.entries,
            accepting=self._space.accepting,
        )

    # -- the cluster -------------------------------------------------------------------------

    async def announce(self, replica: Replica) -> None:
        await self._members.announce(replica)

    def replicas(self) -> Sequence[Replica]:
        return self._members.alive()

    async def ping(self) -> None:
        self._space.admit(0)
        if (stalled := self._log.stalled()) is not None:
            raise QueueError(stalled)
        info = await self._link.api(f"STREAM.INFO.{self._prefix}")
        cluster = info.get("cluster")
        if cluster is not None and not cluster.get("leader"):
            raise QueueError("the NATS stream has no leader")
        await self._bucket.put("ping", b"")

    async def flush(self) -> None:
        for name in self._roster.held():
            with suppress(LeaseLost):  # nothing is ours any more to be stored, nor shown
                await self._roster.store(name)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            for step in (self._leases.close, self._gaps.write, self._members.leave):
                # Where NATS is away the others find out by our silence; the process has to end in time.
                with suppress(QueueError, TimeoutError):
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await step()
            await self._stop_tasks()
        finally:
            await self._link.close()


async def _soon(event: asyncio.Event, what: str, trouble: Callable[[], str | None]) -> None:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await event.wait()
    except TimeoutError:
        why = trouble() or "it is still coming"
        raise QueueError(f"NATS did not give {what} within {_READY_SECONDS:g} s: {why}") from None
