"""Restarts after bugs, and waiting by the relay's clock."""

from __future__ import annotations

import asyncio
import math
from io import BytesIO

import pytest

from relay.delivery.supervisor import Supervisor
from relay.delivery.waiting import wait
from relay.observe import logs
from tests.fakes.clock import FakeClock
from tests.unit.delivery.test_backoff import Shortest


def supervisor(clock: FakeClock, log: BytesIO) -> Supervisor:
    return Supervisor(clock=clock, rng=Shortest(), log=logs.configure("error", stream=log))


async def test_pauses_double_and_start_over_after_progress() -> None:
    """A bug that comes with every event never spins; one that is gone for a while is forgiven."""
    clock = FakeClock()
    written = BytesIO()
    watched = supervisor(clock, written)
    calls = 0

    async def serve() -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            watched.stopping.set()
            return
        if calls == 8:
            watched.made_progress()
        async with asyncio.TaskGroup() as group:
            group.create_task(stumble())

    pauses = []
    async with asyncio.TaskGroup() as group:
        group.create_task(watched.run(serve))
        for _ in range(8):
            pauses.append(await clock.next_wake())
            await clock.advance(pauses[-1])

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 1]
    assert (watched.crashes, watched.last_error) == (8, "ValueError")
    assert b"test_supervisor.py" in written.getvalue()
    assert b"event content" not in written.getvalue()


async def stumble() -> None:
    raise ValueError("event content")


async def test_cancellation_is_not_a_bug() -> None:
    """The end of the program passes through."""
    watched = supervisor(FakeClock(), BytesIO())

    async def serve() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await watched.run(serve)
    assert watched.crashes == 0


async def test_wait_ends_with_the_event_or_the_time() -> None:
    """Whichever is first; afterwards nobody is left asleep."""
    clock = FakeClock()
    event = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(wait(event, 5.0, clock))
        assert await clock.next_wake() == 5
        await clock.advance(5)
    assert event.is_set()

    event.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(wait(event, 5.0, clock))
        await clock.next_wake()
        event.set()
    assert clock.sleepers == 0

    event.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(wait(event, math.inf, clock))
        event.set()


async def test_the_fake_clock_wakes_in_order() -> None:
    """Each sleeper runs at its own time, also one that falls asleep again while time passes."""
    clock = FakeClock(1000.0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.now()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("b", 2.0, 0.5))
        group.create_task(sleeper("a", 1.0, 5.0))
        assert await clock.next_wake() == 1
        clock.jump(100)
        await clock.advance(3)
        assert woken == [("a", 1101.0), ("b", 1102.0), ("b", 1102.5)]
        assert (clock.monotonic(), await clock.next_wake()) == (3.0, 3.0)
        await clock.advance(3)
    assert woken[-1] == ("a", 1106.0)


async def test_a_cancellation_is_obeyed_also_when_it_meets_a_crash() -> None:
    """A child that fails on being cancelled must not keep the worker alive."""
    begun = asyncio.Event()

    async def fails_at_the_end() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            raise ValueError

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_at_the_end())

    task = asyncio.create_task(supervisor(FakeClock(), BytesIO()).run(serve))
    await begun.wait()
    task.cancel()

    async with asyncio.timeout(30):
        await asyncio.wait({task})
    assert task.cancelled()
