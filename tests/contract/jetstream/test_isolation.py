"""A NATS server that is cut off from the others, with every replica connected to it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from relay.clock import SystemClock
from relay.config.queue import JetStreamQueueConfig
from relay.errors import QueueError
from relay.model import Receipt
from relay.observe import logs
from relay.observe.metrics import Metrics
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.connect import connect
from relay.queue.jetstream.isolation import _PATIENCE, Isolation
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.members import Members
from relay.queue.jetstream.queue import JetStreamQueue
from tests.fakes.clock import FakeClock
from tests.fakes.events import batch, lines
from tests.fakes.nats import NatsCluster, NatsServer
from tests.fakes.process import until

LIMIT = 60.0  # real seconds anything may take


class Replica:
    """A whole queue by the machine's own clock."""

    queue: JetStreamQueue

    def __init__(self, name: str) -> None:
        self.name = name
        self.stream = io.BytesIO()

    @asynccontextmanager
    async def on(self, server: NatsServer) -> AsyncIterator[Replica]:
        """Connected to *server*, and knowing the others of the cluster from it."""
        self.queue = await JetStreamQueue.open(
            JetStreamQueueConfig.model_validate(
                {"type": "jetstream", "servers": [server.url], "replicas": 3, "stream": "audit"}
            ),
            replica=self.name,
            clock=SystemClock(),
            metrics=Metrics([], []),
            log=logs.configure("info", stream=self.stream),
            deduplicate={"eu": 3600.0},
        )
        try:
            yield self
        finally:
            await self.queue.close()

    @property
    def server(self) -> str | None:
        url = self.queue._link.client.connected_url
        return None if url is None else f"nats://{url.netloc}"

    def knows_all(self) -> bool:
        return len(self.queue._link.client.server_pool) == 3

    def events(self) -> list[str]:
        return [orjson.loads(line)["event"] for line in self.stream.getvalue().splitlines()]


async def accepted(replica: Replica, first: int) -> Receipt:
    """Offer a batch as Konnect does, again and again."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                return await replica.queue.append([batch(lines(5, first=first))])
            except QueueError:
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("leads", [True, False])
async def test_all_replicas_leave_a_server_that_is_cut_off(tmp_path: Path, leads: bool) -> None:
    """Whether it led the stream or not: the others have the quorum; what is accepted there is owed."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(NatsCluster(tmp_path, partitions=True))
        alone, *others = cluster.servers
        one, two = [await stack.enter_async_context(Replica(name).on(alone)) for name in ("one", "two")]
        await until(lambda: one.knows_all() and two.knows_all(), LIMIT, "knowing every server")
        await one.queue.attach("siem", "now")
        lease = await one.queue.lease("siem")
        await accepted(one, 0)

        async def led() -> bool:
            leader = await cluster.leader_of("audit")
            if (leader is alone) is leads:
                return True
            wanted = {"placement": {"preferred": (alone if leads else others[0]).name}}
            await alone.api("STREAM.LEADER.STEPDOWN.audit", wanted)
            return False

        await until(led, LIMIT, "the leader where it is wanted")
        cluster.isolate(alone)

        assert {await accepted(one, 100), await accepted(two, 200)} <= {Receipt(5, 0), Receipt(0, 5)}
        for replica in (one, two):
            assert replica.server in [each.url for each in others]
            assert "queue.server_left" in replica.events()
            async with asyncio.timeout(LIMIT):
                await replica.queue.ping()
        async with asyncio.timeout(LIMIT):
            await lease.lost.wait()
            await lease.release()
            await one.queue.lease("siem")
        await until(lambda: one.queue.books("siem").backlog == 15, LIMIT, "all of it being owed")


async def departures(seconds: int, *servers: NatsServer) -> list[float]:
    """When a replica whose heartbeats nobody stores leaves the server it is connected to."""
    clock = FakeClock()
    stream = io.BytesIO()
    log = logs.configure("info", stream=stream)
    config = JetStreamQueueConfig(type="jetstream", servers=[server.url for server in servers])
    client = await connect(config, log=log, name="test")
    members = Members(Bucket(await Link.open(client), "none"), "one", clock=clock, log=log)
    isolation = Isolation(client, members, clock=clock, log=log)
    client.when_dropped.append(isolation.dropped)
    running = asyncio.create_task(isolation.run())
    times: list[float] = []
    await members.beat()
    assert members.failing
    try:
        while clock.monotonic() < seconds:
            await clock.next_wake()
            await clock.advance(1)
            records = [orjson.loads(line) for line in stream.getvalue().splitlines()]
            left = [each["server"] for each in records if each["event"] == "queue.server_left"]
            if len(left) > len(times):
                times.append(clock.monotonic())
                await until(lambda: client.is_connected, LIMIT, "another server")
                url = client.connected_url
                assert url is not None
                assert url.netloc != left[-1]
        return times
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()


async def test_a_single_server_is_not_left(nats_server: NatsServer) -> None:
    """There is nowhere to go: the connection stays, and whatever is under way may still be answered."""
    assert await departures(60, nats_server) == []


async def test_servers_are_left_ever_more_rarely(nats_server: NatsServer, tmp_path: Path) -> None:
    """Where none is of use, as without a quorum, going from one to the next changes nothing."""
    async with NatsServer(tmp_path, name="another") as another:
        times = await departures(250, nats_server, another)

    waits = [later - earlier for earlier, later in pairwise([0.0, *times])]
    assert waits == [_PATIENCE, 2 * _PATIENCE, 4 * _PATIENCE, 8 * _PATIENCE, 60.0, 60.0]
