"""The threads that verify, and how work is dealt out to them.

Owns the threads. What is asked for at the same moment is done together, in parts of equal length: a batch of
many events keeps all threads busy, and so do many batches of few, each of which would not be worth a thread's
start. The event loop itself verifies an event or two where there are no more: hundreds of single ones would
keep Konnect waiting.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from relay.konnect.signatures import SignatureResult

_MOST: Final = 8  # threads; beyond, they would mostly wait for the interpreter lock between two events
_PART: Final = 16  # events, some 1.5 ms: below, another thread would not be worth its start
_INLINE: Final = 2  # events, which are done sooner than another thread begins
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")

Verify = Callable[[Sequence[int]], list[SignatureResult]]
"""The results of the events with these indices. Called by several threads."""


def spare_cores(quota: Path = _QUOTA) -> int:
    """How many threads are worth having: a core is left to the event loop, which has to answer Konnect."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A container sees all cores of its machine. Threads that use up what it may have of them stop the event
    # loop as well, until the kernel's next period.
    with suppress(OSError, ValueError):  # no container; `max`, so no limit
        most, period = map(int, quota.read_text().split())
        cores = min(cores, most // period)
    return max(1, min(_MOST, cores - 1))


_Part = list[tuple[Verify, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class _Job:
    """What somebody waits for."""

    verify: Verify
    indices: Sequence[int]
    done: asyncio.Future[list[SignatureResult]]


class Crew:
    """So many threads, begun with the first work."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._asked: list[_Job] = []  # since the event loop came by last
        self._working: set[asyncio.Task[None]] = set()

    async def verify(self, verify: Verify, indices: Sequence[int]) -> list[SignatureResult]:
        """What *verify* gives for *indices*, in their order. Raises what it raises."""
        loop = asyncio.get_running_loop()
        job = _Job(verify, indices, loop.create_future())
        if not self._asked:
            loop.call_soon(self._begin)
        self._asked.append(job)
        return await job.done

    def close(self) -> None:
        """Let go of the threads. What they are at ends by itself, and nobody gets it."""
        for task in self._working:
            task.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _begin(self) -> None:
        jobs, self._asked = self._asked, []
        task = asyncio.get_running_loop().create_task(self._work(jobs))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _work(self, jobs: Sequence[_Job]) -> None:
        try:
            results = chain.from_iterable(await self._results(list(_parts(jobs, self._threads))))
            for job in jobs:
                found = list(islice(results, len(job.indices)))
                if not job.done.done():  # whoever asked was cancelled
                    job.done.set_result(found)
        except Exception as error:  # noqa: BLE001 - a bug; it belongs to those who asked
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(error)
        finally:
            for job in jobs:
                job.done.cancel()

    async def _results(self, parts: Sequence[_Part]) -> Sequence[list[SignatureResult]]:
        if len(parts) == 1 and sum([len(indices) for _, indices in parts[0]]) <= _INLINE:
            return [_do(parts[0])]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="signatures")
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*[loop.run_in_executor(self._pool, _do, part) for part in parts])


def _do(part: _Part) -> list[SignatureResult]:
    return [result for verify, indices in part for result in verify(indices)]


def _parts(jobs: Sequence[_Job], threads: int) -> Iterator[_Part]:
    """The work of all *jobs* in their order, for each thread about as much."""
    events = sum([len(job.indices) for job in jobs])
    size = max(_PART, -(-events // threads))
    part: _Part = []
    room = size
    for job in jobs:
        left = job.indices
        while left:
            part.append((job.verify, left[:room]))
            left, room = left[room:], room - min(room, len(left))
            if not room:
                yield part
                part, room = [], size
    if part:
        yield part
