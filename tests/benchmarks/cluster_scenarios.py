"""What the queue on NATS costs, against the queue on SQLite and against a NATS client that only publishes.

A cluster on one machine shares that machine's processors: three servers and four relays on two cores do not
show what six machines do. So the figures to look at are CPU seconds per million events, of the relays and of
the servers; the rates say what this machine makes of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from tests.benchmarks.cluster import IN_FLIGHT, Layout, Measured, measure_cluster, measure_publishing
from tests.benchmarks.harness import Bench, Sample, Variation, measure_relay, note
from tests.benchmarks.report import Figure, plain
from tests.benchmarks.scale import Scale
from tests.fakes.workload import Pool

_EVENTS = 1_000_000  # most of them in a run, so that large requests do not take for ever
_SIZES = (1, 10, 100, 1000)
_DESTINATIONS = (0, 1, 3, 6)


async def cluster(bench: Bench, scale: Scale) -> list[Figure]:
    """Relays on one server and on three, both ways of syncing, beside SQLite and beside bare publishing."""
    busy, _, _ = os.getloadavg()
    pool = bench.pool(scale.requests // 2)
    sqlite = await measure_relay(bench, pool, Variation(destinations=3, connections=IN_FLIGHT))
    figures = [
        plain(
            "CPUs all of this shares",
            os.cpu_count() or 0,
            f"with a load of {busy:.1f} before it began; rates below are theirs, not a cluster's",
        ),
        plain("SQLite, 1 process: CPU per million events", sqlite.cpu_per_million, _rates(sqlite), unit=" s"),
    ]
    for layout in _layouts(scale):
        figure, raw = await _publishing(bench, pool, layout)
        figures.append(figure)
        for relays in scale.relays:
            measured = await measure_cluster(bench, pool, replace(layout, relays=relays))
            name = f"{_servers(layout)}, {relays} relay{'s' if relays > 1 else ''}"
            note(f"{name}: {_rates(measured.relay)}")
            figures += [
                plain(f"{name}: accept = deliver to 3 / SQLite", *_against(measured.relay, sqlite)),
                plain(f"{name}: the same / publish_async", measured.relay.deliver_rate / raw),
                _costs(name, measured),
            ]
    return figures


def _layouts(scale: Scale) -> Iterator[Layout]:
    for servers in scale.servers:
        for sync_always in (False, True):
            yield Layout(servers=servers, sync_always=sync_always)


async def _publishing(bench: Bench, pool: Pool, layout: Layout) -> tuple[Figure, float]:
    """The yardstick: the relay's way against the client's own, and events a second that the latter does."""
    library, _ = await measure_publishing(bench, pool, layout, "library")
    link, nats_cpu = await measure_publishing(bench, pool, layout, "link")
    million = pool.events / 1e6
    figure = plain(
        f"{_servers(layout)}: Link.publish / the client's publish_async",
        link.rate / library.rate,
        f"{link.rate:,.0f} and {library.rate:,.0f} messages/s, {pool.body_bytes // pool.requests:,} B each; "
        f"CPU per million events {link.cpu / million:.2f} and {library.cpu / million:.2f} s, "
        f"NATS {nats_cpu / million:.2f} s",
    )
    return figure, library.rate * pool.events_per_request


async def cluster_batch(bench: Bench, scale: Scale) -> list[Figure]:
    """Small requests are what is dear: most of the work is per request, not per event."""
    figures = []
    for events in _SIZES:
        pool = bench.pool(min(scale.requests // 2, _EVENTS // events), events)
        sqlite = await measure_relay(bench, pool, Variation(destinations=3, connections=IN_FLIGHT))
        measured = await measure_cluster(bench, pool, Layout())
        name = f"{events} events per request"
        note(f"{name}: {_rates(measured.relay)}")
        figures += [
            plain(f"{name}: accept = deliver to 3 / SQLite", *_against(measured.relay, sqlite)),
            _costs(name, measured),
        ]
    return figures


async def cluster_fanout(bench: Bench, scale: Scale) -> list[Figure]:
    """What each further destination costs the relay that delivers to it, and the servers."""
    pool = bench.pool(scale.requests // 2)
    layout = Layout()
    figures = []
    for destinations in _DESTINATIONS:
        measured = await measure_cluster(bench, pool, replace(layout, destinations=destinations))
        name = f"{destinations} destinations"
        note(f"{name}: {_rates(measured.relay)}")
        figures.append(_costs(name, measured))
    return figures


def _servers(layout: Layout) -> str:
    count = "1 server" if layout.servers == 1 else f"{layout.servers} servers"
    return f"{count}, sync_interval {'always' if layout.sync_always else '2m'}"


def _rates(sample: Sample) -> str:
    return (
        f"accepts {sample.accept_rate:,.0f}, delivers {sample.deliver_rate:,.0f} events/s, "
        f"answers p50 {sample.load.p50 * 1e3:.0f} p99 {sample.load.p99 * 1e3:.0f} ms"
    )


def _against(sample: Sample, sqlite: Sample) -> tuple[float, str]:
    return sample.deliver_rate / sqlite.deliver_rate, _rates(sample)


def _costs(name: str, measured: Measured) -> Figure:
    relay = measured.relay.cpu_per_million
    servers = measured.nats_cpu_per_million
    return plain(
        f"{name}: CPU per million events",
        relay + servers,
        f"relays {relay:.2f}, NATS {servers:.2f}; relays' peak memory {measured.relay.peak_rss / 1e6:.0f} MB",
        unit=" s",
    )
