"""deploy/compose-cluster/nats.conf on three real servers: what the relays may do there, and nothing more."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import nats
import pytest

from relay.config.queue import JetStreamQueueConfig
from relay.model import DeadLetter, Position, Reason, Response, Settlement
from relay.observe import logs
from relay.observe.metrics import Metrics
from relay.queue.base import DeadLetterFilter
from relay.queue.jetstream.client import Client
from relay.queue.jetstream.identity import Identity
from relay.queue.jetstream.queue import JetStreamQueue
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines
from tests.fakes.shipped_cluster import ShippedCluster, new_user

STREAM = "konnect-audit"
LIMIT = 30.0  # seconds


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ShippedCluster]:
    async with ShippedCluster(tmp_path).running() as running:
        yield running


@asynccontextmanager
async def connected(
    cluster: ShippedCluster, user: Identity, refusals: asyncio.Queue[str]
) -> AsyncIterator[Client]:
    """As *user*; what the servers refuse is put into *refusals*."""

    async def refused(error: Exception) -> None:
        refusals.put_nowait(str(error))

    client = Client(encrypted=False, identity=user)
    await client.connect(cluster.urls, signature_cb=user.sign, error_cb=refused)
    try:
        yield client
    finally:
        await client.close()


async def test_the_relays_may_do_all_they_have_to(cluster: ShippedCluster) -> None:
    """The queue itself on three replicas: nothing it asks for is refused, and nothing goes unanswered."""
    written = io.BytesIO()
    config = JetStreamQueueConfig.model_validate(
        {
            "type": "jetstream",
            "servers": cluster.urls,
            "nkey": cluster.relay.seed.reveal(),
            "monitoring": cluster.monitoring,
        }
    )
    queue = await JetStreamQueue.open(
        config,
        replica="r1",
        clock=FakeClock(NOW),
        metrics=Metrics(["eu"], ["siem"]),
        log=logs.configure("info", stream=written),
        deduplicate={"eu": 3600.0},
    )
    try:
        await _use(queue)
    finally:
        await queue.close()

    assert b"permissions violation" not in written.getvalue()
    assert b'"sync": "always"' in written.getvalue().replace(b'":"', b'": "')


async def _use(queue: JetStreamQueue) -> None:
    """Accept, recognise, deliver, bury, redrive, replay, discard, quarantine, forget."""
    async with asyncio.timeout(3 * LIMIT):
        events = lines(100)
        await queue.attach("siem", "now")
        lease = await queue.lease("siem")
        assert (await queue.append([batch(events)])).accepted == 100
        assert (await queue.append([batch(events[50:])])).duplicates == 50
        (reader,) = queue.readers("siem")
        ((stored, offset),) = await reader.read(1000)
        assert (stored.count, offset) == (100, 0)
        letter = DeadLetter(
            Position(stored.sequence, 99), stored.event(99), Reason.REJECTED, Response("no", 400)
        )
        await reader.settle(
            Settlement(
                Position(stored.sequence, 0), Position(stored.sequence, 100), delivered=99, dead=(letter,)
            )
        )
        await queue.flush()
        assert queue.books("siem").delivered == 99

        assert len(await queue.dead_letters(DeadLetterFilter("siem"))) == 1
        assert await queue.redrive(DeadLetterFilter("siem")) == 1
        assert (await queue.replay("siem", NOW - 1, NOW + 1, None)).total == 100
        await queue.quarantine("eu", b"no gzip", "broken")
        await queue.open_gap("eu", NOW, NOW + 1, "full")
        assert queue.stats().events == 100
        await queue.ping()
        await lease.release()
        await queue.forget("siem")


@pytest.mark.parametrize(
    "subject",
    [
        f"$JS.API.STREAM.DELETE.{STREAM}",
        f"$JS.API.STREAM.SNAPSHOT.{STREAM}",
        "$JS.API.STREAM.CREATE.another",
        "$JS.API.CONSUMER.CREATE.another",
        "$KV.another.key",
        "$SYS.REQ.SERVER.PING",
        "anything",
    ],
)
async def test_the_relays_may_not_do_more(cluster: ShippedCluster, subject: str) -> None:
    """A stolen seed of theirs reads and writes the audit log, and deletes no stream."""
    refusals: asyncio.Queue[str] = asyncio.Queue()
    async with connected(cluster, cluster.relay, refusals) as client:
        await client.publish(subject, b"")
        refusal = await asyncio.wait_for(refusals.get(), LIMIT)

    assert "permissions violation for publish" in refusal


async def test_nobody_listens_in(cluster: ShippedCluster) -> None:
    """The relays may subscribe to answers, and to no events."""
    refusals: asyncio.Queue[str] = asyncio.Queue()
    async with connected(cluster, cluster.relay, refusals) as client:
        await client.subscribe(">")
        refusal = await asyncio.wait_for(refusals.get(), LIMIT)

    assert "permissions violation for subscription" in refusal


async def test_a_stranger_is_not_let_in(cluster: ShippedCluster) -> None:
    """Whoever has neither of the two seeds, one that was made in the same way included."""
    user = new_user()
    stranger = Client(encrypted=False, identity=user)

    with pytest.raises(nats.errors.Error):
        await stranger.connect(cluster.urls[0], signature_cb=user.sign, allow_reconnect=False)
    await stranger.close()


async def test_every_server_syncs_before_it_answers(cluster: ShippedCluster) -> None:
    """What is acknowledged is on disk: each server says so itself, with the configuration that ships."""
    async with aiohttp.ClientSession() as session:
        for url in cluster.monitoring:
            async with session.get(f"{url}/jsz?config=true", timeout=aiohttp.ClientTimeout(5)) as answer:
                assert (await answer.json())["config"]["sync_always"] is True
