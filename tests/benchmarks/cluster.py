"""Relays on NATS servers, put together for a measurement.

Owns starting servers and relays and adding up what they used. What is compared with what is decided in
cluster_scenarios.py. Everything of one measurement is new: servers, streams, relays and sinks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Bench, Relay, Sample, Sink, Variation, configuration, generate
from tests.benchmarks.publishing import Published
from tests.fakes.nats import NatsCluster, NatsServer
from tests.fakes.process import RelayProcess, until, usage
from tests.fakes.workload import Pool

IN_FLIGHT = 64  # requests, or messages of the yardstick
# A replica that came first hands on what it holds one by one, none before ten seconds are over.
_BALANCE_LIMIT = 40.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What a measurement is put together from."""

    relays: int = 1
    destinations: int = 3
    servers: int = 1  # and replicas of the streams: 1 or 3
    sync_always: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured run."""

    relay: Sample
    nats_cpu: float  # seconds, all servers

    @property
    def nats_cpu_per_million(self) -> float:
        """CPU seconds of all servers per million events accepted (and delivered to every sink)."""
        return self.nats_cpu / self.relay.load.events * 1e6


@asynccontextmanager
async def nats(folder: Path, layout: Layout) -> AsyncIterator[list[NatsServer]]:
    """One server, or a cluster of them."""
    if layout.servers == 1:
        async with NatsServer(folder, sync_always=layout.sync_always) as server:
            yield [server]
    else:
        async with NatsCluster(folder, size=layout.servers, sync_always=layout.sync_always) as cluster:
            yield list(cluster.servers)


def relays(folder: Path, urls: Sequence[str], sinks: Sequence[int], layout: Layout) -> Relay:
    """Relays that are not started yet, each with ports of its own."""
    queue = {
        "type": "jetstream",
        "servers": list(urls),
        "stream": "bench",
        "replicas": layout.servers,
        "max_bytes": "20GiB",
    }
    processes = []
    for n in range(layout.relays):
        config: dict[str, Any] = {**configuration(folder, sinks, Variation()), "queue": queue}
        if not sinks:
            # A configuration has at least one destination; without the delivery role nobody serves it.
            config["destinations"] = [{"name": "nobody", "type": "http", "url": "http://127.0.0.1:9/"}]
        role = "all" if sinks else "ingest"
        processes.append(RelayProcess(config, folder, role=role, name=f"relay{n}"))
    return Relay(tuple(processes), folder)


async def measure_cluster(bench: Bench, pool: Pool, layout: Layout) -> Measured:
    """Send a pool through new relays on new servers and wait until every sink has every event of it."""
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(bench.fresh())
        servers = await stack.enter_async_context(nats(folder, layout))
        sinks = [await stack.enter_async_context(Sink().running()) for _ in range(layout.destinations)]
        urls = [server.url for server in servers]
        subject = relays(folder, urls, [sink.port for sink in sinks], layout)
        # At once, so that they share out the destinations from the start.
        await asyncio.gather(*[stack.enter_async_context(process) for process in subject.processes])
        if sinks:
            await until(lambda: _balanced(subject), _BALANCE_LIMIT, "destinations spread over the relays")

        def cpu() -> float:
            return sum(usage(server.pid).cpu for server in servers)

        before, nats_before = subject.cpu, cpu()
        load = await generate(pool, *[process.port for process in subject.processes], connections=IN_FLIGHT)
        assert load.accepted == load.events, f"accepted {load.accepted} of {load.events}"
        reports = [await sink.received(load.events) for sink in sinks]
        sample = Sample(load, subject.cpu - before, subject.peak_rss, sinks=tuple(reports))
        measured = Measured(sample, cpu() - nats_before)
        extra = [sink.events - load.events for sink in reports]
        assert not any(extra), f"delivered more than once on a healthy run: {extra}"
        await subject.stop()
        return measured


async def _balanced(subject: Relay) -> bool:
    """Whether every destination has a relay that delivers to it, and none has two more than another."""
    status = await subject.processes[0].status()
    if len(status["replicas"]) < len(subject.processes):
        return False
    holders = Counter({each["id"]: 0 for each in status["replicas"]})
    for each in status["destinations"]:
        if each["replica"] is None:
            return False
        holders[each["replica"]] += 1
    return max(holders.values()) - min(holders.values()) <= 1


async def measure_publishing(bench: Bench, pool: Pool, layout: Layout, kind: str) -> tuple[Published, float]:
    """The yardstick, with messages as long as those of *pool*; also the servers' CPU seconds."""
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(bench.fresh())
        servers = await stack.enter_async_context(nats(folder, layout))
        before = sum(usage(server.pid).cpu for server in servers)
        command = [sys.executable, "-m", "tests.benchmarks.publishing", servers[0].url, kind]
        command += ["--replicas", str(layout.servers), "--messages", str(pool.requests)]
        command += ["--size", str(pool.body_bytes // pool.requests), "--flight", str(IN_FLIGHT)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(120):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, "the yardstick failed"
        return Published(**json.loads(out)), sum(usage(server.pid).cpu for server in servers) - before
