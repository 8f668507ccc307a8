"""Reading batches: a small shared cache in front of one read connection.

Destinations that are up to date, or near each other in a backlog, share what was read and decoded
once. The cache is bounded by bytes, so a backlog of any size costs no memory.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import aiosqlite

from relay.batch import StoredBatch
from relay.queue.sqlite.database import connect, translate
from relay.queue.sqlite.log import end_of
from relay.queue.sqlite.rows import COLUMNS, BatchRow

_CACHE_BYTES = 8 << 20
_READ_BYTES = 1 << 19  # compressed, in one read; some megabytes when decoded
_READ_AHEAD = 3  # times the events asked for
_PLAIN_FACTOR = 8  # how much larger a decoded batch is, for the cache's account
# Besides the batches that begin in the wanted range, the one that contains its first event.
# Payload sizes are known without reading payloads, so the budget is applied before they are.
_READ = f"""
    WITH wanted AS (
        SELECT sequence, sum(length(payload)) OVER (ORDER BY sequence) - length(payload) AS before
        FROM batches
        WHERE sequence >= coalesce((SELECT max(sequence) FROM batches WHERE sequence <= :start), :start)
          AND sequence < :stop
    )
    SELECT {COLUMNS} FROM wanted JOIN batches USING (sequence)
    WHERE before < {_READ_BYTES} ORDER BY sequence
"""

_SPAN = "SELECT min(sequence), max(sequence) FROM batches WHERE received_at >= :start AND received_at < :end"

# A few megabytes decoded. In the log's own order: by the index on `received_at`, which the plus signs keep
# away, all of the span would be sorted for each of these.
_RECEIVED = f"""
    SELECT {COLUMNS} FROM batches
    WHERE sequence >= :first AND sequence <= :last AND +received_at >= :start AND +received_at < :end
    ORDER BY sequence LIMIT 8
"""


class BatchStore:
    """The log's batches by sequence."""

    def __init__(
        self,
        path: Path,
        sources: dict[int, str],
        quarantine: Callable[[BatchRow], Awaitable[None]],
    ) -> None:
        self._path = path
        self._sources = sources
        self._quarantine = quarantine
        self._cache: OrderedDict[int, tuple[StoredBatch, int]] = OrderedDict()
        self._cached_bytes = 0
        self._connection: aiosqlite.Connection | None = None

    async def open(self) -> None:
        self._connection = await aiosqlite.Connection(lambda: connect(self._path), iter_chunk_size=64)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def query(self, sql: str, parameters: object = ()) -> list[sqlite3.Row]:
        """All rows of a read-only statement: one hop to the reading thread. Raises `QueueError`."""
        if self._connection is None:
            raise RuntimeError("the store is not open")
        try:
            return list(await self._connection.execute_fetchall(sql, parameters))
        except sqlite3.Error as error:
            raise translate(error, "cannot read the queue") from error

    async def end(self) -> int:
        """The number behind the last event of the log as another process left it; 0 for an empty log."""
        rows = await self.query(f"SELECT {COLUMNS} FROM batches ORDER BY sequence DESC LIMIT 1")
        return end_of(BatchRow(*rows[0])) if rows else 0

    def remember(self, batch: StoredBatch, nbytes: int | None = None) -> None:
        """Put a batch where readers that are up to date find it."""
        if batch.sequence in self._cache:
            return
        size = nbytes or len(batch.payload) * (1 + _PLAIN_FACTOR)
        self._cache[batch.sequence] = (batch, size)
        self._cached_bytes += size
        while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
            _, (_, freed) = self._cache.popitem(last=False)
            self._cached_bytes -= freed

    async def read(self, start: int, stop: int, max_events: int) -> list[StoredBatch]:
        """Batches in order from the one holding event *start*, until they hold *max_events*.

        At least one if any batch begins in the range. Batches that fail their checksum are handed to
        quarantine and left out: the caller sees a hole in the numbers.
        """
        found = self._cached(start, min(stop, start + max_events))
        if found:
            return found
        # Reading some more than asked for spares the next reads their trip to the thread. A hole at the
        # start (after a corrupt batch) must not hide the batches behind it, so the range grows until
        # something is found.
        span = max_events * _READ_AHEAD
        while not (found := await self._fetch(start, min(stop, start + span))) and start + span < stop:
            span *= 64
        return _until(found, start + max_events)

    async def received(self, start: float, end: float) -> AsyncGenerator[StoredBatch, None]:
        """Intact batches received in [start, end), seconds since the epoch, past the cache, as of now."""
        span = {"start": start, "end": end}
        first, last = (await self.query(_SPAN, span))[0]
        while first is not None and (
            rows := await self.query(_RECEIVED, {**span, "first": first, "last": last})
        ):
            for row in map(BatchRow._make, rows):
                first = row.sequence + 1
                if row.intact:
                    yield row.stored(await self._source(row.source))

    def _cached(self, start: int, stop: int) -> list[StoredBatch]:
        found = []
        while start < stop and (entry := self._cache.get(start)) is not None:
            found.append(entry[0])
            start += entry[0].count
        return found

    async def _source(self, number: int) -> str:
        if number not in self._sources:  # another process of this relay made it known
            self._sources.update(await self.query("SELECT id, name FROM sources"))  # type: ignore[arg-type] # pairs
        return self._sources.get(number, "unknown")

    async def _fetch(self, start: int, stop: int) -> list[StoredBatch]:
        found = []
        for row in map(BatchRow._make, await self.query(_READ, {"start": start, "stop": stop})):
            if row.intact:
                if row.sequence + row.events <= start:
                    continue
                batch = row.stored(await self._source(row.source))
                found.append(batch)
                self.remember(batch)
            else:
                await self._quarantine(row)
        return found


def _until(batches: list[StoredBatch], stop: int) -> list[StoredBatch]:
    """The batches that begin before event *stop*, at least one."""
    return [batch for n, batch in enumerate(batches) if not n or batch.sequence < stop]
