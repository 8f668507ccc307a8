"""Indexer acknowledgement and the queue: what Splunk has not indexed is owed, whatever ends in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from relay.model import DestinationState
from tests.contract.delivery.rig import Rig
from tests.fakes.siem import Answer, Received
from tests.fakes.splunk import TOKEN, Splunk


@pytest.fixture
async def splunk() -> AsyncIterator[Splunk]:
    async with Splunk() as splunk:
        yield splunk


def settings(splunk: Splunk, **more: Any) -> dict[str, Any]:
    return {"type": "splunk_hec", "url": splunk.base, "token": TOKEN, "acknowledge": True, **more}


def texts(lines: list[bytes]) -> list[str]:
    return [line.decode() for line in lines]


async def turn(rig: Rig) -> None:
    """Let the time until the next one wakes pass."""
    await rig.clock.advance(await rig.clock.next_wake())


async def test_killed_while_waiting(rig: Rig, splunk: Splunk) -> None:
    """What was taken and not acknowledged when the relay died is sent again, and lost nowhere."""
    await rig.start(**settings(splunk))
    await rig.append(10)
    await splunk.has_taken(1)
    await rig.kill()
    await rig.restart_queue()
    splunk.crash()

    splunk.at_once = True
    await rig.start(**settings(splunk))
    await splunk.has_indexed(10)
    await turn(rig)
    await rig.drained()

    assert splunk.indexed == texts(rig.sent)
    assert rig.books().delivered == 10


async def test_stopped_while_waiting(rig: Rig, splunk: Splunk) -> None:
    """A stop waits for acknowledgements as long as it waits for answers, and then costs no attempt."""
    await rig.start(**settings(splunk))
    await rig.append(10)
    await splunk.has_taken(1)
    await rig.clock.asleep(1)
    async with asyncio.TaskGroup() as group:
        group.create_task(rig.stop(grace=0.5))
        await rig.clock.asleep(2)
        await rig.clock.advance(0.5)

    (reader,) = rig.queue.readers("siem")
    assert reader.retry.attempts == 0
    assert rig.books().backlog == 10


async def test_acknowledged_during_the_grace_period(rig: Rig, splunk: Splunk) -> None:
    """An acknowledgement that comes while the relay stops still settles its events."""
    await rig.start(**settings(splunk))
    await rig.append(10)
    await splunk.has_taken(1)
    splunk.index()
    await rig.clock.asleep(1)
    async with asyncio.TaskGroup() as group:
        group.create_task(rig.stop(grace=5.0))
        await turn(rig)

    assert rig.books().delivered == 10


async def test_never_acknowledged(rig: Rig, splunk: Splunk) -> None:
    """Time after time without an acknowledgement is an outage: held, nothing spent, over with the first."""
    retry = {"max_retries": 1, "probe_max_events": 3}
    worker = await rig.start(**settings(splunk, ack_timeout="1s", retry=retry))
    await rig.append(10)
    for _ in range(3):  # a question, the wait before the retry, a question
        await turn(rig)
    await rig.until(lambda: worker.state is DestinationState.HELD)
    assert rig.books().backlog == 10

    splunk.at_once = True
    await rig.clock.advance(30)
    while rig.books().backlog:
        await splunk.has_indexed(1)
        await turn(rig)

    assert set(splunk.indexed) == set(texts(rig.sent))
    assert rig.books().delivered == 10
    assert await rig.dead_letters() == []


async def test_splunk_gets_acknowledgement_turned_off(rig: Rig, splunk: Splunk) -> None:
    """A token that no longer acknowledges holds the destination without indexing its probes."""
    splunk.acknowledges = False
    worker = await rig.start(**settings(splunk))
    await rig.append(10)
    await rig.until(lambda: worker.state is DestinationState.HELD)
    for _ in range(3):
        await turn(rig)
    assert splunk.posts == []

    splunk.acknowledges = splunk.at_once = True
    while rig.books().backlog:
        await turn(rig)

    assert splunk.indexed == texts(rig.sent)


class Moody(Splunk):
    """Indexes now this, now that, and crashes right after it has acknowledged something.

    Then there is room for new requests, whose numbers are those of old ones that still wait.
    """

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self.crashes = 0
        self._rng = rng

    def _ack(self, request: Received) -> Answer:
        self.index(self._rng.randint(0, 4))
        answer = super()._ack(request)
        if b"true" in answer.body and self.crashes < 8 and self._rng.random() < 0.3:
            self.crash()
            self.crashes += 1
        return answer


@pytest.mark.parametrize("seed", range(5))
async def test_crashes_of_splunk_under_load(rig: Rig, seed: int) -> None:
    """Splunk loses what it had not indexed again and again; in the end it has every event."""

    async def time_passes() -> None:
        while True:
            await turn(rig)

    async with Moody(Random(seed)) as splunk:
        limits = {"batch": {"max_events": 1}, "max_in_flight": 6, "ack_timeout": "20s"}
        await rig.start(**settings(splunk, **limits))
        await rig.append(100)
        async with asyncio.TaskGroup() as group:
            passing = group.create_task(time_passes())
            await rig.drained()
            passing.cancel()

    assert splunk.crashes
    assert set(splunk.indexed) == set(texts(rig.sent))
    assert rig.books().delivered == 100
