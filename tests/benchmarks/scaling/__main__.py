"""`python -m tests.benchmarks.scaling`: the tables of docs/scaling.md, simulated beside what limits them.

`--costs FILE` takes the figures of another machine: a JSON object with fields of `Costs`, in seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.scaling.model import Cluster, Costs, Setting, limit, percentile

_SECONDS = 0.4
_WARM_UP = 0.2
_OPEN_LOAD = 0.7  # of what is possible, for the lag


def scenarios(costs: Costs) -> dict[str, Sequence[tuple[str, Setting]]]:
    """Per question: what is varied, and the setting."""
    base = Setting(costs=costs, destinations=3)
    lazy = replace(base, costs=replace(costs, sync=0.0))
    slow = replace(costs, sync=5e-3, disk_syncs=200.0)
    return {
        "Replicas, sync_interval: always": [
            (f"{n} replicas", replace(base, replicas=n)) for n in (1, 2, 4, 8, 16)
        ],
        "Replicas, sync_interval: 2m": [
            (f"{n} replicas", replace(lazy, replicas=n)) for n in (1, 2, 4, 8, 16)
        ],
        "Replicas, sync_interval: always, each request to the one that has least to do": [
            (f"{n} replicas", replace(base, replicas=n, even=False)) for n in (2, 4, 8, 16)
        ],
        "Destinations": [
            (f"{d} destinations, {n} replicas", replace(base, destinations=d, replicas=n))
            for d, n in ((1, 1), (3, 1), (10, 1), (1, 4), (3, 4), (10, 4), (10, 10))
        ],
        "Events per request": [
            (f"{n} events", replace(base, events=n, replicas=4)) for n in (1, 10, 100, 1000)
        ],
        "Distance, 4 replicas": [
            (
                f"{ms} ms, {c} requests in the air",
                replace(base, replicas=4, round_trip=ms / 1e3, connections=c),
            )
            for ms, c in ((0.2, 16), (0.2, 256), (2, 16), (2, 256), (10, 16), (10, 256))
        ],
        "A disk that syncs in 5 ms, 4 replicas": [
            (f"{n} events", replace(base, events=n, replicas=4, costs=slow)) for n in (1, 100, 1000)
        ],
        "A SIEM that answers after 50 ms, 4 replicas": [
            (f"{n} events in a request to it", replace(base, replicas=4, siem_seconds=50e-3, siem_events=n))
            for n in (1_000, 5_000, 20_000)
        ],
        "Relay groups": [
            (
                f"{g} groups of 4 on {d} sets of servers",
                replace(base, replicas=4 * g, streams=g, disks=d, connections=256 * g),
            )
            for g, d in ((1, 1), (2, 1), (4, 1), (4, 4), (8, 8))
        ],
    }


def row(label: str, setting: Setting) -> str:
    """One line: the limit on paper, what is reached, and the lag at seven tenths of it."""
    name, rate = limit(setting)
    full = Cluster(setting).run(_SECONDS, warm_up=_WARM_UP)
    part = Cluster(replace(setting, rate=_OPEN_LOAD * rate)).run(_SECONDS, warm_up=_WARM_UP)
    reached = min(full.accepted, full.delivered) * setting.events
    return (
        f"| {label} | {name} | {rate * setting.events:,.0f} | {reached:,.0f} "
        f"| {percentile(part.answer, 0.5) * 1e3:.1f} / {percentile(part.answer, 0.99) * 1e3:.1f} "
        f"| {percentile(part.lag, 0.5) * 1e3:.1f} / {percentile(part.lag, 0.99) * 1e3:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--costs", type=Path, help="a JSON object with fields of Costs")
    given = parser.parse_args()
    costs = Costs(**json.loads(given.costs.read_text())) if given.costs else Costs()
    for title, settings in scenarios(costs).items():
        print(f"\n### {title}\n")
        print(
            "| setting | limited by | at most, events/s | simulated, events/s | answer p50 / p99, ms "
            "| lag p50 / p99, ms |"
        )
        print("|---|---|---|---|---|---|")
        for label, setting in settings:
            print(row(label, setting), flush=True)


if __name__ == "__main__":
    main()
