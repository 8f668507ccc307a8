"""Replays that are signed anew, over several replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from relay.model import Receipt
from relay.queue.dedup.opened import CONTENT_AFTER
from tests.contract.jetstream.test_deduplicate import Replicas, streams
from tests.fakes.events import NOW, batch
from tests.fakes.judging import Keys, Unchecked, forged
from tests.fakes.konnect import Maker
from tests.fakes.konnect.writing import line
from tests.fakes.nats import NatsServer

HOUR = 3600.0


@pytest.fixture
async def replicas(nats_server: NatsServer, prefix: str) -> AsyncIterator[Replicas]:
    async with streams(nats_server, prefix) as stack:
        yield Replicas(nats_server, prefix, stack)


@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("judge", [Unchecked, Keys])
async def test_another_replica_recognises_it(
    replicas: Replicas, judge: type[Unchecked | Keys], followed: bool
) -> None:
    """Whether it has followed what the first one accepted or starts with the log as it is."""
    one = await replicas.add("one")
    two = await replicas.add("two") if followed else None
    events = Maker().some(20, at=NOW)
    await one.append([batch([line(each, "cef", stamp=NOW) for each in events])])
    two = two or await replicas.add("two")
    await two.follow()
    two.dedup.judge_by(judge())

    again = [line(each, "cef", stamp=NOW + HOUR) for each in [*events[5:], *Maker().some(2, at=NOW + 1)]]
    request = [batch(again[:9], at=NOW + HOUR), batch(again[9:], at=NOW + HOUR)]
    assert Receipt(2, 15) == await two.append(request)


async def test_a_forgery_at_another_replica_hides_nothing(replicas: Replicas) -> None:
    """Who looks at signatures finds that the stored ones are bad, wherever they came in."""
    one, two = await replicas.add("one"), await replicas.add("two")
    two.dedup.judge_by(Keys())
    true = [line(each, "cef", stamp=NOW) for each in Maker().some(5, at=NOW)]
    await one.append([batch([forged(each) for each in true])])
    await two.follow()

    assert Receipt(5, 0) == await two.append([batch(true, at=NOW + HOUR)])


async def test_what_is_remembered_of_a_purged_batch(replicas: Replicas) -> None:
    """Names of what it said are enough where nobody looks, and no more than ids elsewhere."""
    one = await replicas.add("one")
    events = Maker().some(5, at=NOW)
    await one.append([batch([line(each, "cef", stamp=NOW) for each in events])])
    await one.purge()
    trusting, checking = await replicas.add("trusting"), await replicas.add("checking")
    trusting.dedup.judge_by(Unchecked())
    checking.dedup.judge_by(Keys())
    again = batch([line(each, "cef", stamp=NOW + HOUR) for each in events], at=NOW + HOUR)

    assert Receipt(0, 5) == await trusting.append([again])
    assert Receipt(5, 0) == await checking.append([again])


@pytest.mark.parametrize("purged", [False, True])
async def test_twins_that_come_to_two_replicas_are_two_events(replicas: Replicas, purged: bool) -> None:
    """Stored or remembered, wherever it was received: no replay comes that soon."""
    one, two = await replicas.add("one"), await replicas.add("two")
    two.dedup.judge_by(Unchecked())
    event = Maker().authorization(at=NOW)
    await one.append([batch([line(event, "cef", stamp=NOW)])])
    await two.follow()
    if purged:
        await one.purge()

    soon = [line(event, "cef", stamp=NOW + 1)]
    assert Receipt(1, 0) == await two.append([batch(soon, at=NOW + CONTENT_AFTER - 1)])
    replayed = [line(event, "cef", stamp=NOW + HOUR)]
    assert Receipt(0, 1) == await two.append([batch(replayed, at=NOW + HOUR)])
