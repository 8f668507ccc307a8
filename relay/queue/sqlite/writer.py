"""Group commit: one thread, one connection, one transaction for everything that waits.

While one commit is being synced, new jobs pile up; the next transaction takes them all. Nothing
waits on purpose, so a lone request pays for one sync and a thousand concurrent ones share a few.

The connection is this thread's alone. SQLite before 3.51.3 can damage a database when one
connection checkpoints while another one resets the WAL (sqlite.org/wal.html, "the WAL-reset bug");
therefore checkpoints are made here too, between transactions and holding the write lock.
"""

from __future__ import annotations

import asyncio
import sqlite3
import types
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from relay.clock import Clock
from relay.errors import QueueError
from relay.queue.sqlite.database import is_disk_trouble, translate

T = TypeVar("T")

# The WAL is folded into the database when it has grown to this size: soon when there is nothing
# else to do, so that at moderate load no request waits behind a long checkpoint; later when busy.
_CHECKPOINT_IDLE_BYTES = 1 << 20
_CHECKPOINT_BUSY_BYTES = 16 << 20


class Stage(Protocol):
    """In-memory state that changes together with the database."""

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what jobs have staged, just before the commit."""
        ...

    def rolled_back(self) -> None:
        """Forget what was staged since the last commit."""
        ...

    def committed(self) -> int:
        """What was staged is now durable; how many batches that were."""
        ...


_GATHER_TURNS = 32


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """One turn of the event loop."""
    yield


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    then: Callable[[Any], None] | None
    future: asyncio.Future[Any]


class Writer:
    """Runs jobs in grouped transactions. Jobs must only touch the connection and their *Stage*."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        stage: Stage,
        *,
        clock: Clock,
        on_commit: Callable[[int, float], None],
    ) -> None:
        self._connection = connection
        self._wal = path.with_name(path.name + "-wal")
        self._stage = stage
        self._clock = clock
        self._on_commit = on_commit
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="queue-writer")
        self._pending: list[_Job] = []
        self._drainer: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(
        self, run: Callable[[sqlite3.Connection], T], then: Callable[[T], None] | None = None
    ) -> T:
        """Run *run* in the next transaction and return its result once that is durable.

        *then* is called in the event loop right after the commit, in commit order, before anyone
        waiting is resumed. Raises `QueueError` when the transaction failed. Cancelling the caller
        does not undo the job.
        """
        if self._closed:
            raise QueueError("the queue is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._pending.append(_Job(run, then, future))
        if self._drainer is None:
            self._drainer = asyncio.create_task(self._drain())  # noqa: TID251 - awaited in close()
        return await future

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._pending:
                await self._gather()
                jobs, self._pending = self._pending, []
                started = self._clock.monotonic()
                outcome, batches = await loop.run_in_executor(self._thread, self._commit, jobs)
                for job, result in zip(jobs, outcome, strict=True):
                    if job.then is not None and not isinstance(result, Exception):
                        try:
                            job.then(result)
                        except Exception as error:  # noqa: BLE001 - a bug in one must not hang the others
                            result = error
                    failed = isinstance(result, Exception)
                    if job.future.done():  # its caller was cancelled meanwhile
                        continue
                    if failed:
                        job.future.set_exception(result)
                    else:
                        job.future.set_result(result)
                if batches:
                    self._on_commit(batches, self._clock.monotonic() - started)
                if self._wal_bytes() > (_CHECKPOINT_BUSY_BYTES if self._pending else _CHECKPOINT_IDLE_BYTES):
                    await loop.run_in_executor(self._thread, self._checkpoint)
        finally:
            self._drainer = None

    async def _gather(self) -> None:
        """Let the event loop finish what is ready while every turn of it brings more jobs.

        No time passes when nothing is ready. Under load it makes a few large groups out of many
        small ones, and a commit costs the same for one row as for twenty.
        """
        for _ in range(_GATHER_TURNS):
            before = len(self._pending)
            await _turn()
            if len(self._pending) == before:
                return

    def _commit(self, jobs: list[_Job]) -> tuple[list[Any], int]:
        """In the writer's thread: all jobs in one transaction; each alone if one of them is at fault."""
        try:
            return self._transaction(jobs)
        except sqlite3.OperationalError as error:
            if len(jobs) == 1 or is_disk_trouble(error):  # it would hit every job alike
                return [translate(error, "the commit failed")] * len(jobs), 0
        except Exception as error:  # noqa: BLE001 - a job's own fault must not fail its neighbours
            if len(jobs) == 1:
                return [
                    translate(error, "the commit failed") if isinstance(error, sqlite3.Error) else error
                ], 0
        alone = [self._commit([job]) for job in jobs]
        return [results[0] for results, _ in alone], sum(batches for _, batches in alone)

    def _transaction(self, jobs: list[_Job]) -> tuple[list[Any], int]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [job.run(connection) for job in jobs]
            self._stage.flush(connection)
            connection.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after a full disk or an I/O error.
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            self._stage.rolled_back()
            raise
        return results, self._stage.committed()

    def _wal_bytes(self) -> int:
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0

    def _checkpoint(self) -> None:
        # TRUNCATE takes the write lock first. A reader in its way or a full disk is no reason to
        # stop: the WAL stays as it is and the next commit tries again.
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def close(self) -> None:
        """Finish what is pending, fold the WAL into the database and close the connection."""
        self._closed = True
        while self._drainer is not None:
            await asyncio.wait([self._drainer])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._finish)
        self._thread.shutdown()

    def _finish(self) -> None:
        self._checkpoint()
        self._connection.close()
