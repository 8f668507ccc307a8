"""A whole relay in this process, on a clock that the test turns, between a Konnect and a SIEM on loopback.

async with Running(tmp_path, clock, konnect, siem) as running:
    running.konnect.happen(maker.some(10, at=clock.now()))
    await running.until(lambda: …)          # time passes while it is not so
    await running.kill()                    # as a power failure would leave it
    clock.jump(3600)
    await running.start()
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
import yaml

from relay.app import Relay, targets, windows
from relay.config.load import load
from relay.destinations.registry import CONFIG_TYPES
from relay.errors import QueueError
from relay.konnect.parse import parse
from relay.model import Gap
from relay.observe.metrics import Metrics
from relay.queue.sqlite import SqliteQueue
from tests.contract.ingest.conftest import Record
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import TOKEN, AuditEvent, FakeKonnect, Place
from tests.fakes.process import free_port
from tests.fakes.siem import Siem

AUTHORIZATION = "Bearer scenario"
STEP = 1.0  # seconds of the fake clock between two looks
LIMIT = 30.0  # real seconds any wait may take before the test fails


class Running:
    """The relay, its log, and what came out at its end."""

    def __init__(
        self, folder: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem, **changes: Any
    ) -> None:
        self.clock = clock
        self.konnect = konnect
        self.siem = siem
        self.log = Record()
        self.port = free_port()
        self.config: dict[str, Any] = {
            "server": {"host": "127.0.0.1", "port": self.port, "shutdown_grace": "2s"},
            "admin": {"host": "127.0.0.1", "port": 0},
            "sources": [{"name": "konnect", "authorization": AUTHORIZATION}],
            "queue": {"type": "sqlite", "path": str(folder / "relay.db"), "min_free_disk": 0},
            "destinations": [{"name": "siem", "type": "http", "url": siem.url}],
            "recovery": {
                "konnect": {
                    "region": "us",
                    "token": TOKEN,
                    "regional_url": konnect.url(),
                    "global_url": konnect.url("global"),
                }
            },
            **changes,
        }
        self.queue: SqliteQueue
        self.metrics: Metrics
        self._folder = folder
        self._starts = 0
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- its life

    async def start(self) -> None:
        path = self._folder / "relay.yaml"
        path.write_text(yaml.safe_dump(self.config))
        config = load(path, destination_types=CONFIG_TYPES).config
        self.metrics = Metrics(*targets(config))
        log = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        assert config.queue.type == "sqlite"
        self.queue = await SqliteQueue.open(
            config.queue, clock=self.clock, metrics=self.metrics, deduplicate=windows(config.sources)
        )
        self._starts += 1
        name = f"replica{self._starts}"
        self.relay = Relay(config, "all", self.queue, self.metrics, replica=name, clock=self.clock, log=log)
        self._stop = asyncio.Event()
        self._serving = asyncio.create_task(self.relay.serve(self._stop))
        await self.until(lambda: len(self.log.named("relay.started")) == self._starts, "the relay's start")

    async def stop(self) -> None:
        """As after SIGTERM."""
        if self._serving is not None:
            self._stop.set()
            serving, self._serving = self._serving, None
            await self.until(serving.done, "the relay's end")
            await serving
            await self.queue.close()

    async def kill(self) -> None:
        """Leave on disk what was there at this moment.

        A quiet one: what is delivered is stored as delivered, so that nothing is sent twice because of this.
        """
        await self.until(lambda: self.queue.books("siem").backlog == 0, "the SIEM having everything")
        await self.queue.flush()
        image = self._folder / "image"
        shutil.rmtree(image, ignore_errors=True)
        image.mkdir()
        files = [path for path in self._folder.glob("relay.db*") if not path.name.endswith(".lock")]
        for path in files:
            shutil.copy2(path, image)
        await self.stop()
        for path in self._folder.glob("relay.db*"):
            path.unlink()
        for path in image.iterdir():
            shutil.copy2(path, self._folder)

    # -- time

    async def until(self, true: Callable[[], bool], what: str = "the condition") -> None:
        """Let time pass as long as it is not so."""
        async with asyncio.timeout(LIMIT):
            while not true():
                await self._tick()
        assert true(), what

    async def through(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.clock.monotonic() + seconds
        await self.until(lambda: self.clock.monotonic() >= end, "time passing")

    async def recovered(self) -> None:
        """Until no gap is open and the SIEM has everything."""
        await self.until(lambda: not self.queue._gaps.open(), "all gaps being closed")
        await self.until(lambda: self.queue.books("siem").backlog == 0, "the SIEM having everything")

    async def _tick(self) -> None:
        """A moment of time, and as much real time as those who are busy in it need."""
        await self.clock.advance(STEP)
        if self._serving is not None and not self._serving.done():
            with suppress(QueueError):  # a commit: whatever was to be stored before is stored
                await self.queue.ping()
        await asyncio.sleep(0.002)

    # -- what there is to see

    def arrived(self) -> Counter[str]:
        """What the SIEM has, by trace id."""
        return Counter(trace(line) for line in self.siem.lines())

    def kept(self, place: Place | None = None) -> set[str]:
        """What Konnect still has."""
        return {trace_of(kept.event) for kept in self.konnect.held(place)}

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
