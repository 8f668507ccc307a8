"""Recognising duplicates in an old database: `python -m tests.benchmarks.week`.

Fills a queue with days of Konnect's traffic, seven of ten million events unless told otherwise, and stops on
the way to measure the same things each time: what a new batch costs, what a retry of an old one does, and
what a replay does, whose batches are cut otherwise. Costs that grow with the database would show. Works on
`SqliteQueue` without a server around it; the clock runs as fast as the events come. Needs about 9 GB of disk
and a quarter of an hour for the whole week; `--days` and `--per-day` ask for less.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from relay import gzipped
from relay.config.queue import SqliteQueueConfig
from relay.ingest.body import unpack
from relay.model import Batch
from relay.queue.sqlite import SqliteQueue
from tests.benchmarks.report import Figure, environment, plain, table
from tests.fakes.workload import bodies

_DAY = 86_400
_EVENTS = 100  # a request
_AT_ONCE = 64  # requests, while the database is filled
_MEASURED = 400  # requests of a kind at each stop
_SOURCE = "konnect-us"


class _FastClock:
    """Real waiting, but a time of day that is set from outside."""

    def __init__(self, now: float) -> None:
        self.at = now

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of one request, in microseconds."""

    cpu: float  # all threads
    median: float  # until it is answered, fdatasync and all
    worst: float


class _Week:
    """A queue and the traffic that goes into it."""

    def __init__(self, queue: SqliteQueue, clock: _FastClock, traffic: Iterator[bytes]) -> None:
        self._queue = queue
        self._clock = clock
        self._traffic = traffic
        self._rng = random.Random(2)
        self._old: list[bytes] = []  # pairs of neighbours from everywhere
        self.stored = 0  # events

    async def fill(self, events: int) -> None:
        """Go on until *events* are stored."""
        while self.stored < events:
            texts = list(islice(self._traffic, min(_AT_ONCE, (events - self.stored) // _EVENTS or 1)))
            if len(self._old) < 20_000 and len(texts) > 1 and self._rng.random() < 0.5:
                self._old += texts[:2]
            await asyncio.gather(*[self._store(text) for text in texts])

    async def _store(self, text: bytes) -> None:
        receipt = await self._queue.append([self._batch(text)])
        assert (receipt.accepted, receipt.duplicates) == (_EVENTS, 0)
        self.stored += _EVENTS

    async def new(self) -> _Cost:
        """What comes next, one request at a time."""
        batches = [self._batch(text) for text in islice(self._traffic, _MEASURED)]
        cost = await self._measured(batches, accepted=_EVENTS)
        self.stored += _EVENTS * len(batches)
        return cost

    async def retries(self) -> _Cost:
        """Whole requests of long ago."""
        texts = self._rng.sample(self._old, min(_MEASURED, len(self._old)))
        return await self._measured([self._batch(text) for text in texts], accepted=0)

    async def replays(self) -> _Cost:
        """Half of one request and half of its neighbour."""
        cut = []
        for at in self._rng.sample(range(0, len(self._old), 2), min(_MEASURED, len(self._old) // 2)):
            first, second = (text.splitlines(keepends=True) for text in self._old[at : at + 2])
            cut.append(b"".join([*first[_EVENTS // 2 :], *second[: _EVENTS // 2]]))
        return await self._measured([self._batch(text) for text in cut], accepted=0)

    def _batch(self, text: bytes) -> Batch:
        at = text.rindex(b"|rt=") + 4
        self._clock.at = max(self._clock.at, int(text[at : at + 13]) / 1000)
        unpacked = unpack(
            gzipped.compress(text), source=_SOURCE, received_at=self._clock.at, max_decoded=1 << 20
        )
        return unpacked.batches[0]

    async def _measured(self, batches: Sequence[Batch], *, accepted: int) -> _Cost:
        took = []
        cpu = time.process_time()
        for batch in batches:
            began = time.perf_counter()
            receipt = await self._queue.append([batch])
            took.append(time.perf_counter() - began)
            assert (receipt.accepted, receipt.duplicates) == (accepted, _EVENTS - accepted)
        cpu = time.process_time() - cpu
        return _Cost(cpu / len(batches) * 1e6, median(took) * 1e6, max(took) * 1e6)


async def measure(path: Path, stops: Sequence[int], *, per_day: int) -> list[Figure]:
    """Costs of a request of 100 events, in microseconds, with so many events behind it."""
    start = 1_750_000_000
    clock = _FastClock(start)
    config = SqliteQueueConfig(path=path, min_free_disk=0, max_bytes=1 << 40)
    requests = stops[-1] // _EVENTS + _MEASURED * (len(stops) + 1)
    traffic = bodies(random.Random(1), requests, _EVENTS, rate=per_day / _DAY, start_ms=start * 1000)
    queue = await SqliteQueue.open(config, clock=clock, deduplicate={_SOURCE: 7.0 * _DAY})
    week = _Week(queue, clock, traffic)
    figures = []
    for stop in stops:
        began = time.perf_counter()
        await week.fill(stop)
        print(f"{week.stored:,} events after {time.perf_counter() - began:.0f} s more", flush=True)
        for name, cost in (
            ("new", await week.new()),
            ("retried", await week.retries()),
            ("replayed", await week.replays()),
        ):
            note = f"answered after {cost.median:,.0f}, at worst {cost.worst:,.0f}"
            figures.append(plain(f"{stop:,} behind, {name}", cost.cpu, note, unit=" µs CPU"))
    size = queue.stats().bytes / week.stored
    await queue.close()
    figures.append(plain("disk, index and all", size, unit=" B an event"))
    began = time.perf_counter()
    await (await SqliteQueue.open(config, clock=clock, deduplicate={_SOURCE: 7.0 * _DAY})).close()
    figures.append(plain("opened and closed again", time.perf_counter() - began, unit=" s"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--per-day", type=int, default=10_000_000, help="events")
    parser.add_argument("--dir", type=Path, help="on the disk to measure; the system's temporary folder")
    given = parser.parse_args()
    total = round(given.days * given.per_day)
    stops = [stop for stop in (100_000, 1_000_000, 10_000_000) if stop < total]
    print(environment())
    with TemporaryDirectory(dir=given.dir) as folder:
        figures = asyncio.run(measure(Path(folder) / "relay.db", [*stops, total], per_day=given.per_day))
    print(table(figures))


if __name__ == "__main__":
    main()
