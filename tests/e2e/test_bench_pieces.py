"""The benchmark measures what it says: small runs of its pieces, so that `make bench` does not rot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.harness import Bench, Sink, Variation, generate, measure_relay
from tests.fakes.process import free_port
from tests.fakes.signing import JWKS_FILE
from tests.fakes.workload import Pool


@pytest.mark.parametrize(
    "variation",
    [
        Variation(),
        Variation(destinations=2),
        Variation(destinations=2, gzip=True),
        Variation(destinations=1, two_roles=True),
        Variation(destinations=1, signatures={"mode": "tag", "jwks": str(JWKS_FILE)}),
    ],
    ids=["accept", "plain", "gzip", "two roles", "signatures"],
)
async def test_a_run_accounts_for_every_event(tmp_path: Path, variation: Variation) -> None:
    """Every event of a pool is acknowledged and counted by every sink, once."""
    async with Bench.open(tmp_path) as bench:
        sample = await measure_relay(bench, bench.pool(50, 20), variation)
    assert sample.load.accepted == sample.load.events == 1000
    assert sample.load.codes == {"200": 50}
    assert [sink.events for sink in sample.sinks] == [1000] * variation.destinations
    assert sample.cpu_per_million > 0
    assert sample.disk > 50 * 20 * 70


async def test_the_sink_counts_gzip_honestly_and_only_when_asked(tmp_path: Path) -> None:
    """Bodies are kept as they came; `count` inflates them, and then every line is there."""
    pool = Pool.make(tmp_path / "pool", 30, 7)
    async with Sink().running() as sink:
        load = await generate(pool, sink.port, connections=3, rate=500)
        assert load.requests == 30
        assert load.p50 <= load.p99 <= load.worst
        seen = await sink.report()
        assert (seen.events, seen.requests, seen.bytes) == (0, 30, pool.body_bytes)
        assert (await sink.report(count=True)).events == 210


async def test_the_generator_does_not_take_silence_for_success(tmp_path: Path) -> None:
    """With nobody listening it fails instead of reporting a rate."""
    pool = Pool.make(tmp_path / "pool", 3, 1)
    with pytest.raises(AssertionError, match="load generator failed"):
        await generate(pool, free_port(), time_limit=2)
