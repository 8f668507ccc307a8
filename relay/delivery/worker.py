"""The worker of one destination: waits for its lease, delivers while it has it, and waits again.

Owns the life of a destination in this process: start, lease, restart after a bug, stop. What happens while
the lease lasts is a `Shift`. docs/delivery.md tells the whole story, docs/states.md draws it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from random import Random

from relay.batch import StoredBatch
from relay.clock import Clock
from relay.config.destination import DestinationConfig
from relay.delivery.chunking import Stretch
from relay.delivery.filter import Sieve
from relay.delivery.report import Report
from relay.delivery.shift import Shift
from relay.delivery.supervisor import Supervisor
from relay.delivery.views import INLINE_EVENTS, Views, rewriting
from relay.destinations.base import Destination
from relay.errors import KeysMissing, QueueError
from relay.model import DestinationState, ReaderKind, Sighting
from relay.observe.ledger import state_of
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.queue.base import Lease, Queue


class DestinationWorker:
    """Delivers to one destination whatever its readers hold. The queue must have attached it."""

    def __init__(
        self,
        config: DestinationConfig,
        destination: Destination,
        queue: Queue,
        *,
        views: Views,
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
        self._log = log.bind(destination=config.name)
        self._report = Report(config.name, clock=clock, metrics=metrics, log=self._log)
        self._supervisor = Supervisor(clock=clock, rng=rng, log=self._log)
        self._views = views
        self._sift = Sieve(config.filter)
        self._rewriting = rewriting(config)
        self._asking: asyncio.Task[Lease] | None = None
        self._shift: Shift | None = None  # while this process has the lease
        self._finished = asyncio.Event()
        self._finished.set()

    def __repr__(self) -> str:
        doing = f"{self._shift.in_the_air} in the air" if self._shift else "without the lease"
        return f"<DestinationWorker {self.name} {self.state} {doing}>"

    # What status shows

    @property
    def state(self) -> DestinationState:
        return state_of(self._queue.hold(self.name), self._queue.readers(self.name))

    @property
    def sighting(self) -> Sighting | None:
        """What this process saw of the destination last; None while another process may deliver to it."""
        if self._shift is None:
            return None
        response = self._report.last_response
        if response is None:
            return Sighting()
        return Sighting(self._report.last_attempt_at, response.status, response.detail)

    @property
    def crashes(self) -> int:
        """How often a bug stopped this worker for a moment."""
        return self._supervisor.crashes

    @property
    def last_error(self) -> str | None:
        """The class of the exception that last did."""
        return self._supervisor.last_error

    # What an operator may ask for; a hold goes through the queue, to whichever process delivers

    async def try_now(self) -> None:
        """Wait no longer for a retry or a probe, and start slowly and with a fresh schedule."""
        if self._shift is not None:
            await self._shift.start_anew()

    # Life

    async def run(self) -> None:
        """Deliver until `stop`. Survives bugs (see `Supervisor`) and the loss of its lease."""
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
        if self._asking is not None:
            self._asking.cancel()
        if self._shift is not None:
            self._shift.look()

        async def cancel_when_overdue() -> None:
            await self._clock.sleep(grace)
            if self._shift is not None:
                self._shift.cut_off()

        async with asyncio.TaskGroup() as group:
            reaper = group.create_task(cancel_when_overdue())
            await self._finished.wait()
            reaper.cancel()

    async def _serve(self) -> None:
        lease = await self._granted()
        if lease is None:
            return
        # Made only now: while we waited, another process may have moved watermarks, schedules and the hold.
        self._shift = Shift(
            self._config,
            self._destination,
            self._queue,
            show=self._show,
            slow_to_show=lambda: self._views.slow,
            supervisor=self._supervisor,
            report=self._report,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
        )
        self._report.began()
        try:
            await self._shift.run(lease)
        except* QueueError:
            # Without the lease nothing can be stored, and whoever tried has met an error: no bug of ours.
            if not lease.lost.is_set():
                raise
        finally:
            self._shift = None
            self._report.ended(lost=lease.lost.is_set())
            with suppress(QueueError):
                await lease.release()

    async def _show(self, read: Sequence[tuple[StoredBatch, int]], kind: ReaderKind) -> Sequence[Stretch]:
        """See `Show`."""
        if not self._views.slow or len(read) == 1:
            return await self._one_by_one(read, kind)
        shown = []
        showing = [self._show_one(batch, start, kind) for batch, start in read]
        for one in await asyncio.gather(*showing, return_exceptions=True):
            if isinstance(one, KeysMissing):
                break
            if isinstance(one, BaseException):
                raise one
            shown.append(one)
        return shown

    async def _one_by_one(
        self, read: Sequence[tuple[StoredBatch, int]], kind: ReaderKind
    ) -> Sequence[Stretch]:
        shown = []
        with suppress(KeysMissing):
            for batch, start in read:
                shown.append(await self._show_one(batch, start, kind))
        return shown

    async def _show_one(self, batch: StoredBatch, start: int, kind: ReaderKind) -> Stretch:
        """What this destination wants of *batch* from event *start* on, as it wants it."""
        if self._sift.looks_at_events and batch.count - start > INLINE_EVENTS:
            stretch = await asyncio.to_thread(self._sift, batch, start)
        else:
            stretch = self._sift(batch, start)
        if not stretch.kept:
            return Stretch(batch.shell(), stretch.start, stretch.stop, ())
        redriven = kind is ReaderKind.REDRIVE
        return await self._views.show(stretch, self._rewriting, redriven=redriven)

    async def _granted(self) -> Lease | None:
        """The lease, as soon as no other process has it; None where a stop came first."""
        async with asyncio.TaskGroup() as group:
            self._asking = group.create_task(self._queue.lease(self.name))
            await asyncio.wait({self._asking})
        return None if self._asking.cancelled() else self._asking.result()
