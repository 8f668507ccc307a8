"""Turns are few, and whoever waits for one shares it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from relay.errors import QueueFull
from relay.queue.jetstream.turns import Turns


class Work:
    """Doubles numbers, as soon as it may."""

    def __init__(self, *, at_once: int = 1) -> None:
        self.runs: list[Sequence[int]] = []
        self.running = self.most = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.turns = Turns(self._run, at_once=at_once)

    async def _run(self, numbers: Sequence[int]) -> list[int]:
        self.runs.append(list(numbers))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
            if self.error is not None:
                raise self.error
            return [2 * number for number in numbers]
        finally:
            self.running -= 1

    async def begin(self, *numbers: int, kind: str = "eu") -> list[asyncio.Task[int]]:
        """Ask for each, and let things take their course until everybody waits."""
        tasks = [asyncio.create_task(self.turns.ask(kind, number)) for number in numbers]
        for _ in range(5):
            await asyncio.sleep(0)
        return tasks


async def test_whoever_waits_shares_the_next_turn() -> None:
    """But not one that runs already: it may have passed what they look for."""
    work = Work()
    tasks = [*await work.begin(1), *await work.begin(2, 3, 4)]
    assert work.runs == [[1]]
    work.go.set()

    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert work.runs == [[1], [2, 3, 4]]


async def test_kinds_are_not_mixed_and_few_run_at_a_time() -> None:
    """Each kind has turns of its own, all together no more than allowed."""
    work = Work(at_once=2)
    tasks = [task for kind in "abcd" for task in await work.begin(1, 2, kind=kind)]
    assert (work.running, len(work.runs)) == (2, 2)
    work.go.set()

    assert await asyncio.gather(*tasks) == [2, 4] * 4
    assert work.most == 2


@pytest.mark.parametrize("begun", [False, True])
async def test_whoever_leads_may_leave(begun: bool) -> None:
    """Those who waited with it lose nothing."""
    work = Work()
    before = [] if begun else await work.begin(1)
    leading, *others = await work.begin(2)
    others += await work.begin(3, 4)
    leading.cancel()
    work.go.set()

    assert await asyncio.gather(*before, *others) == [2 * n for n in ([] if begun else [1]) + [3, 4]]
    assert leading.cancelled()


async def test_whoever_follows_may_leave() -> None:
    """Its place is kept for nobody; the others get their own answers."""
    work = Work()
    first, *_ = await work.begin(1)
    second, third, fourth = await work.begin(2, 3, 4)
    third.cancel()
    work.go.set()

    assert await asyncio.gather(*[first, second, fourth]) == [2, 4, 8]


async def test_a_failure_is_everybodys() -> None:
    """All who shared a turn are told what it failed with; the next one is a new attempt."""
    work = Work()
    work.error = QueueFull("no room", retry_after=7)
    tasks = [*await work.begin(1), *await work.begin(2, 3)]
    work.go.set()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in told] == [QueueFull] * 3

    work.error = None
    assert await work.turns.ask("eu", 5) == 10


async def test_a_bug_is_told_by_whoever_leads() -> None:
    """Nobody waits for ever for an answer that will not come."""
    work = Work()
    work.error = KeyError("bug")
    tasks = [*await work.begin(1), *await work.begin(2, 3)]
    work.go.set()

    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in told] == [KeyError] * 3
