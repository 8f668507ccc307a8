"""Limits: what is given back, in which order, and what is refused."""

from __future__ import annotations

import asyncio
import random

import pytest

from relay.errors import NotFound, QueueFull
from relay.model import Reason, Receipt
from relay.queue.base import DeadLetterFilter, Queue
from tests.contract.queue.conftest import Opener, attached
from tests.contract.queue.test_log import deliver_all, read_lines, whole
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines

MIB = 1 << 20


def _noise(number: int) -> bytes:
    """About 12 kB that gzip cannot shrink much."""
    return random.Random(number).randbytes(6_000).hex().encode()


async def fill(queue: Queue, clock: FakeClock, *, first: int = 0, most: int = 1000) -> int:
    """Append until the queue refuses; how many were accepted."""
    for n in range(first, first + most):
        try:
            await queue.append([batch([line + _noise(n) for line in lines(1, first=n)], at=clock.now())])
        except QueueFull:
            return n - first
    return most


async def upkeep(queue: Queue, clock: FakeClock) -> None:
    """Let the queue's upkeep run a few rounds."""
    for _ in range(2):
        asleep = clock.sleepers
        await clock.advance(1.5)
        await clock.asleep(asleep)  # it sleeps again when a round is done


async def test_a_full_queue_refuses_and_keeps_what_it_has(reopen: Opener, clock: FakeClock) -> None:
    """Beyond the limit an append raises and stores nothing; what was accepted stays readable."""
    queue = await reopen(max_bytes=2 * MIB, when_full="reject")
    (reader,) = await attached(queue, "siem", "now")

    accepted = await fill(queue, clock)

    assert 1000 > accepted > 50
    assert not queue.stats().accepting
    assert accepted == len(await read_lines(reader)) == queue.books("siem").owed


async def test_a_full_queue_resumes_by_itself(reopen: Opener, clock: FakeClock) -> None:
    """Once events are delivered their space is given back and appends succeed again."""
    queue = await reopen(max_bytes=2 * MIB, when_full="reject")
    (reader,) = await attached(queue, "siem", "now")
    accepted = await fill(queue, clock)
    await deliver_all(reader)

    async with asyncio.timeout(60):
        while await fill(queue, clock, first=accepted, most=1) == 0:
            await clock.advance(1.5)
            await queue.set_hold("siem", None)

    assert queue.stats().accepting


async def test_delivered_events_go_first(reopen: Opener, clock: FakeClock) -> None:
    """Near the limit, retained events that everyone has are deleted before anything is refused."""
    queue = await reopen(max_bytes=6 * MIB, when_full="reject")
    (reader,) = await attached(queue, "siem", "now")
    for first in range(0, 1500, 25):
        assert await fill(queue, clock, first=first, most=25) == 25
        await deliver_all(reader)
        await upkeep(queue, clock)

    assert queue.books("siem").delivered == 1500
    assert queue.stats().bytes < 6 * MIB


@pytest.mark.parametrize("servers", ["sqlite"], indirect=True)
async def test_what_was_delivered_first_is_forgotten_before_anything_is_refused(
    reopen: Opener, clock: FakeClock
) -> None:
    """Nearly full, SQLite gives up the ids of the batches it gives back: a second copy is a new event then.

    Only of those: what is in the log, however full that is, is recognised.
    """
    queue = await reopen(max_bytes=2 * MIB, when_full="reject")
    (reader,) = await attached(queue, "siem", "now")
    sent: list[list[bytes]] = []
    while queue.stats().bytes < 0.98 * 2 * MIB:
        assert await fill(queue, clock, first=len(sent), most=2) == 2
        sent += [[line + _noise(n) for line in lines(1, first=n)] for n in (len(sent), len(sent) + 1)]
        await upkeep(queue, clock)  # it measures
    for stored, offset in await reader.read(3):
        await reader.settle(whole(stored, offset))
    await upkeep(queue, clock)
    assert queue.stats().batches == len(sent) - 3
    assert queue.stats().bytes > 0.95 * 2 * MIB

    receipts = [await queue.append([batch(each, at=clock.now())]) for each in (sent[0], sent[3], sent[-1])]

    assert receipts == [Receipt(1, 0), Receipt(0, 1), Receipt(0, 1)]


async def test_the_laggard_gives_way_to_those_up_to_date(reopen: Opener, clock: FakeClock) -> None:
    """With `release_laggards`, a destination that is down for long loses its oldest events, on the books."""
    queue = await reopen(max_bytes=6 * MIB)
    (quick,) = await attached(queue, "quick", "now")
    (slow,) = await attached(queue, "slow", "now")
    for first in range(0, 1500, 25):
        assert await fill(queue, clock, first=first, most=25) == 25
        await deliver_all(quick)
        await upkeep(queue, clock)

    books = queue.books("slow")
    assert books.dead_by_reason[Reason.EXPIRED] == books.dead > 100
    assert books.owed == books.dead + books.backlog == 1500
    (letter,) = await queue.dead_letters(DeadLetterFilter(destination="slow"))
    assert (1, books.dead, None) == (letter.position.sequence, letter.count, letter.event)
    assert books.backlog == len(await deliver_all(slow))
    lost = [line + _noise(n) for n, line in enumerate(lines(3))]
    assert await queue.append([batch(lost, at=clock.now())]) == Receipt(3, 0), "a replay brings them back"
    assert await deliver_all(slow) == lost
    queue = await reopen(max_bytes=6 * MIB)
    after = queue.books("slow")
    assert (1503, books.dead, 1503 - books.dead, 0) == (
        after.owed,
        after.dead,
        after.delivered,
        after.backlog,
    )


async def test_when_everyone_is_behind_the_intake_refuses(reopen: Opener, clock: FakeClock) -> None:
    """Nothing is released while no destination is up to date."""
    queue = await reopen(max_bytes=2 * MIB)
    await attached(queue, "one", "now")
    await attached(queue, "two", "now")
    accepted = await fill(queue, clock)
    await upkeep(queue, clock)

    assert await fill(queue, clock, first=accepted, most=1) == 0
    assert accepted == queue.books("one").backlog == queue.books("two").backlog


async def test_delivered_events_are_kept_for_the_retention(reopen: Opener, clock: FakeClock) -> None:
    """Events everyone has stay until they are older than the retention, then they go."""
    queue = await reopen(retention=3600.0, deduplicate=None)
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(5))])
    await deliver_all(reader)
    await upkeep(queue, clock)
    assert queue.stats().batches == 1

    clock.jump(3600)
    await upkeep(queue, clock)

    assert queue.stats().batches == 0
    (reader,) = await attached(await reopen(), "siem", "now")
    assert reader.backlog().events == 0


async def test_events_that_are_owed_outlive_the_retention(reopen: Opener, clock: FakeClock) -> None:
    """Age alone never deletes what some destination still needs."""
    queue = await reopen(retention=60.0)
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(5))])

    clock.jump(30 * 86400)
    await upkeep(queue, clock)

    assert lines(5) == await read_lines(reader)


async def test_replaying_what_is_no_longer_retained_says_so(queue: Queue) -> None:
    """An empty range is an error, not a silent success."""
    await attached(queue, "siem", "now")
    with pytest.raises(NotFound, match="retained"):
        await queue.replay("siem", NOW - 100, NOW, None)
