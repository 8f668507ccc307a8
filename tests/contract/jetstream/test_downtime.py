"""Down time of a cluster: only when no replica was there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import structlog

from relay.recovery.heartbeat import Heartbeat
from tests.contract.jetstream.relays import LIMIT, Relay, Relays
from tests.fakes.nats import NatsServer
from tests.fakes.process import until


@pytest.fixture
async def relays(nats_server: NatsServer, prefix: str) -> AsyncIterator[Relays]:
    """None yet, on streams of their own."""
    async with Relays(nats_server, prefix) as relays:
        yield relays


def heart(relays: Relays, relay: Relay) -> Heartbeat:
    log = structlog.wrap_logger(structlog.testing.CapturingLogger(), wrapper_class=structlog.BoundLogger)
    return Heartbeat(relay.queue, lambda: ["eu"], clock=relays.clock, log=log)


async def test_a_replica_that_starts_beside_another_was_not_missed(relays: Relays) -> None:
    """One is killed, another went on, a third starts: somebody was there all the time."""
    one, two = await relays.add("one", "two")
    both = heart(relays, one), heart(relays, two)
    for each in both:
        await each.beat()
    await one.kill()
    for _ in range(6):
        await relays.pass_(10)
        await both[1].beat()
    (three,) = await relays.add("three")
    await heart(relays, three).beat()

    assert await two.queue.gaps() == await three.queue.gaps() == []


async def test_when_all_were_gone_whoever_starts_opens_one_gap(relays: Relays) -> None:
    """Two that start at the same time see the same last heartbeat; the gap is one all the same."""
    (one,) = await relays.add("one")
    await heart(relays, one).beat()
    last = relays.clock.now()
    await one.kill()
    await relays.pass_(60)
    two, three = await relays.add("two", "three")
    hearts = heart(relays, two), heart(relays, three)
    for each in hearts:  # both look before either of them has noted anything
        await each._compare()
    for each in hearts:
        await each.beat()
    await relays.pass_(3)

    async def one_gap() -> bool:
        gaps = [await each.queue.gaps() for each in (two, three)]
        return gaps[0] == gaps[1] and [(gap.cause, gap.start) for gap in gaps[0]] == [("downtime", last)]

    await until(one_gap, LIMIT, "one gap, known to both")
