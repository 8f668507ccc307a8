"""Down time: a durable note every ten seconds that the relay accepts, and a gap where there was none.

Owns the beat, and what its absence means. On a cluster all replicas write the same note, so only a time in
which none of them was there is a gap. What is done about gaps is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from relay.clock import Clock
from relay.errors import QueueError
from relay.observe.logs import Log
from relay.recovery.answers import rfc3339

BEAT: Final = 10.0
"""Seconds between two notes. Each is a small commit, so not more often than needed."""

MARGIN: Final = 12.0
"""Seconds without a note that are no gap: Konnect tries a batch again for 15 (docs/konnect.md section 6)."""

DOWNTIME: Final = "downtime"


class Notes(Protocol):
    """Where it is noted. `relay.queue.base.Queue` is one."""

    async def beat(self, at: float) -> None: ...
    async def last_beat(self) -> float | None: ...
    async def open_gap(
        self, source: str, start: float, end: float, cause: str, *, refusals: int = 1
    ) -> None: ...


class Heartbeat:
    """Of one process that accepts: `run` while it does, `end` when it no longer does."""

    def __init__(self, notes: Notes, sources: Callable[[], Sequence[str]], *, clock: Clock, log: Log) -> None:
        self._notes = notes
        self._sources = sources
        self._clock = clock
        self._log = log
        self._begun = False

    async def run(self) -> None:
        """Compare with the last note, then beat without end."""
        while True:
            before = self._clock.now()
            # A queue that takes nothing is reported by whoever has something to store in it.
            with suppress(QueueError):
                await self.beat()
            await self._clock.sleep(BEAT)
            if self._clock.now() - before > BEAT + MARGIN:  # this process, or its machine, stood still
                self._begun = False

    async def beat(self) -> None:
        """One note; before the first one, a gap if nobody accepted for too long. Raises `QueueError`."""
        if not self._begun:
            # First the gap: were we killed between the two, the next process would open it once more.
            await self._compare()
            self._begun = True
        await self._notes.beat(self._clock.now())

    async def end(self) -> None:
        """The last note, so that the gap begins where we stopped and not up to ten seconds before."""
        if self._begun:
            with suppress(QueueError):
                await self._notes.beat(self._clock.now())

    async def _compare(self) -> None:
        now, last = self._clock.now(), await self._notes.last_beat()
        if last is None or now - last <= MARGIN:
            return
        self._log.warning("relay.was_down", since=rfc3339(last), seconds=round(now - last, 1))
        for source in self._sources():
            await self._notes.open_gap(source, last, now, DOWNTIME, refusals=0)
