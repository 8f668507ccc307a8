"""An event accepted once is not stored a second time, however it comes back."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from relay.model import Receipt
from relay.queue.base import Queue
from tests.contract.queue.conftest import Opener, attached
from tests.contract.queue.test_log import read_lines
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, cef, lines, restamped

HOUR = 3600.0


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "after a restart"])
async def test_a_retried_batch_is_recognised(queue: Queue, reopen: Opener, restart: bool) -> None:
    """The same body again is accepted and stored nothing of."""
    await queue.append([batch(lines(10))])
    if restart:
        queue = await reopen()

    assert Receipt(0, 10) == await queue.append([batch(lines(10), at=NOW + 5)])
    assert sum(queue.accepted().values()) == 10
    assert queue.duplicates()["eu"] == 10


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "after a restart"])
async def test_a_replay_with_other_boundaries_and_stamps_is_recognised(
    queue: Queue, reopen: Opener, restart: bool
) -> None:
    """Batch boundaries and header times do not matter; what is new among them is kept."""
    (reader,) = await attached(queue, "siem", "now")
    for n in range(0, 30, 10):
        await queue.append([batch(lines(10, first=n, at=NOW + n), at=NOW + n)])
    for n in range(100):  # an hour later, all sorts of other things have happened
        at = NOW + HOUR + n
        await queue.append([batch(lines(5, first=1000 + 5 * n, at=at), at=at)])
    if restart:
        queue = await reopen()
        (reader,) = await attached(queue, "siem", "now")

    seen = [line for n in range(0, 30, 10) for line in lines(10, first=n, at=NOW + n)]
    missed = lines(3, first=500, at=NOW + 4)
    replayed = [restamped(line) for line in [*seen[5:15], *missed, *seen[15:25]]]
    receipt = await queue.append([batch(replayed, at=NOW + 2 * HOUR)])

    assert Receipt(3, 20) == receipt
    assert [restamped(line) for line in missed] == (await read_lines(reader))[-3:]


async def test_twins_inside_one_batch_survive_and_are_recognised_together(queue: Queue) -> None:
    """Identical events in one batch are different events; the same batch again brings none."""
    (reader,) = await attached(queue, "siem", "now")
    twins = [cef(1), cef(2), cef(1), cef(1)]

    first = await queue.append([batch(twins)])
    again = await queue.append([batch(twins)])
    more = await queue.append([batch([cef(1)] * 5)])

    assert [Receipt(4, 0), Receipt(0, 4), Receipt(2, 3)] == [first, again, more]
    pieces = await reader.read(100)
    ids = [event_id for stored, _ in pieces for event_id in stored.ids]
    assert len(ids) == len(set(ids)) == 6
    assert [f"{ids[0]}-1", f"{ids[0]}-2", f"{ids[0]}-3", f"{ids[0]}-4"] == [ids[2], ids[3], *ids[4:]]


async def test_twins_in_two_batches_of_one_request_survive(queue: Queue) -> None:
    """A request that was cut into batches keeps twins on both sides of the cut apart."""
    (reader,) = await attached(queue, "siem", "now")
    request = [batch([cef(1), cef(2)]), batch([cef(1), cef(3)])]

    assert Receipt(4, 0) == await queue.append(request)
    assert Receipt(0, 4) == await queue.append(request)
    pieces = await reader.read(100)
    ids = [event_id for stored, _ in pieces for event_id in stored.ids]
    assert len(set(ids)) == 4


async def test_sources_do_not_share_the_index(queue: Queue) -> None:
    """The same line from two sources is two events."""
    assert Receipt(2, 0) == await queue.append([batch(lines(2))])
    assert Receipt(2, 0) == await queue.append([batch(lines(2), source="us")])


async def test_deduplication_can_be_switched_off(reopen: Opener) -> None:
    """With `deduplicate: off` every event is stored."""
    queue = await reopen(deduplicate=None)
    await queue.append([batch(lines(2))])

    assert Receipt(2, 0) == await queue.append([batch(lines(2))])


async def test_events_beyond_the_window_are_new(reopen: Opener, clock: FakeClock) -> None:
    """An event that comes back after the window is accepted again."""
    queue = await reopen(deduplicate=HOUR)
    await queue.append([batch(lines(2))])

    within = await queue.append([batch(lines(2), at=NOW + HOUR - 1)])
    beyond = await queue.append([batch(lines(2), at=NOW + HOUR + 1)])

    assert [Receipt(0, 2), Receipt(2, 0)] == [within, beyond]


@pytest.mark.parametrize(
    "odd",
    [
        b"not an audit log at all",
        b'{"rt":"yesterday","name":"x"}',
        b'{"rt":16738287345642,"name":"x"}',
        b"2026-11-18T10:26:40Z konghq.com CEF:0|KongInc|Konnect|1.0|a|b|1|rt=3958q3097698 src=1",
        b"2026-11-18T10:26:40Z konghq.com CEF:0|KongInc|Konnect|1.0|a|b|1|rt=9999999999999 src=1",
        b"2026-11-18T10:26:40Z konghq.com CEF:0|KongInc|Konnect|1.0|a|b|1|src=1 rt=1795000000000",
        b'{"request":"/ rt=1111111111111","rt":1795000000000}',
    ],
)
async def test_events_with_odd_times_are_recognised_too(queue: Queue, reopen: Opener, odd: bytes) -> None:
    """No time, a nonsensical one or one from the future: the event is still known when it returns."""
    mixed = [cef(1), odd, cef(2)]
    await queue.append([batch(mixed)])
    await queue.append([batch(lines(5, first=100, at=NOW + 50), at=NOW + 50)])
    assert Receipt(1, 3) == await queue.append([batch([*mixed, cef(77)], at=NOW + 60)])
    queue = await reopen()

    assert Receipt(0, 1) == await queue.append([batch([odd], at=NOW + 70)])
    assert Receipt(1, 0) == await queue.append([batch([odd + b" "], at=NOW + 70)])


async def test_a_forged_signature_does_not_hide_the_true_event(queue: Queue) -> None:
    """Identity covers the whole event, so a forgery that carries its signature changes nothing."""
    true = cef(1) + b" sig=AAAA"
    forged = cef(2) + b" sig=AAAA"
    await queue.append([batch([forged])])

    assert Receipt(1, 0) == await queue.append([batch([true])])


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "after a restart"])
async def test_what_the_relay_pulled_is_told_from_what_was_sent(
    queue: Queue, reopen: Opener, restart: bool
) -> None:
    """Also by a sender who knew the line before: neither hides the other, and each is recognised again."""
    (reader,) = await attached(queue, "siem", "now")
    told = lines(3)
    for pulled in (False, True):
        assert Receipt(3, 0) == await queue.append([batch(told, pulled=pulled)])
    if restart:
        queue = await reopen()
        (reader,) = await attached(queue, "siem", "now")

    for pulled in (True, False):
        assert Receipt(1, 3) == await queue.append([batch([*told, cef(9)], at=NOW + 5, pulled=pulled)])
    found = [stored for stored, _ in await reader.read(100)]
    assert [stored.pulled for stored in found] == [False, True, True, False]
    assert len({event_id for stored in found for event_id in stored.ids}) == 8
    async with aclosing(queue.received(NOW, NOW + 1)) as batches:
        assert [stored.pulled async for stored in batches] == [False, True]


async def given_back(queue: Queue, clock: FakeClock) -> None:
    """Wait until upkeep, which wakes up every second and works in its own thread, has deleted every batch."""
    async with asyncio.timeout(60):
        while [each async for each in queue.received(0, NOW * 2)]:
            await clock.advance(30)
            await queue.ping()


async def test_what_was_pulled_is_recognised_after_its_batch_was_given_back(
    reopen: Opener, clock: FakeClock
) -> None:
    """And what was sent, for which its ids could be mistaken, is new."""
    queue = await reopen(retention=60.0)
    await queue.append([batch(lines(5), pulled=True)])
    await given_back(queue, clock)
    queue = await reopen(retention=60.0)

    assert Receipt(5, 0) == await queue.append([batch(lines(5), at=clock.now())])
    assert Receipt(0, 5) == await queue.append([batch(lines(5), at=clock.now(), pulled=True)])


async def test_a_retry_is_recognised_after_its_batch_was_given_back(reopen: Opener, clock: FakeClock) -> None:
    """Retention shorter than the window: the ids outlive the events."""
    queue = await reopen(retention=60.0)
    await queue.append([batch(lines(10))])
    await given_back(queue, clock)

    queue = await reopen(retention=60.0)

    assert Receipt(1, 10) == await queue.append([batch([*lines(10), cef(99)], at=clock.now())])
