"""What is measured, against what, and the targets (the last table of performance.md).

Every scenario alternates what it compares and reports medians of ratios, because absolute figures
drift by tens of per cent between hours. Owns no process handling: that is harness.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from tests.benchmarks.cluster_scenarios import cluster, cluster_batch, cluster_fanout
from tests.benchmarks.harness import (
    Bench,
    Sample,
    Sink,
    Variation,
    configuration,
    generate,
    measure_bare,
    measure_relay,
    note,
    relay,
)
from tests.benchmarks.report import Figure, at_least, at_most, plain
from tests.benchmarks.scale import Scale
from tests.fakes.loadgen import quantile
from tests.fakes.process import RelayProcess


async def _alternate(
    bench: Bench, scale: Scale, variations: dict[str, Variation], *, events: int = 100
) -> tuple[dict[str, list[Sample]], dict[str, float]]:
    """Run yardstick and variations in turn; the samples, and the median part of the yardstick's rate."""
    samples: dict[str, list[Sample]] = {name: [] for name in variations}
    ratios: dict[str, list[float]] = {name: [] for name in variations}
    pool = bench.pool(scale.requests, events)
    for _ in range(scale.rounds):
        yardstick = await measure_bare(pool)
        bare = yardstick.events / yardstick.seconds
        for name, variation in variations.items():
            sample = await measure_relay(bench, pool, variation)
            note(f"{name}: {sample.deliver_rate:,.0f} events/s, bare handler {bare:,.0f}")
            samples[name].append(sample)
            ratios[name].append(sample.deliver_rate / bare)
    return samples, {name: median(values) for name, values in ratios.items()}


def _rate(samples: list[Sample]) -> str:
    return f"{median(sample.deliver_rate for sample in samples):,.0f} events/s"


def _cpu(samples: list[Sample]) -> float:
    return median(sample.cpu_per_million for sample in samples)


async def accept(bench: Bench, scale: Scale) -> list[Figure]:
    """How fast batches become durable, and what deduplication costs."""
    variations = {"on": Variation(), "off": Variation(deduplicate=False)}
    samples, ratios = await _alternate(bench, scale, variations)
    pairs = zip(samples["on"], samples["off"], strict=True)
    cost = median(1 - on.accept_rate / off.accept_rate for on, off in pairs)
    worst = max(sample.load.p99 for sample in samples["on"])
    return [
        at_least("durable accept / bare handler, deduplicating", ratios["on"], 0.45, _rate(samples["on"])),
        at_least("the same without deduplication", ratios["off"], 0.45, _rate(samples["off"])),
        at_most("what deduplication costs", cost * 100, 25, unit=" %"),
        plain("CPU per million events", _cpu(samples["on"]), unit=" s"),
        plain("answer p99, 16 connections, closed loop", worst * 1000, unit=" ms"),
    ]


async def deliver(bench: Bench, scale: Scale) -> list[Figure]:
    """Accepting and delivering to three destinations at once, in one process and in two."""
    targets = {
        "plain": (Variation(destinations=3), 0.20),
        "gzip passed through": (Variation(destinations=3, gzip=True), 0.30),
        "plain, two roles": (Variation(destinations=3, two_roles=True), 0.26),
        "gzip passed through, two roles": (Variation(destinations=3, gzip=True, two_roles=True), 0.34),
    }
    samples, ratios = await _alternate(bench, scale, {name: it[0] for name, it in targets.items()})
    figures = [
        at_least(
            f"accept = deliver to 3 / bare handler, {name}",
            ratios[name],
            target,
            f"{_rate(samples[name])}, {_cpu(samples[name]):.2f} CPU s per million",
        )
        for name, (_, target) in targets.items()
    ]
    for name in ("plain", "gzip passed through"):
        peak = max(sample.peak_rss for sample in samples[name]) / 1e6
        figures.append(at_most(f"peak resident memory, 3 destinations, {name}", peak, 100, unit=" MB"))
    return figures


async def fanout(bench: Bench, scale: Scale) -> list[Figure]:
    """What each further destination costs."""
    counts = (0, 1, 3, 10)
    once = replace(scale, rounds=1, requests=scale.requests // 2)
    figures = []
    for name, gzip, target in (("plain", False, 0.40), ("gzip passed through", True, 0.15)):
        variations = {str(n): Variation(destinations=n, gzip=gzip) for n in counts}
        samples, ratios = await _alternate(bench, once, variations)
        intake = _cpu(samples["0"])
        share = (_cpu(samples["10"]) - _cpu(samples["1"])) / 9 / intake
        figures.append(at_most(f"a further destination's CPU / the intake's, {name}", share, target))
        figures += [
            plain(
                f"{n} destinations, {name}: CPU per million events",
                _cpu(samples[str(n)]),
                f"{_rate(samples[str(n)])}, {ratios[str(n)]:.2f} of the bare handler",
                unit=" s",
            )
            for n in counts
        ]
    return figures


async def sizes(bench: Bench, scale: Scale) -> list[Figure]:
    """1, 10 and 100 events per request, durable accept only and with three destinations."""
    figures = []
    variations = {"accept": Variation(), "deliver to 3": Variation(destinations=3)}
    for events in (1, 10, 100):
        once = replace(scale, rounds=1)
        samples, ratios = await _alternate(bench, once, variations, events=events)
        figures += [
            plain(f"{events} per request, {name} / bare handler", ratios[name], _rate(samples[name]))
            for name in variations
        ]
    return figures


async def latency(bench: Bench, scale: Scale) -> list[Figure]:
    """Answer times at 200 requests a second with three destinations, beside the disk's own."""
    rate = 200.0
    requests = int(rate * scale.seconds)
    pool = bench.pool(requests)
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(bench.fresh())
        sinks = [await stack.enter_async_context(Sink().running()) for _ in range(3)]
        subject = relay(folder, [sink.port for sink in sinks], Variation())
        for process in subject.processes:
            await stack.enter_async_context(process)
        before = _fdatasync(folder)
        started, cpu = time.monotonic(), subject.cpu
        load = await generate(pool, subject.port, rate=rate)
        busy = (subject.cpu - cpu) / (time.monotonic() - started)
        disk = median([before, _fdatasync(folder)])
    return [
        at_most("answer p50 at 200 requests/s", load.p50 * 1000, 1.5 * disk * 1000 + 1, unit=" ms"),
        at_most("answer p99 at 200 requests/s", load.p99 * 1000, 10, f"worst {load.worst * 1000:.1f}",
                unit=" ms"),
        plain("fdatasync of an appended 8.5 kB, p50", disk * 1000, unit=" ms"),
        plain("CPU at 200 requests/s, 3 destinations", busy * 100, unit=" % of a core"),
        plain("the generator's own lateness, p99", load.lag_p99 * 1000, "not in the above", unit=" ms"),
    ]  # fmt: skip


def _fdatasync(folder: Path) -> float:
    """The median time of appending 8.5 kB and syncing it, in seconds."""
    times = []
    with (folder / "probe").open("ab", buffering=0) as file:
        for _ in range(300):
            begun = time.perf_counter()
            file.write(bytes(8500))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return quantile(sorted(times), 0.5)


async def backlog(bench: Bench, scale: Scale) -> list[Figure]:
    """Five million events behind: what they take on disk, a restart on top of them, and the drain."""
    pool = bench.pool(scale.backlog_requests)
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(bench.fresh())
        sinks = [Sink() for _ in range(3)]
        subject = relay(folder, [sink.port for sink in sinks], Variation())
        process = subject.processes[0]
        await stack.enter_async_context(process)
        load = await generate(pool, subject.port)
        filling = subject.peak_rss
        await subject.stop()
        disk = subject.disk()
        for sink in sinks:
            await stack.enter_async_context(sink.running())
        started = await process.start()
        reports = [await sink.received(load.events) for sink in sinks]
        rates = [load.events / ((it.last or 0) - (it.first or 0)) for it in reports]
        peak = max(filling, subject.peak_rss)
        await subject.stop()
        empty = await _empty_start(bench)
    behind = f"{load.events / 1e6:.1f} million behind"
    return [
        at_most("disk per waiting event / compressed bytes received", disk / pool.body_bytes, 1.1,
                f"{disk / load.events:.1f} B an event, one copy for 3 destinations"),
        at_most("start-up until ready", started, 1.0, f"{behind}; with an empty queue {empty:.2f} s",
                unit=" s"),
        at_least("drain, the slowest of 3 destinations", min(rates), 400_000, f"plain, {behind}",
                 unit=" events/s"),
        at_most("peak resident memory, filling and draining", peak / 1e6, 100, behind, unit=" MB"),
    ]  # fmt: skip


async def _empty_start(bench: Bench) -> float:
    async with bench.fresh() as folder:
        process = RelayProcess(configuration(folder, [9], Variation()), folder)
        try:
            return await process.start()
        finally:
            await process.close()


async def outage(bench: Bench, scale: Scale) -> list[Figure]:
    """One of three destinations is down: what the others notice, and how it catches up."""
    pool = bench.pool(scale.requests)
    whole = await measure_relay(bench, pool, Variation(destinations=3))
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(bench.fresh())
        sinks = [Sink() for _ in range(3)]
        for sink in sinks[:2]:
            await stack.enter_async_context(sink.running())
        variation = Variation(destinations=3, retry={"probe_interval": "1s", "max_retries": 0})
        subject = relay(folder, [sink.port for sink in sinks], variation)
        for process in subject.processes:
            await stack.enter_async_context(process)
        cpu = subject.cpu
        load = await generate(pool, subject.port)
        reports = [await sink.received(load.events) for sink in sinks[:2]]
        sample = Sample(load, subject.cpu - cpu, subject.peak_rss, sinks=tuple(reports))
        await stack.enter_async_context(sinks[2].running())
        late = await sinks[2].received(load.events)
        drain = load.events / ((late.last or 0) - (late.first or 0))
    return [
        plain("2 of 3 destinations with one down / with all up", sample.deliver_rate / whole.deliver_rate,
              f"{sample.deliver_rate:,.0f} and {whole.deliver_rate:,.0f} events/s"),
        plain("CPU per million events with one down", sample.cpu_per_million, unit=" s"),
        plain("the third one's drain, alone", drain, "slow start included", unit=" events/s"),
    ]  # fmt: skip


SCENARIOS: dict[str, tuple[str, Callable[[Bench, Scale], Awaitable[list[Figure]]]]] = {
    "accept": ("Accepting", accept),
    "deliver": ("Accepting and delivering", deliver),
    "fanout": ("Destinations", fanout),
    "sizes": ("Events per request", sizes),
    "latency": ("Answer time", latency),
    "backlog": ("A large backlog", backlog),
    "outage": ("One destination down", outage),
    "cluster": ("On a NATS cluster", cluster),
    "cluster-batch": ("On NATS: events per request", cluster_batch),
    "cluster-fanout": ("On NATS: destinations", cluster_fanout),
}
