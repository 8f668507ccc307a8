"""Gaps, the heartbeat that shows down time, and reading what was received."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from relay.errors import Conflict, NotFound
from relay.model import Gap
from relay.queue.base import Queue
from relay.queue.gaps import MOST_OPEN
from tests.contract.queue.conftest import Opener
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines

LIMIT = 60.0


async def stored_gap(queue: Queue, clock: FakeClock) -> Gap:
    """The one open gap once upkeep has written it down and it has an id."""
    async with asyncio.timeout(LIMIT):
        while not all(gap.id for gap in await queue.gaps()):
            await clock.advance(1.0)
    (gap,) = await queue.gaps()
    return gap


async def test_a_gap_of_nobody_cannot_be_closed(queue: Queue) -> None:
    """It is told, not passed over."""
    with pytest.raises(NotFound):
        await queue.close_gap(17, at=NOW)


async def test_a_closed_gap_stays_closed_and_tells_what_is_lost(
    queue: Queue, reopen: Opener, clock: FakeClock
) -> None:
    """Also after a restart; closing it again changes nothing, and a new refusal is a new gap."""
    await queue.open_gap("eu", NOW, NOW + 10, "429")
    gap = await stored_gap(queue, clock)
    await queue.close_gap(gap.id, at=NOW + 60, lost_until=NOW + 4)
    await queue.close_gap(gap.id, at=NOW + 90)
    await queue.open_gap("eu", NOW + 20, NOW + 21, "429")

    queue = await reopen()

    (again,) = await queue.gaps()
    assert (again.start, again.refusals) == (NOW + 20, 1)
    closed = [each for each in await queue.gaps(include_closed=True) if each.closed_at is not None]
    assert closed == [Gap(gap.id, "eu", NOW, NOW + 10, "429", 1, NOW + 60, NOW + 4)]


async def test_a_gap_is_closed_as_far_as_it_is_known(queue: Queue, clock: FakeClock) -> None:
    """What it has grown by is still missing."""
    await queue.open_gap("eu", NOW, NOW + 10, "429")
    gap = await stored_gap(queue, clock)
    await queue.open_gap("eu", NOW + 50, NOW + 60, "429")
    with suppress(Conflict):  # a cluster may not have written down yet what a replica has noted
        await queue.close_gap(gap.id, at=NOW + 90, known=gap)

    grown = await stored_gap(queue, clock)
    assert grown.end == NOW + 60
    await queue.close_gap(grown.id, at=NOW + 90, known=grown)
    assert list(await queue.gaps()) == []


async def test_a_note_survives_a_restart(queue: Queue, reopen: Opener) -> None:
    """The last of its name, whatever is in it; there is none before the first."""
    assert await queue.last_note("recovery") is None
    await queue.note("recovery", "one")
    await queue.note("recovery", '{"two": "é"}')
    await queue.note("other", "three")
    assert await queue.last_note("recovery") == '{"two": "é"}'

    queue = await reopen()

    assert await queue.last_note("recovery") == '{"two": "é"}'
    assert await queue.last_note("other") == "three"


async def test_down_time_counts_no_refusals_and_joins_only_its_like(queue: Queue) -> None:
    """A gap may stand for a time in which nobody was there to refuse."""
    await queue.open_gap("eu", NOW, NOW + 10, "downtime", refusals=0)
    await queue.open_gap("eu", NOW + 5, NOW + 20, "downtime", refusals=0)
    await queue.open_gap("eu", NOW + 20, NOW + 21, "429")
    await queue.open_gap("us", NOW + 20, NOW + 21, "429")

    assert sorted(
        (gap.source, gap.cause, gap.start, gap.end, gap.refusals) for gap in await queue.gaps()
    ) == [
        ("eu", "429", NOW + 20, NOW + 21, 1),
        ("eu", "downtime", NOW, NOW + 20, 0),
        ("us", "429", NOW + 20, NOW + 21, 1),
    ]


async def test_gaps_are_bounded_in_number_and_forget_nothing(queue: Queue) -> None:
    """Trouble that comes and goes for months widens gaps instead of adding to them."""
    for number in range(MOST_OPEN + 50):
        await queue.open_gap("eu", NOW + 1000 * number, NOW + 1000 * number + 1, "429")

    found = await queue.gaps()
    assert len(found) == MOST_OPEN
    assert sum(gap.refusals for gap in found) == MOST_OPEN + 50
    assert max(gap.end for gap in found) == NOW + 1000 * (MOST_OPEN + 49) + 1


async def test_a_new_queue_has_no_heartbeat(queue: Queue) -> None:
    """So the first start of a relay is no down time."""
    assert await queue.last_beat() is None


async def test_the_last_heartbeat_survives_a_restart(queue: Queue, reopen: Opener) -> None:
    """It is what tells the next process since when nobody was there."""
    await queue.beat(NOW)
    await queue.beat(NOW + 10.25)

    assert await queue.last_beat() == NOW + 10.25
    assert await (await reopen()).last_beat() == NOW + 10.25


async def test_what_was_received_in_a_span_is_read_in_order(queue: Queue) -> None:
    """Without a reader, whatever was delivered; the span's end is not part of it."""
    for number in range(30):
        await queue.append([batch(lines(2, first=2 * number), at=NOW + number)])

    found = [each async for each in queue.received(NOW + 3, NOW + 27)]
    again = [each async for each in queue.received(NOW + 3, NOW + 27)]

    assert [(each.received_at, each.payload) for each in again] == [
        (each.received_at, each.payload) for each in found
    ]
    assert [each.received_at for each in found] == [NOW + number for number in range(3, 27)]
    assert [line for each in found for line in each.lines] == lines(48, first=6)
    assert [each async for each in queue.received(NOW + 30, NOW + 99)] == []
