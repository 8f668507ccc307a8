"""A worker among others: it delivers while it has the lease, and without a trace before and after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.batch import Chunk, StoredBatch
from relay.destinations.base import Delivered, Outcome, ProbeReport
from relay.errors import QueueError
from relay.model import DestinationState, Event, Hold, HoldReason, Position, Response, RetryState, Settlement
from relay.queue.sqlite import SqliteQueue
from tests.contract.delivery.rig import TIME_LIMIT, Rig
from tests.fakes.events import NOW
from tests.fakes.process import until
from tests.fakes.siem import Siem


class Grant:
    """A lease that can be taken away."""

    def __init__(self, queue: Contended) -> None:
        self.lost = asyncio.Event()
        self.wanted = asyncio.Event()
        self._queue = queue

    async def release(self) -> None:
        self._queue.released += 1
        self._queue.grant = None
        if self._queue.unreachable:
            raise QueueError("nobody answers")


class Contended(SqliteQueue):
    """The real queue, to which another process has a right as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.grant: Grant | None = None
        self.released = 0
        self.unreachable = False
        self.asked = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()

    async def lease(self, destination: str) -> Grant:
        self.asked.set()
        await self._free.wait()
        self.grant = Grant(self)
        return self.grant

    def take_away(self) -> None:
        """The other process has it now, and this one learns of it."""
        self.asked.clear()
        self._free.clear()
        if self.grant is not None:
            self.grant.lost.set()

    def ask_back(self) -> None:
        """The other process is to go on, as soon as this one has ended what it began."""
        self.asked.clear()
        self._free.clear()
        assert self.grant is not None
        self.grant.wanted.set()

    def give_back(self) -> None:
        """The other process ends."""
        self._free.set()

    async def deliver_elsewhere(self, events: int) -> None:
        """The other process does some of the work."""
        (reader,) = self.readers("siem")
        reader.rewind()
        ((stored, offset),) = await reader.read(1)
        end = offset + events
        await reader.settle(
            Settlement(
                Position(stored.sequence, offset), Position(stored.sequence, end), delivered=end - offset
            )
        )


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "relay.db", engine=Contended)
    await rig.open()
    yield rig
    await rig.close()


def contended(rig: Rig) -> Contended:
    assert isinstance(rig.queue, Contended)
    return rig.queue


async def lease_held(rig: Rig) -> float:
    """As a scraper sees it."""
    lines = (await rig.metrics.exposition()).decode().splitlines()
    (line,) = [each for each in lines if each.startswith('relay_lease_held{destination="siem"}')]
    return float(line.split()[-1])


async def test_nothing_is_sent_before_the_lease_is_granted(shared: Rig, siem: Siem) -> None:
    """A worker without it is idle; once it has it, it goes on where the other process stopped."""
    queue = contended(shared)
    queue.take_away()
    worker = await shared.start(url=siem.url)
    await shared.append(10)
    async with asyncio.timeout(TIME_LIMIT):
        await queue.asked.wait()
    seen = worker.sighting
    assert seen is None
    assert "without the lease" in repr(worker)
    assert await lease_held(shared) == 0

    await queue.deliver_elsewhere(4)
    queue.give_back()
    await shared.drained()

    assert siem.lines() == shared.sent[4:]
    seen = worker.sighting
    assert seen is not None
    assert seen.code == 200
    assert await lease_held(shared) == 1


async def test_a_lost_lease_cuts_off_what_is_in_the_air(shared: Rig, siem: Siem) -> None:
    """The request is cancelled at once, spends no attempt and books nothing; what was read is forgotten."""
    queue = contended(shared)
    siem.hang(times=1)
    worker = await shared.start(url=siem.url)
    await shared.append(10)
    await siem.received(1)

    queue.take_away()
    async with asyncio.timeout(TIME_LIMIT):
        await queue.asked.wait()  # it waits for the next one

    assert (shared.metrics.attempts, queue.readers("siem")[0].retry) == ([], RetryState())
    assert (shared.books().backlog, worker.sighting, queue.released) == (10, None, 1)
    assert worker.crashes == 0

    await queue.deliver_elsewhere(7)
    queue.give_back()
    await shared.drained()
    assert siem.requests[-1].lines() == shared.sent[7:]


async def test_a_lease_that_is_wanted_elsewhere_is_released_behind_the_request_in_the_air(
    shared: Rig, siem: Siem
) -> None:
    """Its answer counts, so that nothing comes twice, and no further request follows it."""
    queue = contended(shared)
    answer = asyncio.Event()
    siem.answer(200, after=answer)
    worker = await shared.start(url=siem.url, batch={"max_events": 10})
    await shared.append(30)
    await siem.received(1)

    queue.ask_back()
    await shared.clock.advance(1)
    assert (queue.released, worker.crashes) == (0, 0)
    answer.set()
    async with asyncio.timeout(TIME_LIMIT):
        await queue.asked.wait()  # it waits for the next one

    assert (queue.released, len(siem.requests), shared.books().backlog) == (1, 1, 20)
    queue.give_back()
    await shared.drained()
    assert siem.lines() == shared.sent


async def test_a_lease_that_is_wanted_elsewhere_ends_a_wait(shared: Rig, siem: Siem) -> None:
    """Whoever goes on waits for the rest of it."""
    queue = contended(shared)
    siem.answer(503)
    await shared.start(url=siem.url)
    await shared.append(1)
    assert await shared.clock.next_wake() == 1

    queue.ask_back()
    async with asyncio.timeout(TIME_LIMIT):
        await queue.asked.wait()

    assert (queue.released, len(siem.requests)) == (1, 1)
    assert queue.readers("siem")[0].retry.attempts == 1


async def test_a_lost_lease_ends_a_wait(shared: Rig, siem: Siem) -> None:
    """Nobody wakes up to send; the next shift goes by the schedule that is stored then."""
    queue = contended(shared)
    siem.answer(503)
    await shared.start(url=siem.url)
    await shared.append(1)
    assert await shared.clock.next_wake() == 1

    queue.take_away()
    async with asyncio.timeout(TIME_LIMIT):
        await queue.asked.wait()
    await shared.clock.advance(60)
    assert len(siem.requests) == 1

    await queue.readers("siem")[0].retry_later(RetryState(3, shared.clock.now() + 8))
    queue.give_back()
    assert await shared.waits(1) == [8]
    await shared.drained()
    assert len(siem.requests) == 2


async def test_a_shift_begins_with_the_hold_that_is_stored_then(shared: Rig, siem: Siem) -> None:
    """Another process may have put the destination on hold, or lifted our own hold, meanwhile."""
    queue = contended(shared)
    siem.answer(401)
    worker = await shared.start(url=siem.url)
    await shared.append(1)
    await shared.until(lambda: worker.state is DestinationState.HELD)

    queue.take_away()
    async with asyncio.timeout(TIME_LIMIT):
        await queue.asked.wait()
    await queue.set_hold("siem", None)
    queue.give_back()
    await shared.drained()

    assert worker.state is DestinationState.ACTIVE
    assert shared.clock.sleepers == 0


async def test_a_hold_set_elsewhere_is_followed(shared: Rig, siem: Siem) -> None:
    """Sending stops with the request in the air, and starts anew when the hold is lifted."""
    queue = contended(shared)
    answer = asyncio.Event()
    siem.answer(503, after=answer)
    worker = await shared.start(url=siem.url)
    await shared.append(30)
    await siem.received(1)
    await queue.set_hold("siem", Hold(HoldReason.OPERATOR, NOW, "from another replica"))
    answer.set()
    await shared.until(lambda: len(shared.metrics.attempts) == 1)
    await shared.clock.advance(3600)
    assert (worker.state, len(siem.requests)) == (DestinationState.PAUSED, 1)

    await queue.set_hold("siem", None)
    await shared.drained()
    assert [len(request.lines()) for request in siem.requests] == [30, 10, 20]


async def test_a_probe_that_succeeds_does_not_lift_an_operators_hold(shared: Rig, siem: Siem) -> None:
    """The hold came while the probe was in the air: the operator has the last word."""
    queue = contended(shared)
    answer = asyncio.Event()
    siem.answer(401).answer(200, after=answer)
    await shared.start(url=siem.url)
    await shared.append(20)
    assert await shared.waits(1) == [30]
    await siem.received(2)
    held = Hold(HoldReason.OPERATOR, NOW, "moving house")
    await queue.set_hold("siem", held)
    answer.set()
    await shared.until(lambda: shared.books().delivered == 10)
    await shared.clock.advance(3600)

    assert queue.hold("siem") == held
    assert shared.books().backlog == 10


async def test_a_stop_ends_the_wait_for_a_lease(shared: Rig, siem: Siem) -> None:
    """Whoever never got to deliver does not hold up the shutdown."""
    queue = contended(shared)
    queue.take_away()
    await shared.start(url=siem.url)
    async with asyncio.timeout(TIME_LIMIT):
        await queue.asked.wait()

    await shared.stop()

    assert (queue.released, shared.clock.sleepers) == (0, 0)


async def test_a_stop_gives_the_lease_back_when_the_request_has_landed(shared: Rig, siem: Siem) -> None:
    """The next process may begin at once, and finds everything booked."""
    queue = contended(shared)
    answer = asyncio.Event()
    siem.answer(200, after=answer)
    await shared.start(url=siem.url)
    await shared.append(3)
    await siem.received(1)
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(shared.stop())
        await shared.clock.next_wake()
        assert (queue.released, stopping.done()) == (0, False)
        answer.set()

    assert (queue.released, shared.books().delivered) == (1, 3)


async def test_a_queue_that_cannot_be_reached_does_not_hold_up_a_stop(shared: Rig, siem: Siem) -> None:
    """The lease runs out by itself."""
    queue = contended(shared)
    worker = await shared.start(url=siem.url)
    await shared.append(1)
    await shared.drained()
    queue.unreachable = True

    await shared.stop()

    assert (queue.released, worker.crashes) == (1, 0)


class Unlucky:
    """A destination whose first answer comes when everything goes wrong."""

    event_overhead = 0

    def __init__(self, rig: Rig, error: Exception, *, loses: bool) -> None:
        self._rig = rig
        self._error: Exception | None = error
        self._loses = loses

    def part(self, event: Event) -> bytes:
        return event.line

    async def open(self) -> None: ...

    async def send(self, chunk: Chunk) -> Outcome:
        error, self._error = self._error, None
        if error is None:
            return Delivered(Response("ok", 200))
        if self._loses:
            contended(self._rig).take_away()
        raise error

    async def probe(self) -> ProbeReport:
        return ProbeReport(ok=True, detail="")

    async def close(self) -> None: ...


async def test_an_error_on_the_way_out_is_no_crash(shared: Rig) -> None:
    """Without the lease the queue stores nothing, which says nothing about the worker."""
    queue = contended(shared)
    destination = Unlucky(shared, QueueError("another process has the lease"), loses=True)
    worker = await shared.start(destination=destination)
    await shared.append(1)
    async with asyncio.timeout(TIME_LIMIT):
        await queue.asked.wait()
    await shared.until(lambda: queue.released == 1)
    queue.give_back()
    await shared.drained()

    assert worker.crashes == 0
    assert b"delivery.crashed" not in shared.log_stream.getvalue()


@pytest.mark.parametrize(("error", "loses"), [(KeyError("bug"), True), (QueueError("disk"), False)])
async def test_a_crash_gives_the_lease_back(shared: Rig, error: Exception, loses: bool) -> None:
    """Another process may have more luck; this one pauses before it asks again."""
    queue = contended(shared)
    worker = await shared.start(destination=Unlucky(shared, error, loses=loses))
    await shared.append(1)
    assert await shared.clock.next_wake() == 1
    assert (worker.crashes, queue.released, worker.sighting) == (1, 1, None)

    queue.give_back()
    await shared.waits(1)
    await shared.drained()


async def test_trying_now_means_nothing_without_the_lease(shared: Rig, siem: Siem) -> None:
    """There is no wait of ours to end, and the other process's schedule is not ours to change."""
    queue = contended(shared)
    queue.take_away()
    worker = await shared.start(url=siem.url)
    await queue.readers("siem")[0].retry_later(RetryState(2, NOW + 4))

    await worker.try_now()

    assert queue.readers("siem")[0].retry == RetryState(2, NOW + 4)


class Refusing(SqliteQueue):
    """The real queue, of which nothing can be read for a while: its cluster elects a leader."""

    refusals = 0
    refused = 0

    async def read(self, start: int, stop: int, max_events: int) -> list[StoredBatch]:
        if self.refusals:
            self.refusals -= 1
            self.refused += 1
            raise QueueError("nobody answers for the stream")
        return await super().read(start, stop, max_events)


async def test_a_queue_that_cannot_be_read_for_a_while_is_no_crash(tmp_path: Path, siem: Siem) -> None:
    """The worker asks again every second, without giving up its lease, and then delivers everything."""
    rig = Rig(tmp_path / "relay.db", engine=Refusing)
    await rig.open()
    try:
        assert isinstance(rig.queue, Refusing)
        rig.queue.refusals = 3
        worker = await rig.start(url=siem.url)
        await rig.append(10)
        assert await rig.waits(3) == [1, 1, 1]
        await rig.drained()

        assert siem.lines() == rig.sent
        assert (worker.crashes, rig.queue.refused) == (0, 3)
    finally:
        await rig.close()


class Damaged(SqliteQueue):
    """The real queue, of which a part cannot be read for a while."""

    unreadable = range(0)  # numbers of events
    refused = 0

    async def read(self, start: int, stop: int, max_events: int) -> list[StoredBatch]:
        if start in self.unreadable:
            self.refused += 1
            raise QueueError("the disk gives nothing")
        return await super().read(start, stop, max_events)


@pytest.fixture
async def damaged(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "relay.db", engine=Damaged)
    await rig.open()
    yield rig
    await rig.close()


async def test_a_replay_that_cannot_be_read_does_not_stop_live_events(damaged: Rig, siem: Siem) -> None:
    """It is tried again once a second and told of once, however much comes meanwhile; then it goes on."""
    queue = damaged.queue
    assert isinstance(queue, Damaged)
    worker = await damaged.start(url=siem.url)
    replayed = await damaged.append(10)
    await damaged.drained()
    queue.unreadable = range(1, queue.stats().head.sequence)
    await queue.replay("siem", NOW - 1, NOW + 1, None)

    for _ in range(10):  # more than the live lane has turns in a row
        await damaged.append(1)
        await damaged.drained()
    assert queue.refused == 1
    for seconds in range(1, 4):
        assert await damaged.waits(1) == [1]
        await damaged.until(lambda n=seconds: queue.refused == n + 1)  # type: ignore[misc] # bound at once
        await damaged.append(1)
        await damaged.drained()
    assert damaged.log_stream.getvalue().count(b"delivery.queue_failed") == 1

    queue.unreadable = range(0)
    await damaged.waits(1)
    await damaged.until(lambda: damaged.books().replayed == 10)
    await until(lambda: len(queue.readers("siem")) == 1, TIME_LIMIT, "the replay being over")
    assert siem.lines() == [*damaged.sent, *replayed]
    assert worker.crashes == 0


async def test_live_events_that_cannot_be_read_do_not_stop_a_replay(damaged: Rig, siem: Siem) -> None:
    """The other way round as well: each lane fails for itself."""
    queue = damaged.queue
    assert isinstance(queue, Damaged)
    await damaged.start(url=siem.url)
    replayed = await damaged.append(30)
    await damaged.drained()
    head = queue.stats().head.sequence
    queue.unreadable = range(head, head + 5)
    await damaged.append(5, at=NOW + 60)
    await damaged.until(lambda: queue.refused == 1)

    await queue.replay("siem", NOW - 1, NOW + 1, None)
    await damaged.until(lambda: damaged.books().replayed == 30)
    assert siem.lines()[30:60] == replayed
    assert damaged.books().backlog == 5

    queue.unreadable = range(0)
    await damaged.waits(1)
    await damaged.drained()
