"""A whole relay in this process, on a clock that the test turns, between a Konnect and SIEMs on loopback.

async with Running(tmp_path, clock, konnect, siem) as running:
    running.konnect.happen(maker.some(10, at=clock.now()))
    await running.until(lambda: …)          # time passes while it is not so
    await running.kill()                    # as a power failure would leave it
    clock.jump(3600)
    await running.start()

Several of them on one clock are replicas: each is told of the first by `beside`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
import yaml

from relay.app import Relay, targets, windows
from relay.config.load import load
from relay.destinations.registry import CONFIG_TYPES
from relay.konnect.parse import parse
from relay.model import Gap
from relay.observe.metrics import Metrics
from relay.queue.jetstream.queue import JetStreamQueue
from relay.queue.open import open_queue
from relay.queue.sqlite import SqliteQueue
from tests.contract.ingest.conftest import Record
from tests.contract.recovery.engines import Engine, SqliteEngine
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import TOKEN, AuditEvent, FakeKonnect, Place
from tests.fakes.process import free_port
from tests.fakes.siem import Siem

AUTHORIZATION = "Bearer scenario"
STEP = 1.0  # seconds of the fake clock between two looks
LIMIT = 60.0  # real seconds any wait may take before the test fails


class Running:
    """The relay, its log, and what came out at its end."""

    def __init__(
        self,
        folder: Path,
        clock: FakeClock,
        konnect: FakeKonnect,
        *siems: Siem,
        engine: Engine | None = None,
        beside: Running | None = None,
        signatures: Mapping[str, object] | None = None,
    ) -> None:
        """*engine* is SQLite in *folder* where none is given; *signatures* are the source's."""
        self.clock = clock
        self.konnect = konnect
        self.siems = {f"siem{number}": siem for number, siem in enumerate(siems, 1)}
        self.log = Record()
        self.port = free_port()
        self.engine = engine or SqliteEngine(folder)
        self.config: dict[str, Any] = {
            "server": {"host": "127.0.0.1", "port": self.port, "shutdown_grace": "2s"},
            "admin": {"host": "127.0.0.1", "port": 0},
            "sources": [
                {"name": "konnect", "authorization": AUTHORIZATION, "signatures": dict(signatures or {})}
            ],
            "queue": self.engine.settings(),
            "destinations": [
                {"name": name, "type": "http", "url": siem.url} for name, siem in self.siems.items()
            ],
            "recovery": {
                "konnect": {
                    "region": "us",
                    "token": TOKEN,
                    "regional_url": konnect.url(),
                    "global_url": konnect.url("global"),
                }
            },
        }
        self.queue: SqliteQueue | JetStreamQueue
        self.metrics: Metrics
        self._path = folder / f"relay-{self.port}.yaml"
        self._starts = 0
        self._serving: asyncio.Task[None] | None = None
        self._everyone: list[Running] = [] if beside is None else beside._everyone
        self._everyone.append(self)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            if self._serving is not None:  # or the queue's threads would keep this process alive
                self._serving.cancel()
                await self.queue.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        await self.engine.close()

    # -- its life

    async def start(self) -> None:
        self._path.write_text(yaml.safe_dump(self.config))
        config = load(self._path, destination_types=CONFIG_TYPES).config
        self.metrics = Metrics(*targets(config))
        log = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self._starts += 1
        name = f"replica{self.port}-{self._starts}"
        await self.engine.start()
        queue = await open_queue(
            config.queue,
            replica=name,
            role="all",
            deduplicate=windows(config.sources),
            clock=self.clock,
            metrics=self.metrics,
            log=log,
        )
        assert isinstance(queue, SqliteQueue | JetStreamQueue)
        self.queue = queue
        self.relay = Relay(config, "all", queue, self.metrics, replica=name, clock=self.clock, log=log)
        self._stop = asyncio.Event()
        self._serving = asyncio.create_task(self.relay.serve(self._stop))
        await self.until(lambda: len(self.log.named("relay.started")) == self._starts, "the relay's start")
        completeness = self.relay._completeness
        assert completeness is not None
        await self.until(lambda: completeness._heartbeat._begun, "the look at the last heartbeat")

    async def stop(self) -> None:
        """As after SIGTERM."""
        if self._serving is not None:
            self._stop.set()
            serving, self._serving = self._serving, None
            await self.until(serving.done, "the relay's end")
            await serving
            await self.queue.close()

    async def kill(self) -> None:
        """Leave behind what is stored at this moment.

        A quiet one: what is delivered is stored as delivered, so that nothing is sent twice because of this.
        """
        await self.delivered()
        await self.queue.flush()
        await self.engine.kill(self.queue, self.stop)

    # -- time

    async def until(
        self, true: Callable[[], bool], what: str = "the condition", *, step: float = STEP
    ) -> None:
        """Let time pass as long as it is not so."""
        async with asyncio.timeout(LIMIT):
            while not true():
                await self._tick(step)
        assert true(), what

    async def through(self, seconds: float, *, step: float = STEP) -> None:
        """Let so much time pass. A *step* of ten seconds may look like a process that stood still."""
        end = self.clock.monotonic() + seconds
        await self.until(lambda: self.clock.monotonic() >= end, "time passing", step=step)

    async def delivered(self) -> None:
        """Until every SIEM has everything that was accepted."""
        await self.until(
            lambda: all(self.queue.books(name).backlog == 0 for name in self.siems), "the SIEMs' having it"
        )

    async def recovered(self) -> None:
        """Until no gap is open, and all that was accepted is delivered."""
        await self.until(lambda: not self.queue._gaps.open(), "all gaps being closed")
        await self.delivered()

    async def _tick(self, seconds: float) -> None:
        """A moment of time, and as much real time as those who are busy in it need."""
        await self.clock.advance(seconds)
        for each in self._everyone:
            await each._catch_up()
        await asyncio.sleep(0.002)

    async def _catch_up(self) -> None:
        if self._serving is None:
            return
        if not self._serving.done():
            await self.engine.catch_up(self.queue, self.clock)
        elif not self._stop.is_set():
            await self._serving  # it failed: say why, and do not wait for what cannot come any more

    # -- what there is to see

    def arrived(self) -> list[Counter[str]]:
        """What each SIEM has, by trace id."""
        return [Counter(trace(line) for line in siem.lines()) for siem in self.siems.values()]

    def kept(self, place: Place | None = None) -> set[str]:
        """What Konnect still has."""
        return {trace_of(kept.event) for kept in self.konnect.held(place)}

    def happened(self) -> dict[str, float]:
        """When everything happened that Konnect ever knew of, at any place, by trace id."""
        return {trace_of(kept.event): kept.at / 1000 for kept in self.konnect.truth.ever()}

    async def gaps(self) -> list[Gap]:
        """Closed ones as well."""
        return list(await self.queue.gaps(include_closed=True))

    async def metric(self, name: str) -> float:
        text = (await self.metrics.exposition()).decode()
        (value,) = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name)]
        return float(value)


def trace(line: bytes) -> str:
    record = parse(line)
    assert record is not None
    assert record.trace_id is not None
    return record.trace_id


def trace_of(event: AuditEvent) -> str:
    return str(dict(event.extensions)["trace_id"])
