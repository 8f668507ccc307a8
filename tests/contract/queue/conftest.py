"""Every implementation passes the tests of this folder: SQLite, one NATS server, and three of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest

from relay.config.queue import JetStreamQueueConfig, SqliteQueueConfig
from relay.observe import logs
from relay.observe.metrics import Metrics
from relay.queue.base import Queue, Reader
from relay.queue.jetstream.queue import JetStreamQueue
from relay.queue.sqlite import SqliteQueue
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW
from tests.fakes.nats import NatsCluster, NatsServer

WEEK = 7 * 86400.0
ENGINES = ("sqlite", "jetstream", "jetstream-r3")

Opener = Callable[..., Awaitable[Queue]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill())


@pytest.fixture(scope="session")
def nats_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    cluster = NatsCluster(tmp_path_factory.mktemp("nats-cluster"))
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.close())


@pytest.fixture(params=ENGINES)
def servers(request: pytest.FixtureRequest) -> NatsServer | NatsCluster | None:
    """What the queue runs on; None for SQLite. Not async: those of a session are started without a loop."""
    if request.param == "sqlite":
        return None
    found = request.getfixturevalue("nats_server" if request.param == "jetstream" else "nats_cluster")
    assert isinstance(found, NatsServer | NatsCluster)
    return found


@pytest.fixture
async def reopen(
    servers: NatsServer | NatsCluster | None, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Opener]:
    """Open the queue; called again, close it first: what a restart does."""
    async with _opener(servers, tmp_path, clock) as opener:
        opened: list[Queue] = []

        async def open_(
            *,
            deduplicate: float | None = WEEK,
            max_bytes: int = 1 << 30,
            when_full: str = "release_laggards",
            retention: float = WEEK,
        ) -> Queue:
            while opened:
                await opened.pop().close()
            limits = {"max_bytes": max_bytes, "when_full": when_full, "retention": retention}
            queue = await opener(limits, {"eu": deduplicate, "us": deduplicate})
            opened.append(queue)
            return queue

        yield open_
        while opened:
            await opened.pop().close()


_Open = Callable[[dict[str, object], dict[str, float | None]], Awaitable[Queue]]


@asynccontextmanager
async def _opener(
    servers: NatsServer | NatsCluster | None, folder: Path, clock: FakeClock
) -> AsyncIterator[_Open]:
    if servers is None:

        async def sqlite(limits: dict[str, object], deduplicate: dict[str, float | None]) -> Queue:
            where = {"type": "sqlite", "path": folder / "relay.db", "min_free_disk": 0}
            config = SqliteQueueConfig.model_validate({**where, **limits})
            return await SqliteQueue.open(config, clock=clock, deduplicate=deduplicate)

        yield sqlite
        return
    if isinstance(servers, NatsServer):
        server, urls, replicas = servers, [servers.url], 1
    else:
        server, urls, replicas = servers.servers[0], servers.urls, 3
    stream = f"t{uuid4().hex[:12]}"

    async def jetstream(limits: dict[str, object], deduplicate: dict[str, float | None]) -> Queue:
        where = {"type": "jetstream", "servers": urls, "stream": stream, "replicas": replicas}
        return await JetStreamQueue.open(
            JetStreamQueueConfig.model_validate({**where, **limits}),
            replica=uuid4().hex[:8],
            clock=clock,
            metrics=Metrics([], []),
            log=logs.configure("warning", "json"),
            deduplicate=deduplicate,
        )

    yield jetstream
    for name in (stream, f"KV_{stream}-state"):
        await server.api(f"STREAM.DELETE.{name}")


@pytest.fixture
async def queue(reopen: Opener) -> Queue:
    return await reopen()


async def attached(
    queue: Queue, destination: str, start: Literal["now", "earliest"] = "now"
) -> Sequence[Reader]:
    """Make a destination known and deliver to it here; its readers."""
    await queue.attach(destination, start)
    await queue.lease(destination)
    return queue.readers(destination)
