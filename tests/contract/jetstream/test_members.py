"""Who is at work: heartbeats of several replicas on one state bucket."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from relay.model import Sighting
from relay.queue.jetstream import link, members
from relay.queue.jetstream.members import BEAT_SECONDS
from tests.contract.jetstream.replicas import LIMIT, Replicas, description
from tests.fakes.process import until


async def test_a_silent_replica_is_dead_after_five_seconds_and_not_before(replicas: Replicas) -> None:
    """Silence of less than the lease's life is not taken for death."""
    one, two = await replicas.add("one", "two")
    await one.die()

    await replicas.pass_(4)
    assert two.members.is_alive("one")

    await replicas.pass_(2)
    assert not two.members.is_alive("one")
    assert [each.id for each in two.members.alive()] == ["two"]
    assert [line["replica"] for line in two.logged("replica.silent")] == ["one"]


async def test_a_replica_distrusts_itself_before_the_others_bury_it(replicas: Replicas) -> None:
    """Cut off, it stops trusting itself after three seconds, while the others still count it."""
    one, two = await replicas.add("one", "two")
    await one.cut_off()

    await replicas.pass_(2.5)
    assert one.members.trusted()
    await replicas.pass_(0.5)
    assert not one.members.trusted()
    assert two.members.is_alive("one")

    await replicas.pass_(3)
    assert not two.members.is_alive("one")
    assert len(one.logged("replica.heartbeat_failed")) == 1


async def test_a_replica_that_comes_back_is_trusted_and_heard_again(replicas: Replicas) -> None:
    """After a break in the network everything is as before."""
    one, two = await replicas.add("one", "two")
    await one.cut_off()
    await replicas.pass_(7)

    await one.come_back()

    assert one.members.trusted()
    await until(lambda: two.members.is_alive("one"), LIMIT)
    await until(lambda: len(one.members.alive()) == 2, LIMIT)


async def test_an_unanswered_heartbeat_does_not_hold_up_the_next_one(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that swallows packets costs a heartbeat a second of waiting, however long others wait."""
    assert members._ANSWER_SECONDS <= BEAT_SECONDS
    monkeypatch.setattr(link, "_PUBLISH_SECONDS", 600.0)
    monkeypatch.setattr(link, "_ANSWER_SECONDS", 600.0)
    [one] = await replicas.add("one")
    one.proxy.stall()

    async with asyncio.timeout(LIMIT):
        await one.members.beat()

    one.proxy.heal()
    assert len(one.logged("replica.heartbeat_failed")) == 1


async def test_nobody_dies_of_an_outage_of_nats(replicas: Replicas) -> None:
    """Replicas that could not store heartbeats for a while do not hold that against each other."""
    nodes = await replicas.add("one", "two", "three")
    for node in nodes:
        await node.cut_off()
    await replicas.pass_(60)

    # The first is back for four seconds before the last one is.
    for node, seconds in zip(nodes, (2.0, 0.0, 8.0), strict=True):
        await node.come_back()
        await replicas.pass_(seconds)

    for node in nodes:
        assert len(node.members.alive()) == 3
        assert node.logged("replica.silent") == []


async def test_nobody_dies_of_a_watch_that_hangs(replicas: Replicas) -> None:
    """What a replica has not been told by its own watch, it does not take for silence."""
    one, two = await replicas.add("one", "two")
    two.watching.cancel()
    for _ in range(20):
        await replicas.clock.advance(1)
        await until(lambda: one.members._heard == replicas.clock.monotonic(), LIMIT)
    assert two.members.is_alive("one")

    two.watching = asyncio.create_task(two.watch())
    await replicas.pass_(10)

    assert two.members.is_alive("one")
    assert two.logged("replica.silent") == []


async def test_a_replica_that_leaves_is_gone_at_once(replicas: Replicas) -> None:
    """Who ends in order need not be waited for."""
    one, two = await replicas.add("one", "two")
    await replicas.pass_(5)

    await one.members.leave()

    assert not one.members.trusted()
    await until(lambda: not two.members.is_alive("one"), LIMIT)
    assert [line["replica"] for line in two.logged("replica.left")] == ["one"]
    await one.members.beat()
    await replicas.clock.advance(1)
    assert await two.bucket.get("replica.one") is None


async def test_a_replica_that_has_just_started_calls_nobody_dead(replicas: Replicas) -> None:
    """Whom it has never heard of may be about to say something, for as long as a lease lasts."""
    [one] = await replicas.add("one")

    await replicas.pass_(4)
    assert one.members.is_alive("a-ghost")

    await replicas.pass_(1)
    assert not one.members.is_alive("a-ghost")
    assert one.members.is_alive("one")


async def test_what_the_dead_left_behind_is_not_taken_for_life_for_ever(replicas: Replicas) -> None:
    """A heartbeat stored before this replica started counts from when it was seen."""
    [one] = await replicas.add("one")
    await one.die()
    [two] = await replicas.add("two")

    await replicas.pass_(4)
    assert two.members.is_alive("one")
    await replicas.pass_(2)
    assert not two.members.is_alive("one")


async def test_everybody_reads_what_everybody_tells_of_itself(replicas: Replicas) -> None:
    """A description arrives whole, the own one first, and a newer one replaces it."""
    one, two = await replicas.add("one", "two.with.dots")
    told = replace(
        description("one"),
        sources={"eu": Sighting(at=12.5, code=200)},
        destinations={"splunk.eu": Sighting(code=503, detail="« no »\n")},
    )

    await one.members.announce(told)
    await replicas.pass_(1)

    await until(lambda: told in two.members.alive(), LIMIT)
    assert [each.id for each in two.members.alive()] == ["two.with.dots", "one"]
    assert [each.id for each in one.members.alive()] == ["one", "two.with.dots"]


async def test_a_replica_of_a_later_version_is_alive_though_nobody_understands_it(replicas: Replicas) -> None:
    """A heartbeat that cannot be read is a heartbeat."""
    [one] = await replicas.add("one")
    await replicas.pass_(6)

    await one.bucket.put("replica.later", b'{"replica": "described in another way"}')

    await until(lambda: one.members.is_alive("later"), LIMIT)
    assert [each.id for each in one.members.alive()] == ["one"]


async def test_the_server_forgets_a_dead_replica_by_itself(replicas: Replicas) -> None:
    """Heartbeats are stored with a time to live, or each start of a replica would leave a key for ever."""
    [one] = await replicas.add("one")

    entry = await one.bucket.get("replica.one")

    assert entry is not None
    assert entry.headers["Nats-TTL"] == "120s"
