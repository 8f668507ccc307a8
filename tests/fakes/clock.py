"""A clock that stands still until a test turns it.

clock = FakeClock()
assert await clock.next_wake() == 1.0     # waits until somebody sleeps; how long that sleeper has left
await clock.advance(1.0)                  # wakes everyone who is due, in order of their time
clock.jump(-3600)                         # somebody sets the machine's clock; no time passes
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

TIME_LIMIT = 30.0  # real seconds any wait may take before the test fails
_TURNS = 20  # turns of the event loop that a woken task gets before the next sleeper is due


class FakeClock:
    """Implements `relay.clock.Clock`."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self._offset = now  # wall time is this plus the elapsed time
        self._elapsed = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrival = asyncio.Event()  # somebody went to sleep

    def __repr__(self) -> str:
        return f"<FakeClock +{self._elapsed:g} s, {self.sleepers} asleep>"

    def now(self) -> float:
        return self._offset + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), woken))
        self._arrival.set()
        await woken

    @property
    def sleepers(self) -> int:
        """How many tasks are asleep."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def next_wake(self) -> float:
        """Wait until somebody is asleep; the seconds until the first of them is due."""
        async with asyncio.timeout(TIME_LIMIT):
            while True:
                self._arrival.clear()
                self._forget_the_dead()
                if self._sleepers:
                    return round(self._sleepers[0][0] - self._elapsed, 6)
                await self._arrival.wait()

    async def asleep(self, tasks: int) -> None:
        """Wait until so many tasks are asleep."""
        async with asyncio.timeout(TIME_LIMIT):
            while self.sleepers < tasks:
                self._arrival.clear()
                await self._arrival.wait()

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass. Each sleeper runs before the next one is due, and may sleep again."""
        target = self._elapsed + seconds
        while True:
            self._forget_the_dead()
            if not self._sleepers or self._sleepers[0][0] > target + 1e-9:
                break
            due, _, woken = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            woken.set_result(None)
            await _let_others_run()
        self._elapsed = target
        await _let_others_run()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back. Nobody wakes: waiting goes by elapsed time."""
        self._offset += seconds

    def _forget_the_dead(self) -> None:
        """Drop sleepers that were cancelled."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)


async def _let_others_run() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
