"""Every pair of engines passes the tests of this folder: a queue moves from one house into another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.queue.belongings import Part
from relay.queue.moving import Moved, Step, Watch, move
from tests.contract.moving.furniture import Picture, furnish, picture
from tests.contract.moving.houses import House, SqliteHouse
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW

PAIRS = (("sqlite", "sqlite"),)


@dataclass(frozen=True, slots=True)
class Houses:
    """Where the queue is, where it is to be, and another place of the old one's kind."""

    old: House
    new: House
    third: House


Mover = Callable[..., Awaitable[Moved]]


def unwatched(step: Step, part: Part, done: int, total: int) -> None:
    """Nobody looks."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture(params=PAIRS, ids="-to-".join)
def houses(tmp_path: Path) -> Houses:
    return Houses(*(SqliteHouse(tmp_path / name / "relay.db") for name in ("old", "new", "third")))


@pytest.fixture
async def before(houses: Houses, clock: FakeClock) -> Picture:
    """What the old house holds: one of everything."""
    async with houses.old.queue(clock) as queue:
        await furnish(queue, clock)
    async with houses.old.queue(clock) as queue:  # as a restart would find it
        return await picture(queue)


@pytest.fixture
def moving(houses: Houses) -> Mover:
    """Move from the old house into the new one, or as told."""

    async def run(watch: Watch = unwatched, *, old: House = houses.old, new: House = houses.new) -> Moved:
        async with old.store() as store, new.target() as target:
            return await move(store, target, watch)

    return run
