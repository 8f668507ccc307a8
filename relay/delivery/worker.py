"""The worker of one destination: reads the log and keeps requests in the air while the gate is open.

Owns the loop and the life of its requests. Never classifies an answer (destinations do), never decides
what one means (`decide`) and never books it (the queue does). docs/delivery.md tells the whole
story, docs/states.md draws it.
"""

from __future__ import annotations

import asyncio
import math
from random import Random

from relay.clock import Clock
from relay.config.destination import DestinationConfig
from relay.delivery.chunking import Cutter, Work
from relay.delivery.decide import PutOnHold, RetryAt
from relay.delivery.filter import sieve
from relay.delivery.flight import Flight, Landing
from relay.delivery.gate import Gate
from relay.delivery.lanes import Lane, Lanes
from relay.delivery.report import Report
from relay.delivery.supervisor import Supervisor
from relay.delivery.waiting import wait
from relay.destinations.base import Destination
from relay.model import DestinationState, HoldReason, Response, RetryState
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.queue.base import Queue, Reader


class DestinationWorker:
    """Delivers to one destination whatever its readers hold. The queue must have attached it."""

    def __init__(
        self,
        config: DestinationConfig,
        destination: Destination,
        queue: Queue,
        *,
        clock: Clock,
        rng: Random,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self.name = config.name
        self._config = config
        self._destination = destination
        self._queue = queue
        self._clock = clock
        self._rng = rng
        log = log.bind(destination=config.name)
        self._report = Report(config.name, clock=clock, metrics=metrics, log=log)
        self._supervisor = Supervisor(clock=clock, rng=rng, log=log)
        self._gate = Gate(
            config.name,
            queue,
            policy=config.retry,
            max_events=config.batch.max_events,
            clock=clock,
            log=log,
        )
        self._circuit = self._gate.circuit
        self._sift = sieve(config.filter)
        self._lanes = self._new_lanes()
        self._wake = asyncio.Event()  # something changed: look again
        self._looping: asyncio.Task[None] | None = None
        self._flights: set[asyncio.Task[None]] = set()
        self._finished = asyncio.Event()
        self._finished.set()

    def __repr__(self) -> str:
        return f"<DestinationWorker {self.name} {self.state} {len(self._flights)} in the air>"

    # What status shows

    @property
    def state(self) -> DestinationState:
        if self._circuit.is_paused:
            return DestinationState.PAUSED
        if self._circuit.is_open:
            return DestinationState.HELD
        return DestinationState.RETRYING if self._lanes.attempts else DestinationState.ACTIVE

    @property
    def last_attempt_at(self) -> float | None:
        """Seconds since the epoch; None before the first attempt of this run."""
        return self._report.last_attempt_at

    @property
    def last_response(self) -> Response | None:
        return self._report.last_response

    @property
    def crashes(self) -> int:
        """How often a bug stopped this worker for a moment."""
        return self._supervisor.crashes

    @property
    def last_error(self) -> str | None:
        """The class of the exception that last did."""
        return self._supervisor.last_error

    # What an operator may ask for

    async def hold(self, detail: str) -> None:
        """Send nothing more, probes included, until `resume`. What is in the air lands first."""
        await self._put_on_hold(HoldReason.OPERATOR, detail)

    async def resume(self) -> None:
        """Close the circuit, whoever opened it, and start slowly and with a fresh schedule."""
        await self._start_anew()
        self._wake.set()

    # Life

    async def run(self) -> None:
        """Deliver until `stop`. Survives bugs; see `Supervisor`."""
        self._finished.clear()
        try:
            await self._supervisor.run(self._serve)
        finally:
            self._finished.set()

    async def stop(self, grace: float) -> None:
        """Read nothing more, let requests in the air finish for *grace* seconds, then cancel them.

        A cancelled request spends no attempt: its events stay in the log as they were.
        """
        self._supervisor.stopping.set()
        self._wake.set()

        async def cancel_when_overdue() -> None:
            await self._clock.sleep(grace)
            for task in (*self._flights, self._looping):
                if task is not None:
                    task.cancel()

        async with asyncio.TaskGroup() as group:
            reaper = group.create_task(cancel_when_overdue())
            await self._finished.wait()
            reaper.cancel()

    async def _serve(self) -> None:
        # New lanes begin at the watermarks: after a crash, what was in the air is read again.
        self._lanes = self._new_lanes()
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(self._watch())
            self._looping = group.create_task(self._loop(group))
            # It returns on stop, or is cancelled when that takes too long; if it fails, the group ends.
            await asyncio.wait({self._looping})
            while self._flights:
                self._wake.clear()
                await self._wake.wait()
            watcher.cancel()

    async def _watch(self) -> None:
        """Wake the loop when something was appended, or a reader came or went."""
        mark = 0
        while True:
            mark = await self._queue.append_wait(mark)
            self._wake.set()

    async def _loop(self, group: asyncio.TaskGroup) -> None:
        while not self._supervisor.stopping.is_set():
            # Cleared before looking, so that what happens while we look is not slept through.
            self._wake.clear()
            pause = await self._step(group)
            if pause > 0:
                await wait(self._wake, pause, self._clock)

    async def _step(self, group: asyncio.TaskGroup) -> float:
        """Do one thing that is due; the seconds until the next may be (0: look again at once)."""
        await self._tend_lanes()
        self._report.state(self.state)
        if (pause := self._closed_for()) > 0:
            return pause
        limit = self._circuit.limit
        linger = self._config.batch.linger if self._circuit.is_steady else 0.0
        lane, pause = self._lanes.next(limit, linger)
        if lane is None:
            return pause
        if lane.lacks(limit):
            await lane.fill(limit)
            return 0.0  # reading may have taken long; whether to send is asked anew
        work = lane.cut(limit)
        if work.events:
            self._lanes.served(lane)
            self._launch(group, lane, work)
        else:
            for settlement in work.settlements():
                await lane.reader.settle(settlement)
                self._report.settled(settlement)
        return 0.0

    async def _tend_lanes(self) -> None:
        """Take in new readers, let finished ones go, forget what a hold made stale."""
        for lane in self._lanes.refresh():
            if lane.attempts and not self._circuit.is_open:
                self._gate.wait_until(lane.reader.retry.next_at)
        for lane in self._lanes:
            # Here and nowhere else, so that nothing is rewound while the loop waits for a read.
            if lane.stale and not lane.flights:
                lane.release()
        await self._lanes.finish()

    def _closed_for(self) -> float:
        """Seconds until anything may be sent; infinite while that depends on an event."""
        if self._circuit.is_paused:
            return math.inf
        # While the destination is in trouble, or just out of it, one request at a time finds out as
        # much as several, and tells for sure which events an attempt was spent on.
        trusted = self._circuit.is_steady and not self._lanes.attempts
        if len(self._flights) >= (self._config.max_in_flight if trusted else 1):
            return math.inf
        return self._gate.opens_in()

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
        if landing.proved:
            await self._proved(flight)
        for work in landing.left:
            flight.lane.give_back(work)
        await self._obey(flight.lane, landing)

    async def _proved(self, flight: Flight) -> None:
        """The destination judged events: a probe closes the circuit, anything else speeds us up."""
        self._supervisor.made_progress()
        if flight.probe and not self._circuit.is_paused:
            await self._start_anew()
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
                await self._put_on_hold(reason, landing.detail, probe_in)
            case _:
                pass

    async def _put_on_hold(self, reason: HoldReason, detail: str, probe_in: float = 0.0) -> None:
        for lane in self._lanes:
            lane.stale = True  # a hold may last for weeks: its events wait in the log, not in memory
        await self._gate.hold(reason, detail, probe_in)
        self._report.state(self.state)

    async def _start_anew(self) -> None:
        await self._gate.release()
        for lane in self._lanes:
            if lane.attempts:
                await lane.note_retry(RetryState())
        self._report.state(self.state)

    # Parts

    def _new_lanes(self) -> Lanes:
        return Lanes(lambda: self._queue.readers(self.name), self._new_lane)

    def _new_lane(self, reader: Reader) -> Lane:
        cutter = Cutter(
            max_bytes=self._config.batch.max_bytes, event_overhead=self._destination.event_overhead
        )
        return Lane(reader, cutter, sift=self._sift, clock=self._clock)
