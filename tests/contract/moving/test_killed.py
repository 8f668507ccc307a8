"""A move that is killed, wherever it is, goes on when it is begun again."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from relay.errors import Conflict
from relay.queue.belongings import Part
from relay.queue.moving import Step
from tests.contract.moving.conftest import Houses, Mover
from tests.contract.moving.furniture import Picture, attached, picture
from tests.fakes.clock import FakeClock
from tests.fakes.events import batch, lines

POINTS = [
    (Step.COPY, Part.BATCHES, 500),
    (Step.COPY, Part.BATCHES, 0),  # 0: at its end
    (Step.COPY, Part.REMEMBERED, 0),
    (Step.COPY, Part.DEAD_LETTERS, 0),
    (Step.COPY, Part.QUARANTINED, 0),
    (Step.CHECK, Part.BATCHES, 500),
    (Step.CHECK, Part.QUARANTINED, 0),
]


async def kill(houses: Houses, step: Step, part: Part, done: int) -> None:
    """Begin to move, and die at this point."""
    words = [houses.old.place, houses.new.place, step, part, str(done)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.contract.moving.killed", *words
    )
    async with asyncio.timeout(60):
        assert await process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("step", "part", "done"), POINTS)
async def test_a_killed_move_goes_on(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock, step: Step, part: Part, done: int
) -> None:
    """Nothing is missing and nothing is there twice."""
    await kill(houses, step, part, done)

    moved = await moving()

    assert moved.resumed
    async with houses.new.queue(clock) as queue:
        assert await picture(queue) == before


async def test_what_is_there_is_not_copied_again(houses: Houses, before: Picture, moving: Mover) -> None:
    """A move of hours that is killed near its end is not one of hours again."""
    await kill(houses, Step.COPY, Part.BATCHES, 1000)
    copied: list[int] = []

    def watch(step: Step, part: Part, done: int, total: int) -> None:
        if (step, part) == (Step.COPY, Part.BATCHES):
            copied.append(done)

    await moving(watch)

    assert copied == [before.batches]


async def test_the_old_queue_may_not_change_in_between(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock
) -> None:
    """Where a relay was started in between, half of the target would be of another time."""
    await kill(houses, Step.COPY, Part.BATCHES, 500)
    async with houses.old.queue(clock) as queue:
        await queue.append([batch(lines(1, first=7000), at=clock.now())])

    with pytest.raises(Conflict, match="begin anew"):
        await moving()


async def test_another_queue_is_not_mixed_in(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock
) -> None:
    """What is left of one move is no target for another."""
    await kill(houses, Step.COPY, Part.BATCHES, 500)
    async with houses.third.queue(clock) as queue:
        await attached(queue, "siem")

    with pytest.raises(Conflict, match="begin anew"):
        await moving(old=houses.third)
