"""Every pair of engines passes the tests of this folder: a queue moves from one house into another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path

import pytest

from relay.queue.belongings import Part
from relay.queue.moving import Moved, Step, Watch, move
from tests.contract.moving.furniture import Picture, furnish, picture
from tests.contract.moving.houses import House, JetStreamHouse, SqliteHouse
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW
from tests.fakes.nats import NatsServer

ENGINES = ("sqlite", "jetstream")
_NUMBERS = count(1)


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


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Belongs to no event loop: every test may connect to it."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill())


@pytest.fixture
async def streams(nats_server: NatsServer) -> AsyncIterator[Callable[[], JetStreamHouse]]:
    """Names for new houses on the server; they are torn down after the test."""
    built: list[JetStreamHouse] = []

    def build() -> JetStreamHouse:
        built.append(JetStreamHouse(nats_server.url, f"house-{next(_NUMBERS)}"))
        return built[-1]

    yield build
    for house in built:
        for stream in (house.stream, f"KV_{house.stream}-state"):
            await nats_server.api(f"STREAM.DELETE.{stream}")


@pytest.fixture(params=product(ENGINES, ENGINES), ids="-to-".join)
def houses(request: pytest.FixtureRequest, tmp_path: Path, streams: Callable[[], JetStreamHouse]) -> Houses:
    old, new = request.param

    def house(engine: str, name: str) -> House:
        return streams() if engine == "jetstream" else SqliteHouse(tmp_path / name / "relay.db")

    return Houses(house(old, "old"), house(new, "new"), house(old, "third"))


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
