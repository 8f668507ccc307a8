"""Gaps: noted when NATS takes nothing, written when it does, and one for all replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import orjson
import pytest

from relay.errors import Conflict, QueueError
from relay.model import Gap
from relay.queue.jetstream.bucket import Entry
from relay.queue.jetstream.gaps import Gaps
from tests.contract.jetstream.streams import LIMIT, Site, streams
from tests.fakes.nats import NatsServer
from tests.fakes.process import until


@pytest.fixture
async def sites(nats_server: NatsServer, prefix: str) -> AsyncIterator[list[Site]]:
    """Two replicas."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(streams(nats_server, prefix))
        yield [await stack.enter_async_context(Site.open(nats_server, prefix)) for _ in range(2)]


async def watched(site: Site) -> Gaps:
    gaps = Gaps(site.bucket)
    await site.watch(gap=gaps.seen)
    return gaps


async def test_refusals_while_nats_is_away_are_kept_and_written_later(sites: list[Site]) -> None:
    """They are shown at once, survive a write that fails, and get their id when NATS takes them."""
    gaps = await watched(sites[0])
    await sites[0].cut_off()
    gaps.note("eu", 100.0, 101.0, "500")
    gaps.note("eu", 150.0, 151.0, "500")

    with pytest.raises(QueueError):
        await gaps.write()
    assert gaps.open() == [Gap(0, "eu", 100.0, 151.0, "500", 2)]

    await sites[0].come_back()
    gaps.note("eu", 160.0, 160.0, "500")
    await gaps.write()
    assert gaps.open() == [Gap(1, "eu", 100.0, 160.0, "500", 3)]
    assert (await watched(sites[1])).open() == gaps.open()


async def test_refusals_close_together_are_one_gap(sites: list[Site]) -> None:
    """Source, cause and two minutes decide; also when they are noted in between two writes."""
    gaps = await watched(sites[0])
    gaps.note("eu", 1000.0, 1001.0, "429")
    gaps.note("us", 1000.0, 1001.0, "429")
    gaps.note("eu", 1000.0, 1001.0, "413")
    await gaps.write()
    gaps.note("eu", 1121.0, 1121.0, "429")
    gaps.note("eu", 1242.0, 1242.0, "429")
    await gaps.write()

    assert gaps.open() == [
        Gap(1, "eu", 1000.0, 1121.0, "429", 2),
        Gap(2, "us", 1000.0, 1001.0, "429", 1),
        Gap(3, "eu", 1000.0, 1001.0, "413", 1),
        Gap(4, "eu", 1242.0, 1242.0, "429", 1),
    ]


async def test_a_replica_extends_the_gap_of_another(sites: list[Site]) -> None:
    """A gap that both know of grows by what each of them notes."""
    one, two = [await watched(site) for site in sites]
    one.note("eu", 100.0, 101.0, "500")
    await one.write()
    await until(lambda: bool(two.open()), LIMIT, "the other one seeing it")
    two.note("eu", 200.0, 201.0, "500")
    await two.write()
    # It need not have seen the new end.
    one.note("eu", 90.0, 91.0, "500")
    await one.write()

    whole = Gap(1, "eu", 90.0, 201.0, "500", 3)
    assert one.open() == [whole]
    await until(lambda: two.open() == [whole], LIMIT, "the other one seeing it")


async def test_replicas_that_write_at_the_same_moment_open_one_gap(sites: list[Site]) -> None:
    """No two gaps for one trouble, and no id for two gaps, even if nobody has seen the other's."""
    one, two = Gaps(sites[0].bucket), Gaps(sites[1].bucket)  # they watch nothing
    for number in range(20):
        start = number * 1000.0
        one.note("eu", start, start, "500")
        two.note("eu", start + 10, start + 10, "500")
        two.note("us", start + 10, start + 10, "500")
        await asyncio.gather(one.write(), two.write())
        one.note("eu", start + 20, start + 20, "500")
        two.note("eu", start + 30, start + 30, "500")
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(one.write(), two.write())

    found = (await watched(sites[0])).open()
    assert [gap.id for gap in found] == list(range(1, 41))
    assert sorted((gap.source, gap.start, gap.end, gap.refusals) for gap in found) == [
        *[("eu", n * 1000.0, n * 1000.0 + 30, 4) for n in range(20)],
        *[("us", n * 1000.0 + 10, n * 1000.0 + 10, 1) for n in range(20)],
    ]


async def test_what_is_noted_during_a_write_is_neither_lost_nor_counted_twice(sites: list[Site]) -> None:
    """Requests are refused at any moment, also while the last refusal is on its way to NATS."""
    gaps = await watched(sites[0])
    gaps.note("eu", 100.0, 100.0, "500")
    sites[0].proxy.stall()
    writing = asyncio.create_task(gaps.write())
    await until(lambda: gaps._writing is not None, LIMIT, "the write having begun")
    gaps.note("eu", 101.0, 101.0, "500")
    assert gaps.open() == [Gap(0, "eu", 100.0, 101.0, "500", 2)]
    sites[0].proxy.heal()
    await writing

    assert gaps.open() == [Gap(1, "eu", 100.0, 101.0, "500", 2)]


async def test_a_write_that_is_cancelled_keeps_what_it_had(sites: list[Site]) -> None:
    """A relay that is told to stop in mid-write writes again before it ends."""
    gaps = await watched(sites[0])
    gaps.note("eu", 100.0, 100.0, "500")
    sites[0].proxy.stall()
    writing = asyncio.create_task(gaps.write())
    await until(lambda: gaps._writing is not None, LIMIT, "the write having begun")
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert gaps.open() == [Gap(0, "eu", 100.0, 100.0, "500", 1)]


async def test_a_closed_gap_is_not_extended(sites: list[Site]) -> None:
    """What was recovered stays closed; later refusals are a new gap."""
    one, two = [await watched(site) for site in sites]
    one.note("eu", 100.0, 101.0, "500")
    await one.write()
    closed = replace(one.open()[0], closed_at=110.0)
    await sites[1].bucket.put("gap.1", orjson.dumps(closed))
    await until(lambda: not one.open(), LIMIT, "it being closed")
    one.note("eu", 102.0, 103.0, "500")
    await one.write()

    again = Gap(2, "eu", 102.0, 103.0, "500", 1)
    assert one.open() == [again]
    assert one.all() == [closed, again]
    await until(lambda: two.all() == [closed, again], LIMIT, "the other one seeing it")


async def test_a_gap_that_another_replica_has_extended_is_not_closed(sites: list[Site]) -> None:
    """Whoever closes it has fetched what he knew of; the rest is still missing."""
    one, two = Gaps(sites[0].bucket), await watched(sites[1])  # the first one watches nothing
    one.note("eu", 100.0, 101.0, "500")
    await one.write()
    (known,) = one.open()
    await until(lambda: bool(two.open()), LIMIT, "the other one seeing it")
    two.note("eu", 200.0, 201.0, "500")
    await two.write()

    with pytest.raises(Conflict):
        await one.close(1, 300.0, None, known)
    whole = Gap(1, "eu", 100.0, 201.0, "500", 2)
    assert one.open() == [whole]

    await one.close(1, 300.0, None, whole)
    assert one.open() == []


async def test_a_gap_that_somebody_deleted_does_not_come_back(sites: list[Site]) -> None:
    """Neither by an older value that is still on its way, nor by the next refusal, which is a new gap."""
    gaps = await watched(sites[0])
    gaps.note("eu", 100.0, 101.0, "500")
    await gaps.write()
    entry = await sites[1].bucket.get("gap.1")
    assert entry is not None
    await sites[1].bucket.delete("gap.1")
    await until(lambda: not gaps.open(), LIMIT, "it being deleted")

    gaps.seen(entry)
    assert gaps.all() == []
    gaps.note("eu", 102.0, 103.0, "500")
    await gaps.write()
    assert gaps.open() == [Gap(2, "eu", 102.0, 103.0, "500", 1)]


async def test_an_id_whose_gap_was_deleted_behind_our_back_is_passed_over(sites: list[Site]) -> None:
    """The watch has not told yet: the write finds out, and does not try for ever."""
    gaps = Gaps(sites[0].bucket)
    for number in (1, 2):
        await sites[1].bucket.put(f"gap.{number}", b"")
        await sites[1].bucket.delete(f"gap.{number}")
    gaps.note("eu", 100.0, 101.0, "500")
    async with asyncio.timeout(LIMIT):
        await gaps.write()

    assert gaps.open() == [Gap(3, "eu", 100.0, 101.0, "500", 1)]


@pytest.mark.parametrize("value", [b"", b"{}", b'{"id":1,"source":"eu"}', b"\xff"])
async def test_what_is_no_gap_is_refused(sites: list[Site], value: bytes) -> None:
    """The watch is told, and goes on with the others."""
    gaps = Gaps(sites[0].bucket)
    with pytest.raises(QueueError, match="cannot be read"):
        gaps.seen(Entry("gap.1", value, 1))
    with pytest.raises(QueueError, match="cannot be read"):
        gaps.seen(Entry("gap.one", b"", 1, deleted=True))

    assert gaps.all() == []
