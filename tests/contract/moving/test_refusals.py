"""A move is refused where it would mix two queues, or disturb a relay."""

from __future__ import annotations

import pytest

from relay.clock import SystemClock
from relay.errors import Conflict, QueueLocked
from tests.contract.moving.conftest import Houses, Mover
from tests.contract.moving.furniture import Picture, attached, picture
from tests.fakes.clock import FakeClock
from tests.fakes.events import batch, lines


async def test_a_queue_that_is_there_is_not_touched(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock
) -> None:
    """Moving in where somebody lives is refused, and he notices nothing."""
    async with houses.new.queue(clock) as queue:
        await attached(queue, "other")
        await queue.append([batch(lines(2), at=clock.now())])
    async with houses.new.queue(clock) as queue:
        there = await picture(queue)

    with pytest.raises(Conflict, match="already"):
        await moving()

    async with houses.new.queue(clock) as queue:
        assert await picture(queue) == there


async def test_a_moved_queue_that_went_on_is_not_touched(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock
) -> None:
    """When the old queue went on as well, moving it again would lose what the new one accepted."""
    await moving()
    async with houses.old.queue(clock) as queue:
        await queue.append([batch(lines(1, first=7000), at=clock.now())])

    with pytest.raises(Conflict, match="already"):
        await moving()


async def test_a_relay_at_work_is_not_moved(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock
) -> None:
    """Its queue changes while it is read."""
    async with houses.old.queue(SystemClock()):
        with pytest.raises(QueueLocked):
            await moving()


async def test_nothing_is_moved_under_a_relay_at_work(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock
) -> None:
    """A relay that has the target open is not to be surprised."""
    async with houses.new.queue(SystemClock()):
        with pytest.raises(QueueLocked):
            await moving()
