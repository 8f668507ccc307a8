"""How much is measured: all of it, or little and once to see that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    requests: int  # of 100 events, per run
    backlog_requests: int  # of 100 events
    seconds: float  # of the latency run
    relays: tuple[int, ...]  # processes on a cluster
    servers: tuple[int, ...]  # of a cluster, and replicas of its streams


FULL = Scale(rounds=3, requests=20_000, backlog_requests=50_000, seconds=15, relays=(1, 2, 4), servers=(1, 3))
QUICK = Scale(rounds=1, requests=5_000, backlog_requests=5_000, seconds=3, relays=(1, 2), servers=(1,))
