"""One nats-server for all tests of this folder; each makes streams with a prefix of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from relay.queue.jetstream.follow import Follow
from tests.contract.jetstream.desk import Desk, Desks
from tests.contract.jetstream.replicas import Replicas
from tests.fakes.nats import NatsServer

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Belongs to no event loop: every test may connect to it."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill())


@pytest.fixture
def prefix() -> str:
    """A name for this test's streams."""
    return f"relay-{next(_NUMBERS)}"


@pytest.fixture
async def replicas(
    nats_server: NatsServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replicas]:
    """None yet, on a state bucket of their own."""
    # A watch notices a new connection by the silence of its old one: no test should wait 15 s for that.
    monkeypatch.setattr(Follow, "HEARTBEAT", 0.2)
    async with Replicas(nats_server, prefix) as replicas:
        yield replicas


@pytest.fixture
async def desks(nats_server: NatsServer, prefix: str) -> AsyncIterator[Desks]:
    """None yet, at a state bucket of their own."""
    async with Desks(nats_server, prefix) as desks:
        yield desks


@pytest.fixture
async def desk(desks: Desks) -> Desk:
    """At work for the destination `siem`."""
    desk = await desks.add()
    await desk.open("siem")
    return desk


@pytest.fixture
async def other(desks: Desks, desk: Desk) -> Desk:
    """Another replica, which knows of the destination."""
    other = await desks.add()
    await other.look()
    return other
