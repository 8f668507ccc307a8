"""The end of the log as this process knows it: the next event's number, the totals, and who waits for more.

What this process appends comes by `appended`; what another one appended is noticed by `follow`. Never
writes: whoever stores the totals takes them from here.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress

from relay.clock import Clock
from relay.errors import QueueError
from relay.queue.sqlite.log import Appended, next_sequence
from relay.queue.sqlite.store import BatchStore
from relay.queue.sqlite.totals import Totals
from relay.queue.sqlite.writer import Writer

_FOLLOW_SECONDS = 0.025  # how often a relay that only delivers looks for what another process appended


class Tail:
    """One for each process; belongs to the event loop."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.head = next_sequence(connection)
        self.totals = Totals(connection)
        self._mark = 0
        self._changed = asyncio.Event()

    def appended(self, source: str, at: float, appended: Appended) -> None:
        """A request of *source*, received at *at*, was committed."""
        for batch in appended.stored:
            self.head = batch.sequence + batch.count
        heard = None if any(batch.pulled for batch in appended.stored) else at
        self.totals.add(source, appended.formats, len(appended.stored), appended.receipt.duplicates, heard)
        if appended.stored:
            self.wake()

    def deleted(self, batches: int) -> None:
        """Batches left the log."""
        self.totals.all.batches -= batches

    def wake(self) -> None:
        """Let those who wait look again."""
        self._mark += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, after: int) -> int:
        """See `relay.queue.base.Queue.append_wait`."""
        if self._mark <= after:
            await self._changed.wait()
        return self._mark

    async def follow(self, store: BatchStore, clock: Clock) -> None:
        """Notice what the ingesting process appended: its commits change `data_version`."""
        seen = None
        while True:
            await clock.sleep(_FOLLOW_SECONDS)
            with suppress(QueueError):
                version = (await store.query("PRAGMA data_version"))[0][0]
                if version == seen:
                    continue
                if (end := await store.end()) > self.head:
                    self.head = end
                    self.wake()
                seen = version

    async def count_anew(self, writer: Writer) -> None:
        """Read the totals that the ingesting process keeps. Raises `QueueError`."""
        self.totals = await writer.submit(Totals)
