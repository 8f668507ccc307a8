"""The SQLite queue's front: opens the parts in order, connects them, and closes them in reverse.

    append ──▶ Writer (group commit) ──▶ EventLog (dedup, rows)
                  ▲    then: Tail (head, totals, wake-up), cache
    Progress ─────┤◀── readers settle into Accounts
    Space ────────┘    upkeep: measure, purge, release, vacuum

Everything in memory belongs to the event loop, except `EventLog`, which belongs to the writer's thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Literal, Self

from relay.batch import StoredBatch
from relay.clock import Clock
from relay.config.queue import SqliteQueueConfig
from relay.errors import Conflict, QueueError
from relay.model import (
    Batch,
    Books,
    Format,
    Gap,
    Hold,
    Position,
    Receipt,
    Replica,
    Role,
)
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
from relay.queue.dedup.judge import Judge, NoJudge, vouch
from relay.queue.sqlite import deadletters
from relay.queue.sqlite.accounts import Progress
from relay.queue.sqlite.alone import OnlyReplica, OwnLease
from relay.queue.sqlite.database import FileLock, open_database
from relay.queue.sqlite.gaps import ALIVE, Gaps
from relay.queue.sqlite.gaps import COLUMNS as GAP_COLUMNS
from relay.queue.sqlite.log import Appended, EventLog, Undecided
from relay.queue.sqlite.quarantine import Quarantine
from relay.queue.sqlite.readers import RELEASED
from relay.queue.sqlite.roster import Roster
from relay.queue.sqlite.rows import BatchRow
from relay.queue.sqlite.sources import Sources
from relay.queue.sqlite.space import Limits, Space
from relay.queue.sqlite.store import BatchStore
from relay.queue.sqlite.tail import Tail
from relay.queue.sqlite.writer import Writer

_UPKEEP_SECONDS = 1.0


class _Silent:
    def commit(self, batches: int, seconds: float) -> None: ...

    def corrupt(self, batches: int) -> None: ...


class SqliteQueue:
    """See `relay.queue.base.Queue`. Made by `open`."""

    def __init__(
        self,
        config: SqliteQueueConfig,
        connection: sqlite3.Connection,
        lock: FileLock,
        *,
        clock: Clock,
        observer: Observer,
        log: Logger | None,
        deduplicate: Mapping[str, float | None],
        role: Role,
    ) -> None:
        self._clock = clock
        self._observer = observer
        self._logger = log
        self._lock = lock
        self._role = role
        self._max_bytes = config.max_bytes
        self._windows_by_name = dict(deduplicate)
        self._sources = Sources(connection)
        self._judge: Judge = NoJudge()
        self._tail = Tail(connection)
        self._gaps = Gaps(connection)
        self._corrupt = 0
        self._log = EventLog(connection)
        self._writer = Writer(connection, config.path, self._log, clock=clock, on_commit=observer.commit)
        self._quarantine = Quarantine(connection, self._writer, clock)
        self._progress = Progress(self._writer)
        self._store = BatchStore(config.path, self._sources.names, self._quarantine_batch)
        self._roster = Roster(
            connection, log=self, store=self._store, writer=self._writer, progress=self._progress, clock=clock
        )
        self._space = Space(
            config.path,
            Limits(
                config.max_bytes,
                config.min_free_disk,
                config.retention,
                config.when_full == "release_laggards",
            ),
            self._writer,
            self._progress,
            clock=clock,
            windows=self._sources.windows,
            readers=self._roster.log_readers,
            head=lambda: self._tail.head,
            deleted=self._tail.deleted,
            released=self._released,
        )
        self._replicas = OnlyReplica()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @classmethod
    async def open(
        cls,
        config: SqliteQueueConfig,
        *,
        clock: Clock,
        metrics: Observer | None = None,
        log: Logger | None = None,
        deduplicate: Mapping[str, float | None] | None = None,
        role: Role = "all",
    ) -> Self:
        """Open or create the queue for this process's *role*.

        *deduplicate* is each source's window in seconds, None to switch it off. Raises
        `QueueLocked` when another relay has it open, `QueueCorrupt` or `QueueError`.
        """
        lock = FileLock(config.path, role)
        try:
            connection = await asyncio.to_thread(open_database, config.path)
            queue = cls(
                config,
                connection,
                lock,
                clock=clock,
                observer=metrics or _Silent(),
                log=log,
                deduplicate=deduplicate or {},
                role=role,
            )
            await queue._start()
        except BaseException:
            lock.release()
            raise
        return queue

    async def _start(self) -> None:
        await self._store.open()
        await self.set_sources(self._windows_by_name)
        await self._space.measure()
        await self._roster.refresh_hints()
        loops = [self._run_upkeep()]
        if self._role == "deliver":
            loops.append(self._tail.follow(self._store, self._clock))
        self._tasks = [asyncio.create_task(loop) for loop in loops]  # noqa: TID251 - awaited in close()

    async def set_sources(self, deduplicate: Mapping[str, float | None]) -> None:
        await self._sources.make_known(self._writer, deduplicate)

    def judge_by(self, judge: Judge) -> None:
        self._judge = judge

    # -- intake ------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Batch]) -> Receipt:
        if not batches:
            return Receipt(0, 0)
        self._space.admit(sum([len(batch.payload) for batch in batches]))
        source, at = batches[0].source, batches[0].received_at
        request = await self._sources.request(batches, checked=self._judge.checks(source))

        def run(connection: sqlite3.Connection) -> Appended | Undecided:
            return self._log.append(connection, request)

        def committed(outcome: Appended | Undecided) -> None:
            if isinstance(outcome, Appended):
                self._appended(source, at, outcome)

        try:
            while isinstance(outcome := await self._writer.submit(run, committed), Undecided):
                # Outside of the transaction: others have theirs meanwhile. Each turn knows of more lines.
                found = await vouch(self._judge, source, outcome.lines)
                request = replace(request, vouched={**(request.vouched or {}), **found})
        except QueueError:
            self._sources.failed(request)
            raise
        return outcome.receipt

    def _appended(self, source: str, at: float, appended: Appended) -> None:
        for batch in appended.stored:
            self._store.remember(batch, len(batch.payload) + len(batch.body))
        self._space.appended(appended.payload_bytes)
        self._tail.appended(source, at, appended)

    async def append_wait(self, after: int) -> int:
        return await self._tail.wait(after)

    async def quarantine(self, source: str, body: bytes, cause: str) -> None:
        await self._quarantine.keep_body(source, body, cause)

    async def _quarantine_batch(self, row: BatchRow) -> None:
        if await self._quarantine.move_batch(row, self._sources.names.get(row.source, "unknown")):
            self._tail.deleted(1)
            self._corrupt += 1
            self._observer.corrupt(1)

    # -- delivery ----------------------------------------------------------------------------

    @property
    def sees_delivery(self) -> bool:
        return self._role != "ingest"

    @property
    def head(self) -> int:
        return self._tail.head

    async def read(self, start: int, stop: int, max_events: int) -> list[StoredBatch]:
        return await self._store.read(start, stop, max_events)

    async def attach(self, destination: str, start: Literal["now", "earliest"]) -> Sequence[Reader]:
        readers = await self._roster.attach(destination, start)
        self._tail.wake()
        return readers

    def readers(self, destination: str) -> Sequence[Reader]:
        return self._roster.readers(destination)

    async def lease(self, destination: str) -> Lease:
        return OwnLease()

    async def forget(self, destination: str) -> None:
        await self._roster.forget(destination)

    async def replay(self, destination: str, start: float, end: float, rate: float | None) -> ReaderInfo:
        info = await self._roster.replay(destination, start, end, rate)
        self._tail.wake()
        return info

    def hold(self, destination: str) -> Hold | None:
        return self._roster.account(destination).hold

    async def set_hold(self, destination: str, hold: Hold | None) -> None:
        account = self._roster.account(destination)
        account.hold = hold
        self._tail.wake()
        self._progress.changed(account)
        await self._progress.store()

    def destinations(self) -> Sequence[str]:
        return self._roster.destinations()

    def reader_infos(self) -> Sequence[ReaderInfo]:
        return self._roster.infos()

    # -- dead letters ------------------------------------------------------------------------

    async def dead_letters(
        self, which: DeadLetterFilter, *, after: int = 0, limit: int = 100
    ) -> Sequence[StoredDeadLetter]:
        await self._store_dead_letters()
        return await deadletters.find(self._store, which, after=after, limit=limit)

    async def redrive(self, which: DeadLetterFilter) -> int:
        await self._store_dead_letters()
        marked = await self._roster.redrive(which)
        self._tail.wake()
        return marked

    async def discard(self, which: DeadLetterFilter) -> int:
        await self._store_dead_letters()
        return await self._roster.discard(which)

    async def _store_dead_letters(self) -> None:
        """What was buried a moment ago belongs to the answer."""
        with suppress(QueueError):
            await self._progress.store()

    # -- the books ---------------------------------------------------------------------------

    def books(self, destination: str) -> Books:
        account = self._roster.account(destination)
        return Books(
            owed=self._tail.head - account.start + account.backfilled,
            delivered=account.delivered,
            filtered=account.filtered,
            dead=account.dead + account.discarded,
            discarded=account.discarded,
            backlog=self._roster.owed_backlog(destination),
            replayed=account.replayed,
            dead_by_reason=dict(account.dead_by_reason),
        )

    def accepted(self) -> Mapping[tuple[str, Format], int]:
        return self._tail.totals.all.accepted

    def duplicates(self) -> Mapping[str, int]:
        return self._tail.totals.all.duplicates

    def last_received(self) -> Mapping[str, float]:
        return self._tail.totals.all.last_received

    async def received(self, start: float, end: float) -> AsyncGenerator[StoredBatch, None]:
        async with aclosing(self._store.received(start, end)) as batches:
            async for batch in batches:
                yield batch

    async def open_gap(self, source: str, start: float, end: float, cause: str, *, refusals: int = 1) -> None:
        self._gaps.note(source, start, end, cause, refusals)

    async def close_gap(
        self, number: int, *, at: float, lost_until: float | None = None, known: Gap | None = None
    ) -> None:
        if self._role == "deliver":
            raise Conflict("This process only delivers; ask the one that accepts, which has the gaps.")
        self._gaps.close(number, at, lost_until, known)
        await self._store_small_things()

    async def gaps(self, *, include_closed: bool = False) -> Sequence[Gap]:
        if self._role != "deliver":
            return self._gaps.all() if include_closed else self._gaps.open()
        # It is the other process that has them.
        rows = await self._store.query(f"SELECT {GAP_COLUMNS} FROM gaps ORDER BY id")
        found = [Gap(*row) for row in rows]
        return found if include_closed else [gap for gap in found if gap.closed_at is None]

    async def note(self, name: str, text: str) -> None:
        await self._put(f"note:{name}", text)

    async def last_note(self, name: str) -> str | None:
        rows = await self._store.query("SELECT value FROM meta WHERE key=?", (f"note:{name}",))
        return str(rows[0][0]) if rows else None

    async def beat(self, at: float) -> None:
        await self._put(ALIVE, at)

    async def last_beat(self) -> float | None:
        rows = await self._store.query("SELECT value FROM meta WHERE key=?", (ALIVE,))
        return float(rows[0][0]) if rows else None

    async def _put(self, key: str, value: float | str) -> None:
        def run(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

        await self._writer.submit(run)

    def stats(self) -> QueueStats:
        usage = self._space.usage
        oldest = usage.oldest_sequence
        return QueueStats(
            bytes=max(0, usage.used),
            max_bytes=self._max_bytes,
            disk_free_bytes=max(0, usage.disk_free),
            batches=max(0, self._tail.totals.all.batches),
            events=0 if oldest is None else self._tail.head - oldest,
            oldest_received_at=usage.oldest_received_at,
            head=Position(self._tail.head),
            corrupt_batches=self._corrupt,
            quarantined_bodies=self._quarantine.entries,
            accepting=self._space.accepting,
        )

    async def announce(self, replica: Replica) -> None:
        self._replicas.announce(replica)

    def replicas(self) -> Sequence[Replica]:
        return self._replicas.all()

    # -- upkeep ------------------------------------------------------------------------------

    async def ping(self) -> None:
        def run(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('pinged_at', ?)", (self._clock.now(),))

        self._space.admit(0)
        await self._writer.submit(run)

    async def _run_upkeep(self) -> None:
        while True:
            await self._clock.sleep(_UPKEEP_SECONDS)
            # A disk that refuses is reported by appends and by readiness; upkeep just tries again.
            with suppress(QueueError):
                await self._upkeep()

    async def flush(self) -> None:
        await self._store_small_things()
        await self._progress.store()

    async def _upkeep(self) -> None:
        await self.flush()
        if self._role == "ingest":
            await self._space.measure()
        else:
            await self._space.give_back()
        if self._role == "deliver":  # the other process counts what it accepts
            await self._tail.count_anew(self._writer)
        await self._roster.refresh_hints()  # last: a destination that lost events has another oldest one

    def _released(self, destination: str, events: int) -> None:
        if self._logger is not None:
            self._logger.warning("queue.released", destination=destination, events=events, detail=RELEASED)

    async def _store_small_things(self) -> None:
        if self._role == "deliver":
            return
        gone = self._gaps.forget()
        counts, gaps, head = self._tail.totals.take(), self._gaps.take(), self._tail.head
        if not (counts or gaps):
            return

        def run(connection: sqlite3.Connection) -> None:
            counts.write(connection, self._sources.numbers, head)
            self._gaps.write(connection, gaps)
            self._gaps.delete(connection, gone)

        try:
            await self._writer.submit(run)
        except QueueError:
            self._tail.totals.give_back(counts)
            self._gaps.give_back(gaps)
            raise

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._progress.close()
            with suppress(QueueError):
                await self.flush()
            await self._store.close()
            await self._writer.close()
        finally:
            self._lock.release()
