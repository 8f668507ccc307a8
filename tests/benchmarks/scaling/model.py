"""The relay on a NATS cluster as stations and demands, and what queueing theory says of it.

    request ─▶ a replica's core ─▶ network ─▶ the stream's leader ─▶ its disk ─▶ quorum ─▶ answer
                                                                                  │
              every other replica's core (follows headers) ◀──────────────────────┤
              each destination: its holder's core ─▶ one request at a time to the SIEM ◀─┘

`Cluster` plays this request by request; `bounds` computes from the same figures what no order of events can
beat (the utilisation law: nobody is busy for more than a second a second). docs/scaling.md draws conclusions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil
from random import Random

from tests.benchmarks.scaling.engine import Action, Engine, Station


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one core, of a stream's leader or of a disk. Where they come from: docs/scaling.md."""

    intake_request: float = 180e-6  # accept, decode, deduplicate and publish: per request …
    intake_event: float = 1.5e-6  # … and per event in it
    follow: float = 25e-6  # headers of a batch that another replica accepted
    deliver_batch: float = 60e-6  # pull, decode, acknowledge
    deliver_event: float = 0.6e-6  # cut, frame, send
    store_message: float = 35e-6  # the leader's own serial work
    store_event: float = 0.25e-6
    sync: float = 100e-6  # until the disk has it, with `sync_interval: always`; else 0
    disk_syncs: float = 7_000.0  # syncs a second a disk can do for several streams together


@dataclass(frozen=True, slots=True)
class Setting:
    """One cluster under one load."""

    replicas: int = 1
    destinations: int = 1
    events: int = 100  # in a request
    streams: int = 1  # of as many relay groups, each with a part of the sources
    disks: int = 1  # sets of servers the streams are spread over by placement
    connections: int = 256  # requests Konnect has in the air: a closed loop
    rate: float | None = None  # requests a second, at random: an open loop instead
    even: bool = True  # round robin before the replicas; False: to the one that has least to do
    round_trip: float = 0.2e-3  # seconds between any two machines
    siem_seconds: float = 1e-3  # until a destination answers
    siem_events: int = 1_000  # most events in a request to it
    costs: Costs = field(default_factory=Costs)

    @property
    def group(self) -> int:
        """Replicas of one relay group."""
        return max(1, self.replicas // self.streams)

    @property
    def intake(self) -> float:
        return self.costs.intake_request + self.events * self.costs.intake_event

    @property
    def deliver(self) -> float:
        return self.costs.deliver_batch + self.events * self.costs.deliver_event

    @property
    def store(self) -> float:
        return self.costs.store_message + self.events * self.costs.store_event + self.costs.sync

    @property
    def on_disk(self) -> float:
        return 1 / self.costs.disk_syncs if self.costs.sync else 0.0


def bounds(setting: Setting) -> dict[str, float]:
    """Requests per second that each part allows; the least of them is what the whole can do at most."""
    group, follow = setting.group, setting.costs.follow
    held = ceil(setting.destinations / group) * setting.deliver  # of whoever has most leases
    if setting.even:
        replica = setting.intake / group + (group - 1) / group * follow + held
    else:
        work = setting.intake + (group - 1) * follow + setting.destinations * setting.deliver
        replica = max(work / group, held + follow if group > 1 else 0.0)
    way = setting.intake + 2 * setting.round_trip + setting.store + setting.on_disk
    found = {
        "replica": setting.streams / replica,
        "leader": setting.streams / setting.store,
        "connections": setting.connections / way,
    }
    if setting.on_disk:
        found["disk"] = setting.disks / setting.on_disk
    if setting.destinations:
        per_request = max(1, setting.siem_events // setting.events)
        found["siem"] = setting.streams * per_request / setting.siem_seconds
    if setting.rate is not None:
        found["load"] = setting.rate
        del found["connections"]
    return found


def limit(setting: Setting) -> tuple[str, float]:
    """The part that limits, and the requests per second it allows."""
    return min(bounds(setting).items(), key=lambda item: item[1])


def waiting_time(rate: float, service: float) -> float:
    """Mean wait before one server, arrivals at random, service time fixed (Pollaczek and Khinchine)."""
    load = rate * service
    return load * service / (2 * (1 - load))


@dataclass(slots=True)
class Result:
    """What happened after the warm-up."""

    accepted: float = 0.0  # requests a second
    delivered: float = 0.0  # requests a second that the slowest destination got
    answer: list[float] = field(default_factory=list)  # seconds, sorted
    lag: list[float] = field(default_factory=list)  # seconds from answer to delivery, sorted


def percentile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


class _Destination:
    """Gets what its holder has prepared, one request at a time, as large as it may be by then."""

    def __init__(self, cluster: Cluster, core: Station) -> None:
        self._cluster = cluster
        self.core = core
        self._ready: deque[float] = deque()  # when each was accepted
        self._sending = False
        self.delivered = 0

    def accept(self) -> None:
        accepted = self._cluster.engine.now
        self.core.use(self._cluster.setting.deliver, lambda: self._prepared(accepted))

    def stall(self, seconds: float) -> None:
        """Nobody has the lease for so long."""
        self._sending = True
        self._cluster.engine.after(seconds, self._send)

    def _prepared(self, accepted: float) -> None:
        self._ready.append(accepted)
        if not self._sending:
            self._send()

    def _send(self) -> None:
        setting = self._cluster.setting
        most = max(1, setting.siem_events // setting.events)
        chunk = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
        self._sending = bool(chunk)
        if chunk:
            self._cluster.engine.after(setting.siem_seconds, lambda: self._arrived(chunk))

    def _arrived(self, chunk: list[float]) -> None:
        if self._cluster.measuring:
            self.delivered += len(chunk)
            self._cluster.result.lag += [self._cluster.engine.now - accepted for accepted in chunk]
        self._send()


class _Group:
    """Relays that share one stream."""

    def __init__(self, cluster: Cluster, disk: Station) -> None:
        setting, engine = cluster.setting, cluster.engine
        self.cores = [Station(engine) for _ in range(setting.group)]
        self.leader = Station(engine)
        self.disk = disk
        self.destinations = [
            _Destination(cluster, self.cores[number % setting.group])
            for number in range(setting.destinations)
        ]


class Cluster:
    """One run of one setting."""

    def __init__(self, setting: Setting, *, seed: int = 1) -> None:
        self.setting = setting
        self.engine = Engine()
        self.result = Result()
        self.measuring = False
        self._rng = Random(seed)
        self._disks = [Station(self.engine) for _ in range(setting.disks)]
        self.groups = [_Group(self, self._disks[number % setting.disks]) for number in range(setting.streams)]
        self._turn = 0

    def run(self, seconds: float, *, warm_up: float = 0.0) -> Result:
        """Play *warm_up* and then *seconds*, which count."""
        if self.setting.rate is None:
            for _ in range(self.setting.connections):
                # Not all in the same instant, or they would stay in step.
                self.engine.after(self._rng.random() * self.setting.store, self._next_of_loop)
        else:
            self._next_at_random()
        self.engine.run(warm_up)
        self.measuring = True
        self.engine.run(warm_up + seconds)
        self.result.accepted = len(self.result.answer) / seconds
        slowest = [
            min(each.delivered for each in group.destinations) for group in self.groups if group.destinations
        ]
        self.result.delivered = sum(slowest) / seconds if slowest else self.result.accepted
        self.result.answer.sort()
        self.result.lag.sort()
        return self.result

    def _next_of_loop(self) -> None:
        self._request(self._next_of_loop)

    def _next_at_random(self) -> None:
        assert self.setting.rate is not None
        self._request(lambda: None)
        self.engine.after(self._rng.expovariate(self.setting.rate), self._next_at_random)

    def _request(self, answered: Action) -> None:
        setting, engine = self.setting, self.engine
        group = self.groups[self._turn % setting.streams]
        core = group.cores[self._turn // setting.streams % setting.group]
        if not setting.even:
            core = min(group.cores, key=lambda each: each.free_at)
        self._turn += 1
        came = engine.now

        def stored() -> None:
            if self.measuring:
                self.result.answer.append(engine.now - came)
            for other in group.cores:
                if other is not core:
                    other.use(setting.costs.follow, lambda: None)
            for destination in group.destinations:
                destination.accept()
            answered()

        def on_leader() -> None:
            # The followers write at the same time as the leader does; only their way there and back adds up.
            group.disk.use(setting.on_disk, lambda: engine.after(setting.round_trip, stored))

        def published() -> None:
            group.leader.use(setting.store, on_leader)

        core.use(setting.intake, lambda: engine.after(setting.round_trip, published))
