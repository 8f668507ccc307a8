"""A worker with everything real around it: a queue on disk, a destination, a SIEM on loopback.

Only the worker's clock is a fake one. Tests wait for what the worker reports, never for time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from relay.config.destination import DestinationConfig
from relay.config.queue import SqliteQueueConfig
from relay.config.schema import Config
from relay.delivery.views import Views
from relay.delivery.worker import DestinationWorker
from relay.destinations.base import Destination
from relay.destinations.registry import CONFIG_TYPES, build
from relay.model import Books, Hold, HoldReason, Settlement
from relay.observe import logs
from relay.observe.catalog import Outcome
from relay.observe.metrics import Metrics
from relay.queue.base import DeadLetterFilter, StoredDeadLetter
from relay.queue.sqlite import SqliteQueue
from relay.signing.checker import Checker
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines

TIME_LIMIT = 30.0  # seconds any wait may take before the test fails


class Plain(Random):
    """No jitter: every wait is exactly what the schedule says."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Told(Metrics):
    """The real metrics, which also wake whoever waits for something to happen."""

    def __init__(self, destinations: list[str], told: asyncio.Event) -> None:
        super().__init__(["eu", "us"], destinations)
        self.told = told
        self.attempts: list[tuple[str, Outcome, int | None, bool]] = []

    def attempt(
        self, destination: str, outcome: Outcome, status: int | None, seconds: float, is_retry: bool
    ) -> None:
        super().attempt(destination, outcome, status, seconds, is_retry)
        self.attempts.append((destination, outcome, status, is_retry))
        self.told.set()

    def settled(self, destination: str, settlement: Settlement, latency: float | None) -> None:
        super().settled(destination, settlement, latency)
        self.told.set()


class Heard(BytesIO):
    """A log stream that wakes them too."""

    def __init__(self, told: asyncio.Event) -> None:
        super().__init__()
        self._told = told

    def write(self, data: Any) -> int:
        self._told.set()
        return super().write(data)


class Rig:
    """One queue and any number of workers on it."""

    def __init__(
        self, path: Path, names: tuple[str, ...] = ("siem",), *, engine: type[SqliteQueue] = SqliteQueue
    ) -> None:
        self.clock = FakeClock(NOW)
        told = asyncio.Event()
        self.metrics = Told(list(names), told)
        self.log_stream = Heard(told)
        self.workers: dict[str, DestinationWorker] = {}
        self.sent: list[bytes] = []
        self._log = logs.configure("debug", stream=self.log_stream)
        self.restart_process()
        self._path = path
        self._engine = engine
        self._running: dict[str, asyncio.Task[None]] = {}
        self._destinations: dict[str, Destination] = {}
        self.queue: SqliteQueue

    def restart_process(self) -> None:
        """Forget what a process keeps in memory for all its workers. None may run."""
        self.checker = Checker(clock=self.clock, metrics=self.metrics, log=self._log, threads=2)
        self.views = Views(self.checker)

    async def check_signatures(self, source: str = "eu", **signatures: Any) -> None:
        """The section `signatures` of *source*, as in the configuration file."""
        config = Config.model_validate(
            {
                "sources": [{"name": source, "authorization": "x", "signatures": signatures}],
                "queue": {"type": "sqlite", "path": self._path},
                "destinations": [{"name": "siem", "type": "fake"}],
            }
        )
        self.checker.follow(await self.checker.prepare(config))

    async def open(self) -> None:
        config = SqliteQueueConfig(path=self._path, min_free_disk=0, max_bytes=1 << 30)
        # A clock of its own: the queue's upkeep must not look like a waiting worker.
        self.queue = await self._engine.open(
            config, clock=FakeClock(NOW), deduplicate={"eu": None, "us": None}
        )

    async def start(
        self, name: str = "siem", *, destination: Destination | None = None, **config: Any
    ) -> DestinationWorker:
        """Attach and run a worker; *config* as in the configuration file."""
        parsed: DestinationConfig
        if destination is None:
            kind = CONFIG_TYPES[config.setdefault("type", "http")]
            parsed = kind.model_validate({"name": name, **config})
            destination = build(parsed, clock=self.clock)
        else:
            parsed = DestinationConfig.model_validate({"name": name, "type": "fake", **config})
        await self.queue.attach(name, parsed.start_from)
        await destination.open()
        self._destinations[name] = destination
        worker = DestinationWorker(
            parsed,
            destination,
            self.queue,
            views=self.views,
            clock=self.clock,
            rng=Plain(),
            metrics=self.metrics,
            log=self._log,
        )
        self.workers[name] = worker
        # Kept and awaited in `stop`.
        self._running[name] = asyncio.create_task(worker.run())
        return worker

    async def stop(self, name: str = "siem", *, grace: float = 5.0, overdue: bool = False) -> None:
        """Stop a worker; with *overdue* the grace period passes while requests are in the air."""
        async with asyncio.timeout(TIME_LIMIT), asyncio.TaskGroup() as group:
            group.create_task(self.workers[name].stop(grace))
            if overdue:
                await asyncio.sleep(0)  # let it begin to wait
                await self.clock.next_wake()
                await self.clock.advance(grace)
        await self._running.pop(name)
        await self._destinations.pop(name).close()
        del self.workers[name]

    async def kill(self, name: str = "siem") -> None:
        """End a worker without any of its clean-up being asked for."""
        task = self._running.pop(name)
        task.cancel()
        await asyncio.wait({task})
        await self._destinations.pop(name).close()
        del self.workers[name]

    async def restart_queue(self) -> None:
        await self.queue.close()
        await self.open()

    async def close(self) -> None:
        for name in list(self.workers):
            await self.kill(name)
        self.checker.close()
        await self.queue.close()

    # What happens

    async def hold(self, name: str = "siem", detail: str = "") -> None:
        """What an operator's hold is to the worker."""
        await self.queue.set_hold(name, Hold(HoldReason.OPERATOR, self.clock.now(), detail))

    async def resume(self, name: str = "siem") -> None:
        """What an operator's resume is to the worker."""
        await self.queue.set_hold(name, None)
        await self.workers[name].try_now()

    async def append(self, count: int, *, source: str = "eu", at: float | None = None) -> list[bytes]:
        """Accept one batch of *count* events."""
        events = lines(count, first=len(self.sent))
        return await self.append_lines(events, source=source, at=at)

    async def append_lines(
        self, events: list[bytes], *, source: str = "eu", at: float | None = None, pulled: bool = False
    ) -> list[bytes]:
        arrived = self.clock.now() if at is None else at
        await self.queue.append([batch(events, source=source, at=arrived, pulled=pulled)])
        self.sent += events
        return events

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something the worker reports makes it *true*."""
        async with asyncio.timeout(TIME_LIMIT):
            while not true():
                self.metrics.told.clear()
                await self.metrics.told.wait()

    async def drained(self, name: str = "siem") -> None:
        await self.until(lambda: self.books(name).backlog == 0)

    async def waits(self, count: int) -> list[float]:
        """Let *count* waits of the worker pass; how long each was."""
        seen = []
        for _ in range(count):
            seen.append(await self.clock.next_wake())
            await self.clock.advance(seen[-1])
        return seen

    # What is true then

    def books(self, name: str = "siem") -> Books:
        """The books, which must add up whenever someone looks."""
        books = self.queue.books(name)
        assert books.owed == books.delivered + books.filtered + books.dead + books.backlog, books
        return books

    async def dead_letters(self) -> list[StoredDeadLetter]:
        """The dead letters on disk, as soon as the books' number of them is there."""
        async with asyncio.timeout(TIME_LIMIT):
            while True:
                self.metrics.told.clear()
                letters = list(await self.queue.dead_letters(DeadLetterFilter()))
                if sum(one.count for one in letters) == sum(map(self._dead, self.queue.destinations())):
                    return letters
                await self.metrics.told.wait()

    def _dead(self, name: str) -> int:
        return self.books(name).dead

    def log_lines(self) -> list[bytes]:
        return self.log_stream.getvalue().splitlines()
