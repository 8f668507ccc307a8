"""What happens in the demonstration, and whether it ended well.

    0 %     events flow; one SIEM is down every other few seconds
    15 %    the relay is killed, as by a power cut; Konnect gives batches up
    30 %    it is started again, enables its webhook and has what it missed replayed
    100 %   no more events; the SIEM stays up; everything is delivered

Owns the order of these and the verdict: every event the simulated Konnect has is at both SIEMs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from relay.clock import Clock
from relay.demo.konnect import DemoKonnect
from relay.demo.process import CannotStart, DemoRelay
from relay.demo.siem import DemoSiem

_KILLED, _BACK = 0.15, 0.3  # shares of the whole time
_FLAPS: Final = 3.0  # seconds up, seconds down
_BATCHES: Final = 10.0  # a second
_LOOK: Final = 0.25  # seconds between two looks at the relay
_PATIENCE: Final = 90.0  # seconds for everything to arrive at the end
_RELAYS_TURN: Final = 45.0  # seconds in which it should ask for a replay; it waits 20 on purpose


@dataclass(slots=True)
class Picture:
    """What there is to see."""

    status: Any = None  # the relay's own; None while it is down
    news: list[tuple[float, str]] = field(default_factory=list)  # seconds since the beginning, and what


@dataclass(frozen=True, slots=True)
class Result:
    """How it ended."""

    seconds: float
    made: int
    retries: int
    given_up: int
    unsent: int
    replayed: int
    replay_jobs: int
    missing: dict[str, int]  # by SIEM
    twice: dict[str, int]

    @property
    def complete(self) -> bool:
        return not any(self.missing.values())


class Scene:
    """One demonstration in *folder*. `picture` changes while `play` runs."""

    def __init__(
        self, folder: Path, clock: Clock, *, seconds: float, rate: int, tell: Callable[[float, str], None]
    ) -> None:
        """*rate* is in events a second; *tell* gets the news as they come."""
        self.picture = Picture()
        self.relay = DemoRelay(folder, clock)
        self.konnect = DemoKonnect(self.relay.intake, clock)
        self.siems = (DemoSiem("siem-steady", clock), DemoSiem("siem-flapping", clock, flaps=_FLAPS))
        self.seconds = seconds
        self._clock = clock
        self._batch = max(1, round(rate / _BATCHES))
        self._tell = tell
        self._begun = clock.monotonic()
        self._was_down = False
        self._healing: asyncio.Task[None] | None = None

    @property
    def elapsed(self) -> float:
        return self._clock.monotonic() - self._begun

    def missing(self) -> dict[str, int]:
        """How many of Konnect's events each SIEM lacks."""
        truth = self.konnect.truth()
        return {siem.name: len(truth - siem.events) for siem in self.siems}

    async def play(self, stop: asyncio.Event) -> Result:
        """The whole of it; *stop* ends the events early, and what there is is delivered all the same.

        Raises `CannotStart`.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._set_up(tasks)
                looking = tasks.create_task(self._look())
                flowing = tasks.create_task(self._flow())
                acting = tasks.create_task(self._act(tasks))
                await _until(stop, acting)
                flowing.cancel()
                acting.cancel()
                await self._finish()
                looking.cancel()
        except* CannotStart as group:
            raise _first(group) from None
        finally:
            await self._put_away()
        counts = self.konnect.counts
        return Result(
            seconds=round(self.elapsed, 1),
            made=counts.made,
            retries=counts.retries,
            given_up=counts.given_up,
            unsent=counts.unsent,
            replayed=counts.replayed,
            replay_jobs=self.konnect.jobs,
            missing=self.missing(),
            twice={siem.name: siem.twice for siem in self.siems},
        )

    async def _set_up(self, tasks: asyncio.TaskGroup) -> None:
        for siem in self.siems:
            await siem.start()
        await self.konnect.start(tasks)
        self.relay.configure(f"http://127.0.0.1:{self.konnect.port}", self.siems)
        await self.relay.start()
        self._begun = self._clock.monotonic()
        self._say("the relay is ready; events flow")

    async def _put_away(self) -> None:
        await self.relay.close()
        await self.konnect.close()
        for siem in self.siems:
            await siem.close()

    async def _flow(self) -> None:
        while True:
            self.konnect.happen(self._batch)
            await self._clock.sleep(1 / _BATCHES)

    async def _look(self) -> None:
        while True:
            self.picture.status = await self.relay.ask("/api/v1/status") if self.relay.is_up else None
            await self._clock.sleep(_LOOK)

    async def _act(self, tasks: asyncio.TaskGroup) -> None:
        await self._clock.sleep(self.seconds * _KILLED)
        self._was_down = True
        await self.relay.kill()
        self._say("the relay is killed; Konnect tries four times and gives up")
        await self._clock.sleep(self.seconds * (_BACK - _KILLED))
        while not self.konnect.webhook.failing:  # in a short play its retries would bridge the gap
            await self._clock.sleep(_LOOK)
        await self._bring_up()
        self._healing = tasks.create_task(self._heal())
        await self._clock.sleep(self.seconds * (1 - _BACK))

    async def _bring_up(self) -> None:
        await self.relay.start()
        counts = self.konnect.counts
        self._say(
            f"the relay is back; {counts.given_up:,} events were given up, {counts.unsent:,} never sent"
        )

    async def _heal(self) -> None:
        """The relay's part: it sees that its webhook is inactive, enables it, and asks for a replay."""
        if not self.konnect.counts.given_up:
            return
        deadline = self._clock.monotonic() + _RELAYS_TURN
        enabled = False
        while self._clock.monotonic() < deadline:
            if not enabled and not self.konnect.webhook.failing:
                enabled = True
                self._say("the relay has seen that its webhook was inactive, and enabled it again")
            if self.konnect.jobs:
                self._say("the relay has asked Konnect for a replay of the gap")
                return
            await self._clock.sleep(_LOOK)
        self._say("the relay did not ask for a replay")

    async def _finish(self) -> None:
        """No more events: wait for what there is, within limits."""
        self._say("no more events; waiting for both SIEMs to have everything")
        for siem in self.siems:
            siem.steady()
        if self._was_down and self._healing is None:  # stopped before the relay was back
            await self._bring_up()
            await self._heal()
        deadline = self._clock.monotonic() + _PATIENCE
        while any(self.missing().values()) and self._clock.monotonic() < deadline:
            await self._clock.sleep(_LOOK)
        self._say("done")

    def _say(self, sentence: str) -> None:
        self.picture.news.append((self.elapsed, sentence))
        self._tell(self.elapsed, sentence)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _until(stop: asyncio.Event, acting: asyncio.Task[None]) -> None:
    """Until the play is over or somebody has seen enough."""
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({waiting, acting}, return_when=asyncio.FIRST_COMPLETED)
        if acting.done():
            acting.result()
    finally:
        waiting.cancel()
