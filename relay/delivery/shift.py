"""One time of delivering to a destination, from the moment its lease was granted until it ends.

Owns the loop, the requests in the air and everything that was read. Begins with what the queue says then and
ends without a trace, since the next one to deliver may be another process. Never classifies an answer
(destinations do), never decides what one means (`decide`) and never books it (the queue does).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from random import Random

from relay.clock import Clock
from relay.config.destination import DestinationConfig
from relay.delivery.chunking import Cutter, Work
from relay.delivery.decide import PutOnHold, RetryAt
from relay.delivery.flight import Flight, Landing
from relay.delivery.gate import Gate
from relay.delivery.lanes import Lane, Lanes, Show
from relay.delivery.report import Report
from relay.delivery.supervisor import Supervisor
from relay.delivery.waiting import wait
from relay.destinations.base import Destination
from relay.errors import QueueError
from relay.model import RetryState
from relay.observe.ledger import state_of
from relay.observe.logs import Log
from relay.queue.base import Lease, Queue, Reader


class Shift:
    """`run` once. The supervisor's `stopping` ends it when the requests in the air have landed."""

    def __init__(
        self,
        config: DestinationConfig,
        destination: Destination,
        queue: Queue,
        *,
        show: Show,
        slow_to_show: Callable[[], bool],
        supervisor: Supervisor,
        report: Report,
        clock: Clock,
        rng: Random,
        log: Log,
    ) -> None:
        self._config = config
        self._destination = destination
        self._queue = queue
        self._show = show
        self._slow_to_show = slow_to_show
        self._supervisor = supervisor
        self._report = report
        self._clock = clock
        self._rng = rng
        self._log = log
        self._troubles: dict[int, str] = {}  # what the queue refused last, by reader
        self._gate = Gate(
            config.name,
            queue,
            policy=config.retry,
            max_events=config.batch.max_events,
            clock=clock,
            log=log,
        )
        self._circuit = self._gate.circuit
        # New lanes begin at the watermarks: what was in the air before is read again.
        self._lanes = Lanes(lambda: queue.readers(config.name), self._new_lane)
        self._wake = asyncio.Event()  # something changed: look again
        self._looping: asyncio.Task[None] | None = None
        self._flights: set[asyncio.Task[None]] = set()

    @property
    def in_the_air(self) -> int:
        """Requests sent and not answered."""
        return len(self._flights)

    # Life

    async def run(self, lease: Lease) -> None:
        """Deliver until stopped, or until the lease is lost, or wanted by another process."""
        async with asyncio.TaskGroup() as group:
            watchers = (
                group.create_task(self._watch()),
                group.create_task(self._give_up_when(lease.lost)),
                group.create_task(self._look_when(lease.wanted)),
            )
            self._looping = group.create_task(self._loop(group, lease))
            # It returns on stop, or is cancelled when that takes too long; if it fails, the group ends.
            await asyncio.wait({self._looping})
            while self._flights:
                self._wake.clear()
                await self._wake.wait()
            for watcher in watchers:
                watcher.cancel()

    def look(self) -> None:
        """Something changed that the loop cannot see by itself."""
        self._wake.set()

    def cut_off(self) -> None:
        """Cancel everything: what is in the air costs no attempt, its events stay in the log as they were."""
        for task in (*self._flights, self._looping):
            if task is not None:
                task.cancel()

    async def start_anew(self) -> None:
        """Close the circuit and start slowly and with a fresh schedule."""
        await self._gate.release()
        await self._forget_attempts()
        self._wake.set()

    async def _watch(self) -> None:
        """Wake the loop when something was appended, a reader came or went, or the hold changed."""
        mark = 0
        while True:
            mark = await self._queue.append_wait(mark)
            self._wake.set()

    async def _give_up_when(self, lost: asyncio.Event) -> None:
        await lost.wait()
        self.cut_off()

    async def _look_when(self, wanted: asyncio.Event) -> None:
        await wanted.wait()
        self._wake.set()

    async def _loop(self, group: asyncio.TaskGroup, lease: Lease) -> None:
        # What is in the air may end: cut off, it would come a second time from whoever goes on.
        while not (self._supervisor.stopping.is_set() or lease.wanted.is_set()):
            # Cleared before looking, so that what happens while we look is not slept through.
            self._wake.clear()
            pause = await self._step(group)
            if pause > 0:
                await wait(self._wake, pause, self._clock)

    async def _step(self, group: asyncio.TaskGroup) -> float:
        """Do one thing that is due; the seconds until the next may be (0: look again at once)."""
        await self._follow_hold()
        await self._tend_lanes()
        self._report.state(state_of(self._circuit.hold, [lane.reader for lane in self._lanes]))
        if self._is_busy():
            return await self._read_ahead()
        if (pause := self._closed_for()) > 0:
            return pause
        limit = self._circuit.limit
        linger = self._config.batch.linger if self._circuit.is_steady else 0.0
        lane, pause = self._lanes.next(limit, linger)
        if lane is None:
            return pause
        if lane.lacks(limit):
            # Reading may take long, or fail; whose turn it is, and whether to send, is asked anew.
            await self._read(lane, limit)
            return 0.0
        work = lane.cut(limit)
        if work.events:
            self._lanes.served(lane)
            self._launch(group, lane, work)
        else:
            await self._settle(lane, work)
        return 0.0

    async def _read(self, lane: Lane, limit: int) -> None:
        await self._try(lane, lane.fill(limit))
        # Settled as it goes: a filter may leave out millions of events before it lets one through.
        if (filtered := lane.passed_over()) is not None:
            await self._settle(lane, filtered)

    async def _read_ahead(self) -> float:
        """While requests are in the air, read what the next one will hold, if that takes long."""
        limit = self._circuit.limit
        lane, _ = self._lanes.next(limit, 0.0)
        if lane is None or not lane.lacks(limit) or not self._slow_to_show():
            return math.inf
        await self._read(lane, limit)
        return 0.0

    async def _settle(self, lane: Lane, work: Work) -> None:
        """Book what nothing has to be sent of."""
        for settlement in work.settlements():
            await lane.reader.settle(settlement)
            self._report.settled(settlement)

    async def _try(self, lane: Lane, step: Awaitable[None]) -> None:
        """Ask the queue for something. It may be out of reach for a while, which is no bug of ours.

        The lane then rests, so that nothing spins and the others get their turn: one that cannot be read must
        not stop what can.
        """
        try:
            await step
        except QueueError as error:
            lane.rest()
            detail = str(error)
            if detail != self._troubles.get(lane.reader.id):
                self._troubles[lane.reader.id] = detail
                self._log.warning("delivery.queue_failed", reader=lane.reader.kind.value, detail=detail)
        else:
            self._troubles.pop(lane.reader.id, None)

    async def _follow_hold(self) -> None:
        """Obey a hold that somebody else set or lifted: an operator, here or at another process."""
        if self._gate.follow():
            if self._circuit.is_open:
                self._make_stale()
            else:
                await self._forget_attempts()

    async def _tend_lanes(self) -> None:
        """Take in new readers, let finished ones go, forget what a hold made stale."""
        for lane in self._lanes.refresh():
            if lane.attempts and not self._circuit.is_open:
                self._gate.wait_until(lane.reader.retry.next_at)
        for lane in self._lanes:
            # Here and nowhere else, so that nothing is rewound while the loop waits for a read.
            if lane.stale and not lane.flights:
                lane.release()
        for lane in self._lanes.finished():
            await self._try(lane, self._lanes.finish(lane))

    def _closed_for(self) -> float:
        """Seconds until anything may be sent; infinite while that depends on an event."""
        if self._circuit.is_paused:
            return math.inf
        # While the destination is in trouble, or just out of it, one request at a time finds out as
        # much as several, and tells for sure which events an attempt was spent on.
        if self._flights and not self._is_trusted():
            return math.inf
        return self._gate.opens_in()

    def _is_trusted(self) -> bool:
        return self._circuit.is_steady and not self._lanes.attempts

    def _is_busy(self) -> bool:
        """Whether as many requests are in the air as may be, all being well."""
        return self._is_trusted() and len(self._flights) >= self._config.max_in_flight

    # Requests

    def _launch(self, group: asyncio.TaskGroup, lane: Lane, work: Work) -> None:
        flight = Flight(
            work,
            lane,
            self._destination,
            probe=self._circuit.is_open,
            policy=self._config.retry,
            clock=self._clock,
            rng=self._rng,
            report=self._report,
        )
        lane.flights += 1
        task = group.create_task(self._fly(flight))
        self._flights.add(task)

        # A callback rather than `finally`: a task cancelled before its first step never runs its body.
        def landed(task: asyncio.Task[None]) -> None:
            lane.flights -= 1
            self._flights.discard(task)
            self._wake.set()

        task.add_done_callback(landed)

    async def _fly(self, flight: Flight) -> None:
        landing = await flight.run()
        # An operator may have spoken meanwhile, and the loop not have looked yet.
        await self._follow_hold()
        if landing.proved:
            await self._proved(flight)
        for work in landing.left:
            flight.lane.give_back(work)
        await self._obey(flight.lane, landing)

    async def _proved(self, flight: Flight) -> None:
        """The destination judged events: a probe closes the circuit, anything else speeds us up."""
        self._supervisor.made_progress()
        if flight.probe and not self._circuit.is_paused:
            await self.start_anew()
        if not self._circuit.is_open:
            self._circuit.succeeded()

    async def _obey(self, lane: Lane, landing: Landing) -> None:
        match landing.decision:
            case RetryAt(at):
                # Requests that were in the air together fail together; that is one attempt, not many.
                if landing.attempts > lane.attempts:
                    await lane.note_retry(RetryState(landing.attempts, at))
                self._gate.wait_until(at)
            case PutOnHold(reason, probe_in) if not self._circuit.is_paused:
                self._make_stale()
                await self._gate.hold(reason, landing.detail, probe_in)
            case _:
                pass

    def _make_stale(self) -> None:
        for lane in self._lanes:
            lane.stale = True  # a hold may last for weeks: its events wait in the log, not in memory

    async def _forget_attempts(self) -> None:
        for lane in self._lanes:
            if lane.attempts:
                await lane.note_retry(RetryState())

    def _new_lane(self, reader: Reader) -> Lane:
        cutter = Cutter(
            max_bytes=self._config.batch.max_bytes, event_overhead=self._destination.event_overhead
        )
        return Lane(reader, cutter, show=self._show, clock=self._clock)
