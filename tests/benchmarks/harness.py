"""Processes and measurements the benchmark is put together from.

Owns starting yardstick, relay, sinks and load generator, and turning what they report into a
`Sample`. Never decides what is measured against what: that is scenarios.py. Everything stays on
loopback, and every wait has a time limit.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from tests.fakes.loadgen import Result
from tests.fakes.process import START_LIMIT, RelayProcess, free_port, until
from tests.fakes.workload import AUTHORIZATION, Pool

_QUIET_SECONDS = 0.5  # a sink that got nothing for so long has probably got everything
_DELIVERY_LIMIT = 180.0  # seconds


@dataclass(frozen=True, slots=True)
class Variation:
    """What is different from the plain relay."""

    destinations: int = 0
    gzip: bool = False  # the stored gzip is passed through
    two_roles: bool = False
    deduplicate: bool = True
    connections: int = 16
    signatures: Mapping[str, object] = field(default_factory=dict)
    retry: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SinkReport:
    """What one sink received."""

    events: int
    requests: int
    bytes: int
    first: float | None  # CLOCK_MONOTONIC
    last: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured run."""

    load: Result
    cpu: float  # seconds, all processes of the relay
    peak_rss: int  # bytes, all processes of the relay
    disk: int = 0  # bytes of the queue's files after a clean stop
    sinks: tuple[SinkReport, ...] = ()

    @property
    def accept_rate(self) -> float:
        """Events per second from the first request to the last acknowledgement."""
        return self.load.events / self.load.seconds

    @property
    def deliver_rate(self) -> float:
        """Events per second until the last sink had the last event."""
        last = max([self.load.ended, *[sink.last for sink in self.sinks if sink.last]])
        return self.load.events / (last - self.load.started)

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds of the relay per million events accepted (and delivered to every sink)."""
        return self.cpu / self.load.events * 1e6


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the benchmark works, and the pools it has made there."""

    folder: Path
    pools: dict[tuple[int, int], Pool] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def open(cls, under: Path | None) -> AsyncIterator[Bench]:
        """A temporary folder that goes away at the end; *under* chooses the disk that is measured."""
        with TemporaryDirectory(prefix="relay-bench-", dir=under) as folder:
            yield cls(Path(folder))

    def pool(self, requests: int, events: int = 100) -> Pool:
        """*requests* ready-made requests of *events* each; made once."""
        key = requests, events
        if key not in self.pools:
            note(f"making {requests} requests of {events} events")
            # Each pool has its own seed: pools sent to one relay must not hold each other's events.
            self.pools[key] = Pool.make(
                self.folder / f"pool-{requests}-{events}", requests, events, seed=len(self.pools)
            )
        return self.pools[key]

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Path]:
        """A folder for one relay."""
        with TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)


def note(text: str) -> None:
    """Progress, for whoever watches."""
    print(f"  … {text}", file=sys.stderr, flush=True)


# -- processes


@asynccontextmanager
async def module(name: str, port: int) -> AsyncIterator[int]:
    """Run `python -m name PORT`, wait until it listens, kill it at the end; its process id."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", name, str(port))
    try:
        await until(lambda: _listens(port), START_LIMIT, f"{name} listening")
        yield process.pid
    finally:
        process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class Sink:
    """A counting SIEM in its own process."""

    def __init__(self) -> None:
        self.port = free_port()
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Sink]:
        async with module("tests.fakes.sink", self.port), aiohttp.ClientSession() as session:
            self._session = session
            yield self

    async def report(self, *, count: bool = False) -> SinkReport:
        assert self._session is not None
        path = "count" if count else "progress"
        async with self._session.get(f"http://127.0.0.1:{self.port}/{path}") as response:
            return SinkReport(**await response.json(content_type=None))

    async def received(self, events: int, within: float = _DELIVERY_LIMIT) -> SinkReport:
        """Wait until *events* have come. Gzip'd bodies are only counted once the sink is quiet."""
        deadline = time.monotonic() + within
        while True:
            seen = await self.report()
            quiet = seen.last is not None and time.monotonic() - seen.last > _QUIET_SECONDS
            if quiet or seen.events >= events:
                counted = await self.report(count=True)
                if counted.events >= events:
                    return counted
            if time.monotonic() > deadline:
                raise AssertionError(f"a sink has {seen.events} of {events} events after {within} s")
            await asyncio.sleep(0.1)


async def generate(
    pool: Pool,
    *ports: int,
    connections: int = 16,
    rate: float | None = None,
    requests: int | None = None,
    time_limit: float = 300.0,
) -> Result:
    """Run the load generator to its end; its connections take the *ports* in turn."""
    command = [sys.executable, "-m", "tests.fakes.loadgen", str(pool.path), *map(str, ports)]
    command += ["--connections", str(connections), "--time-limit", str(time_limit)]
    if rate is not None:
        command += ["--rate", str(rate)]
    if requests is not None:
        command += ["--requests", str(requests)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise AssertionError(f"the load generator failed with {process.returncode}")
    return Result(**json.loads(out))


def configuration(folder: Path, sinks: Sequence[int], variation: Variation) -> dict[str, Any]:
    """A relay configuration; defaults wherever the variation does not say otherwise."""
    settings: dict[str, Any] = {"retry": variation.retry}
    if variation.gzip:
        settings |= {"batch": {"compression": "gzip"}, "passthrough_gzip": True}
    return {
        "server": {"host": "127.0.0.1", "port": free_port()},
        "admin": {"host": "127.0.0.1", "port": free_port()},
        "sources": [
            {
                "name": "bench",
                "authorization": AUTHORIZATION,
                "deduplicate": "7d" if variation.deduplicate else "off",
                "signatures": dict(variation.signatures),
            }
        ],
        "queue": {"type": "sqlite", "path": str(folder / "relay.db"), "max_bytes": "20GiB"},
        "destinations": [
            {"name": f"sink{n}", "type": "http", "url": f"http://127.0.0.1:{port}/", **settings}
            for n, port in enumerate(sinks)
        ],
    }


@dataclass(frozen=True, slots=True)
class Relay:
    """One relay, of one process or of two."""

    processes: tuple[RelayProcess, ...]
    folder: Path

    @property
    def port(self) -> int:
        return self.processes[0].port

    @property
    def cpu(self) -> float:
        return sum(process.usage().cpu for process in self.processes)

    @property
    def peak_rss(self) -> int:
        return sum(process.usage().peak_rss for process in self.processes)

    @property
    def rss(self) -> int:
        return sum(process.usage().rss for process in self.processes)

    def disk(self) -> int:
        """Bytes of the queue's files."""
        return sum(file.stat().st_size for file in self.folder.glob("relay.db*"))

    async def stop(self) -> None:
        """Cleanly, delivery last, so that everything accepted had its chance."""
        for process in self.processes:
            status = await process.stop(within=60)
            assert status == 0, f"exit status {status}\n{process.log_tail()}"


def relay(folder: Path, sinks: Sequence[int], variation: Variation) -> Relay:
    """A relay that is not started yet."""
    config = configuration(folder, sinks, variation)
    if not sinks:
        # A configuration has at least one destination; without the delivery role nobody serves it.
        config["destinations"] = [{"name": "nobody", "type": "http", "url": "http://127.0.0.1:9/"}]
        return Relay((RelayProcess(config, folder, role="ingest"),), folder)
    if not variation.two_roles:
        return Relay((RelayProcess(config, folder),), folder)
    return Relay(
        (
            RelayProcess(config, folder, role="ingest", name="ingest"),
            RelayProcess(config, folder, role="deliver", name="deliver"),
        ),
        folder,
    )


# -- measurements


async def measure_bare(pool: Pool, *, connections: int = 16) -> Result:
    """The yardstick."""
    port = free_port()
    async with module("tests.benchmarks.bare", port):
        return await generate(pool, port, connections=connections)


async def measure_relay(bench: Bench, pool: Pool, variation: Variation) -> Sample:
    """Send a pool through a fresh relay and wait until every sink has every event of it."""
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(bench.fresh())
        sinks = [await stack.enter_async_context(Sink().running()) for _ in range(variation.destinations)]
        subject = relay(folder, [sink.port for sink in sinks], variation)
        for process in subject.processes:
            await stack.enter_async_context(process)
        before = subject.cpu
        load = await generate(pool, subject.port, connections=variation.connections)
        assert load.accepted == load.events, f"accepted {load.accepted} of {load.events}"
        reports = [await sink.received(load.events) for sink in sinks]
        sample = Sample(load, subject.cpu - before, subject.peak_rss, sinks=tuple(reports))
        extra = [sink.events - load.events for sink in reports]
        assert not any(extra), f"delivered more than once on a healthy run: {extra}"
        await subject.stop()
        return replace(sample, disk=subject.disk())
