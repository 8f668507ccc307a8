"""The few figures to tune with: `python -m tests.benchmarks.quick`.

Alternates the bare handler, the relay that only accepts, and the relay with three sinks (plain and
gzip passed through), and prints each as a part of the bare handler's rate in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from statistics import median

from tests.benchmarks.harness import Bench, Variation, measure_bare, measure_relay

_VARIATIONS = {
    "accept": Variation(),
    "nodedup": Variation(deduplicate=False),
    "plain": Variation(destinations=3),
    "gzip": Variation(destinations=3, gzip=True),
    "plain2": Variation(destinations=3, two_roles=True),
    "gzip2": Variation(destinations=3, gzip=True, two_roles=True),
}
_DEFAULT = ("accept", "plain", "gzip")


async def run(names: list[str], rounds: int, requests: int, events: int, under: Path | None) -> None:
    ratios: dict[str, list[float]] = {name: [] for name in names}
    async with Bench.open(under) as bench:
        pool = bench.pool(requests, events)
        for _ in range(rounds):
            yardstick = await measure_bare(pool)
            bare = yardstick.events / yardstick.seconds
            print(
                f"{'bare':8} {bare / 1000:7.0f} k events/s  p50 {yardstick.p50 * 1000:.2f}"
                f" p99 {yardstick.p99 * 1000:.2f} ms"
            )
            for name in names:
                sample = await measure_relay(bench, pool, _VARIATIONS[name])
                ratios[name].append(sample.deliver_rate / bare)
                print(
                    f"{name:8} {sample.deliver_rate / 1000:7.0f} k events/s  ratio {ratios[name][-1]:.3f}"
                    f"  (acked at {sample.accept_rate / 1000:.0f} k)  p50 {sample.load.p50 * 1000:.2f}"
                    f" p99 {sample.load.p99 * 1000:.2f} ms  {sample.cpu_per_million:.2f} CPU s/M"
                    f"  {sample.peak_rss / 1e6:.0f} MB  {sample.disk / sample.load.events:.0f} B/event"
                    f"  {sample.load.codes}",
                    flush=True,
                )
    print("median ratios: " + ", ".join(f"{name} {median(values):.3f}" for name, values in ratios.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(_DEFAULT), help=f"of {', '.join(_VARIATIONS)}")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=100, help="per request")
    parser.add_argument("--dir", type=Path, help="on the disk to measure; the system's temporary folder")
    given = parser.parse_args()
    asyncio.run(run(given.only.split(","), given.rounds, given.requests, given.events, given.dir))


if __name__ == "__main__":
    main()
