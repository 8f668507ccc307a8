"""The destinations at work in one process: each opened, with a worker that delivers to it.

Owns which there are and the order of their beginning and end: all of them are ready before the first one
starts, and one that is taken out ends what it has begun. What a worker does is `worker`'s affair.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from relay.clock import Clock
from relay.config.destination import DestinationConfig
from relay.delivery.views import Views
from relay.delivery.worker import DestinationWorker
from relay.destinations.base import Destination, ProbeReport
from relay.destinations.registry import build
from relay.errors import ConfigError
from relay.model import Sighting
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.queue.base import Queue


@dataclass(frozen=True, slots=True)
class Delivery:
    """A configured destination and who delivers to it."""

    config: DestinationConfig
    destination: Destination
    worker: DestinationWorker


class Deliveries:
    """None at first; none ever in a process that only accepts (*delivers* is false)."""

    def __init__(
        self,
        queue: Queue,
        views: Views,
        *,
        delivers: bool,
        clock: Clock,
        rng: Random,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._queue = queue
        self._views = views
        self._delivers = delivers
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._log = log
        self._at_work: dict[str, Delivery] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._at_work

    def sightings(self) -> Mapping[str, Sighting]:
        """What was seen last of those that this process delivers to at present."""
        seen = {name: each.worker.sighting for name, each in self._at_work.items()}
        return {name: sighting for name, sighting in seen.items() if sighting is not None}

    def differing(self, wanted: Sequence[DestinationConfig]) -> tuple[list[str], list[DestinationConfig]]:
        """Whom to let go and whom to make ready, so that these are at work."""
        configs = {config.name: config for config in wanted}
        stale = [name for name, each in self._at_work.items() if configs.get(name) != each.config]
        fresh = [each for each in wanted if each.name in stale or each.name not in self._at_work]
        return stale, fresh

    async def prepare(self, configs: Sequence[DestinationConfig]) -> list[Delivery]:
        """Make destinations ready, all or none. Raises `ConfigError` or `QueueError`."""
        opened: list[tuple[DestinationConfig, Destination]] = []
        try:
            if self._delivers:
                for config in configs:
                    # One by one: what is open when the next one fails has to be closed.
                    opened.append((config, await self._open(config)))  # noqa: PERF401
            # Only now, since a destination that the queue knows is owed every event from here on. Both roles
            # do this: a relay that only accepts must already owe its events to somebody.
            for config in configs:
                await self._queue.attach(config.name, config.start_from)
        except BaseException:
            for _, destination in opened:
                await destination.close()
            raise
        return [self._delivery(config, destination) for config, destination in opened]

    def start(self, prepared: Sequence[Delivery], workers: asyncio.TaskGroup) -> None:
        """Set them to work."""
        for each in prepared:
            self._at_work[each.config.name] = each
            workers.create_task(each.worker.run(), name=f"deliver to {each.config.name}")

    async def discard(self, prepared: Sequence[Delivery]) -> None:
        """Close what was made ready and is not to be set to work."""
        for each in prepared:
            await each.destination.close()

    async def remove(self, names: Sequence[str], grace: float) -> None:
        """End what was begun within *grace* seconds, and forget them."""
        await asyncio.gather(*[_let_go(self._at_work[name], grace) for name in names])
        for name in names:
            del self._at_work[name]

    async def stop(self, grace: float) -> None:
        """End what was begun, everywhere."""
        await asyncio.gather(*[_let_go(each, grace) for each in self._at_work.values()])

    async def try_now(self, name: str) -> None:
        """Do not wait for the next attempt's time, where this process is the one to make it."""
        if name in self._at_work:
            await self._at_work[name].worker.try_now()

    async def probe(self, name: str) -> ProbeReport:
        """Contact one that is at work."""
        return await self._at_work[name].destination.probe()

    async def _open(self, config: DestinationConfig) -> Destination:
        destination = build(config, clock=self._clock)
        try:
            await destination.open()
        except ConfigError as error:
            raise ConfigError([f"destination {config.name}: {each}" for each in error.problems]) from error
        return destination

    def _delivery(self, config: DestinationConfig, destination: Destination) -> Delivery:
        worker = DestinationWorker(
            config,
            destination,
            self._queue,
            views=self._views,
            clock=self._clock,
            rng=self._rng,
            metrics=self._metrics,
            log=self._log,
        )
        return Delivery(config, destination, worker)


async def _let_go(delivery: Delivery, grace: float) -> None:
    await delivery.worker.stop(grace)
    # What hangs in here, a dead disk say, must not keep the others from ending in time.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await delivery.destination.close()
