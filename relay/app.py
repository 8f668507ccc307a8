"""The composition root: reads top-down as the architecture, and says in which order things start and stop.

    sources ─▶ IngestServer ─▶ queue ─▶ one DestinationWorker each ─▶ destinations
                                 ▲
                 AdminServer ────┘ (metrics, status, putting things right)

Owns which parts run in this process's role, and how a changed configuration reaches them. Holds no
logic of its own: whatever can be tested without a process lives in the parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from relay import __version__
from relay.admin.control import DestinationLive, SourceLive
from relay.admin.server import AdminServer
from relay.clock import Clock, SystemClock
from relay.config.destination import DestinationConfig
from relay.config.load import Loaded, load
from relay.config.schema import Admin, Config, Source
from relay.delivery.worker import DestinationWorker
from relay.destinations.base import Destination, ProbeReport
from relay.destinations.registry import CONFIG_TYPES, build
from relay.errors import ConfigError, Conflict, NotFound, RelayError
from relay.ingest.server import IngestServer
from relay.model import Hold, HoldReason
from relay.observe import logs
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.queue.base import Queue
from relay.queue.sqlite import SqliteQueue
from relay.queue.sqlite.database import Role

# Restarting is needed for these: a socket, a file or the process's own set-up hangs on them.
_FIXED_SECTIONS = ("server", "admin", "queue", "logging")
_SWITCH_SECONDS = 0.0005
# How much of the shutdown grace the intake may take to answer what it has begun to read.
_INGEST_SHARE = 0.4


@dataclass(slots=True)
class _Delivery:
    """A configured destination at work."""

    config: DestinationConfig
    destination: Destination
    worker: DestinationWorker


class Relay:
    """One relay process. Implements `relay.admin.control.RelayControl`."""

    def __init__(
        self, config: Config, role: Role, queue: Queue, metrics: Metrics, *, clock: Clock, log: Log
    ) -> None:
        self._config = config
        self.role = role
        self.queue = queue
        self.started_at = clock.now()
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._rng = Random()  # noqa: S311 - spreads retries, keeps no secret
        self._deliveries: dict[str, _Delivery] = {}
        self._workers: asyncio.TaskGroup | None = None
        self._ingest: IngestServer | None = None
        if role != "deliver":
            self._ingest = IngestServer(
                config.server, config.sources, queue, clock=clock, metrics=metrics, log=log
            )
        self._admin = AdminServer(_admin_of(config, role), self, metrics, clock=clock, log=log)

    # -- life --------------------------------------------------------------------------------

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until *stop* is set, then shut down in order within the configured grace."""
        self._metrics.bind(self.queue, clock=self._clock, delivers=self.role != "ingest")
        async with asyncio.TaskGroup() as workers:
            self._workers = workers
            try:
                for config in self._config.destinations:
                    await self._add(config)
                await self._admin.start()
                if self._ingest is not None:  # last: whoever is answered 200 finds everything running
                    await self._ingest.start()
                self._log.info("relay.started", role=self.role, version=__version__, **self._where())
                await stop.wait()
            finally:
                await self._shut_down()

    async def _shut_down(self) -> None:
        """Accept no more, finish what was accepted, stop sending, let go. The queue is closed by `run`."""
        grace = self._config.server.shutdown_grace
        self._log.info("relay.stopping", grace=grace)
        if self._ingest is not None:
            await self._ingest.stop(grace * _INGEST_SHARE)
        left = grace * (1 - _INGEST_SHARE)
        await asyncio.gather(*[self._let_go(each, left) for each in self._deliveries.values()])
        await self._admin.stop()

    async def _let_go(self, delivery: _Delivery, grace: float) -> None:
        await delivery.worker.stop(grace)
        # What hangs in here, a dead disk say, must not keep the others from ending in time.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await delivery.destination.close()

    def _where(self) -> dict[str, object]:
        server = self._config.server
        where: dict[str, object] = {"admin": f"{self._config.admin.host}:{self._admin.port}"}
        if self._ingest is not None:
            where["ingest"] = f"{server.host}:{self._ingest.port}"
        return where

    async def _add(self, config: DestinationConfig) -> None:
        # Both roles do this: a relay that only accepts must already owe its events to somebody.
        await self.queue.attach(config.name, config.start_from)
        if self.role == "ingest" or self._workers is None:
            return
        destination = build(config, clock=self._clock)
        try:
            await destination.open()
        except ConfigError as error:
            raise ConfigError([f"destination {config.name}: {each}" for each in error.problems]) from error
        worker = DestinationWorker(
            config,
            destination,
            self.queue,
            clock=self._clock,
            rng=self._rng,
            metrics=self._metrics,
            log=self._log,
        )
        self._deliveries[config.name] = _Delivery(config, destination, worker)
        self._workers.create_task(worker.run(), name=f"deliver to {config.name}")

    async def _remove(self, name: str) -> None:
        await self._let_go(self._deliveries[name], self._config.server.shutdown_grace)
        del self._deliveries[name]

    async def reload(self, loaded: Loaded) -> None:
        """Follow a changed configuration without dropping a connection.

        Sources and destinations change at once; sections that need a restart are named in the log.
        """
        new = loaded.config
        fixed = [name for name in _FIXED_SECTIONS if getattr(new, name) != getattr(self._config, name)]
        if fixed:
            self._log.warning("relay.restart_needed", sections=fixed)
        await self.queue.set_sources(_windows(new.sources))
        self._metrics.set_targets(*_targets(new, self.role))
        if self._ingest is not None:
            self._ingest.reload(new.sources)
        wanted = {config.name: config for config in new.destinations}
        stale = [name for name, each in self._deliveries.items() if wanted.get(name) != each.config]
        await asyncio.gather(*[self._remove(name) for name in stale])
        for name, config in wanted.items():
            if name not in self._deliveries:
                await self._add(config)
        kept = {name: getattr(self._config, name) for name in _FIXED_SECTIONS}
        self._config = new.model_copy(update=kept)
        self._log.info("relay.reloaded", changed=stale, destinations=list(wanted))

    # -- control -----------------------------------------------------------------------------

    def sources(self) -> Sequence[SourceLive]:
        found = []
        for source in self._config.sources:
            at, code = (None, None) if self._ingest is None else self._ingest.last_attempt(source.name)
            found.append(SourceLive(source.name, f"/audit-logs/{source.name}", at, code))
        return found

    def destinations(self) -> Sequence[DestinationLive]:
        found = []
        for config in self._config.destinations:
            if (delivery := self._deliveries.get(config.name)) is None:
                found.append(DestinationLive(config.name, config.type, None))
                continue
            worker = delivery.worker
            found.append(
                DestinationLive(
                    config.name, config.type, worker.state, worker.last_attempt_at, worker.last_response
                )
            )
        return found

    async def hold(self, destination: str, detail: str) -> None:
        if destination in self._deliveries:
            await self._deliveries[destination].worker.hold(detail)
            return
        self._require_delivering()
        await self.queue.set_hold(destination, Hold(HoldReason.OPERATOR, self._clock.now(), detail))

    async def resume(self, destination: str) -> None:
        if destination in self._deliveries:
            await self._deliveries[destination].worker.resume()
            return
        self._require_delivering()
        await self.queue.set_hold(destination, None)

    async def forget(self, destination: str) -> None:
        self._require_delivering()
        if any(config.name == destination for config in self._config.destinations):
            raise Conflict(f"{destination} is configured; take it out of the configuration first")
        await self.queue.forget(destination)

    async def test(self, destination: str) -> ProbeReport:
        self._require_delivering()
        if destination not in self._deliveries:
            raise NotFound(f"no destination called {destination} is configured")
        return await self._deliveries[destination].destination.probe()

    def _require_delivering(self) -> None:
        if self.role == "ingest":
            raise Conflict("this process only accepts; ask the one that delivers")


async def run(path: Path, role: Role) -> None:
    """Run a relay until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Raises `ConfigError` for an invalid configuration and `RelayError` when it cannot start.
    """
    loaded = load(path, destination_types=CONFIG_TYPES)
    config = loaded.config
    log = logs.configure(config.logging.level, config.logging.format)
    for warning in loaded.warnings:
        log.warning("config.warning", detail=warning)
    clock = SystemClock()
    metrics = Metrics(*_targets(config, role))
    queue = await SqliteQueue.open(
        config.queue, clock=clock, metrics=metrics, deduplicate=_windows(config.sources), role=role
    )
    try:
        relay = Relay(config, role, queue, metrics, clock=clock, log=log)
        # What is loaded by now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        # The writer's thread takes the interpreter lock a few times in every commit; a busy event loop would
        # keep it for the default 5 ms each time. Measured in docs/performance.md.
        sys.setswitchinterval(_SWITCH_SECONDS)
        with _signals() as (stop, hangup):
            async with asyncio.TaskGroup() as group:
                reloading = group.create_task(_reload_on(hangup, path, relay, log))
                await relay.serve(stop)
                reloading.cancel()
    except BaseExceptionGroup as group:
        error = _innermost(group)
        if isinstance(error, OSError):  # e.g. the port is taken
            raise RelayError(f"cannot start: {error}") from error
        if isinstance(error, RelayError):
            raise error from None
        raise
    finally:
        await queue.close()
        log.info("relay.stopped")


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _reload_on(hangup: asyncio.Event, path: Path, relay: Relay, log: Log) -> None:
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            loaded = load(path, destination_types=CONFIG_TYPES)
        except ConfigError as error:
            log.error("config.refused", problems=error.problems)  # noqa: TRY400 - the sentence, not our stack
            continue
        for warning in loaded.warnings:
            log.warning("config.warning", detail=warning)
        try:
            await relay.reload(loaded)
        except RelayError as error:
            log.error("config.failed", detail=str(error))  # noqa: TRY400 - the sentence, not our stack


@contextlib.contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Events for "stop" (SIGTERM, SIGINT) and "read the configuration again" (SIGHUP)."""
    loop = asyncio.get_running_loop()
    stop, hangup = asyncio.Event(), asyncio.Event()
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hangup}
    for number, event in handlers.items():
        loop.add_signal_handler(number, event.set)
    try:
        yield stop, hangup
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _admin_of(config: Config, role: Role) -> Admin:
    """Two processes of one relay cannot share a port: the intake's admin listener is one higher."""
    admin = config.admin
    if role == "ingest" and admin.port:
        return admin.model_copy(update={"port": admin.port + 1})
    return admin


def _windows(sources: Sequence[Source]) -> dict[str, float | None]:
    return {source.name: source.deduplicate for source in sources}


def _targets(config: Config, role: Role) -> tuple[list[str], list[str]]:
    destinations = [] if role == "ingest" else [each.name for each in config.destinations]
    return [source.name for source in config.sources], destinations
