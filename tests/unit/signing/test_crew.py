"""Work for the threads that verify: how it is dealt out, and what becomes of those who wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from relay.konnect.signatures import SignatureResult
from relay.signing.crew import Crew, spare_cores

RESULTS = list(SignatureResult)


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


def meeting(barrier: threading.Barrier) -> Callable[[Sequence[int]], list[SignatureResult]]:
    """Work that only goes on when as many threads are at it as the barrier wants."""

    def verify(indices: Sequence[int]) -> list[SignatureResult]:
        barrier.wait()
        return [RESULTS[n % len(RESULTS)] for n in indices]

    return verify


@pytest.mark.parametrize(("jobs", "events"), [(1, 100), (2, 50), (4, 25), (100, 1)])
async def test_any_sizes_keep_all_threads_busy(crew: Crew, jobs: int, events: int) -> None:
    """A batch of many events, and many of few; each gets its results in their order."""
    met = threading.Barrier(2, timeout=20)
    together = meeting(met)
    parts: list[Sequence[int]] = []

    def verify(indices: Sequence[int]) -> list[SignatureResult]:
        parts.append(indices)
        if len(parts) <= 2 or jobs == 1:
            return together(indices)
        return [RESULTS[n % len(RESULTS)] for n in indices]

    found = await asyncio.gather(*[crew.verify(verify, range(n, n + events)) for n in range(jobs)])

    assert found == [
        [RESULTS[n % len(RESULTS)] for n in range(first, first + events)] for first in range(jobs)
    ]
    assert sum(map(len, parts)) == jobs * events


async def test_many_single_events_leave_the_event_loop_alone(crew: Crew) -> None:
    """None of them takes long, all of them would."""
    threads = set()

    def verify(indices: Sequence[int]) -> list[SignatureResult]:
        threads.add(threading.get_ident())
        return [SignatureResult.VERIFIED for _ in indices]

    await asyncio.gather(*[crew.verify(verify, (n,)) for n in range(50)])

    assert threading.get_ident() not in threads


async def test_what_fails_fails_those_who_asked(crew: Crew) -> None:
    """And nobody who asks later."""

    def broken(indices: Sequence[int]) -> list[SignatureResult]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await crew.verify(broken, range(40))
    assert await crew.verify(meeting(threading.Barrier(1)), range(1)) == [RESULTS[0]]


async def test_who_waits_when_it_closes_is_not_left_waiting(crew: Crew) -> None:
    """The threads end what they are at; the rest is cancelled."""
    begun, goes_on = threading.Event(), threading.Event()

    def verify(indices: Sequence[int]) -> list[SignatureResult]:
        begun.set()
        goes_on.wait(20)
        return [SignatureResult.VERIFIED for _ in indices]

    waiting = asyncio.create_task(crew.verify(verify, range(100)))
    await asyncio.to_thread(begun.wait, 20)
    crew.close()
    await asyncio.wait({waiting}, timeout=20)
    goes_on.set()

    assert waiting.cancelled()


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", 8), ("200000 100000", 1), ("50000 100000", 1), ("nonsense", 8)]
)
def test_a_container_has_less_than_its_machine(tmp_path: Path, quota: str, most: int) -> None:
    """What it may use counts: threads beyond that would stop the event loop with themselves."""
    (tmp_path / "cpu.max").write_text(f"{quota}\n")

    assert 1 <= spare_cores(tmp_path / "cpu.max") <= most
    assert spare_cores(tmp_path / "none") == spare_cores(tmp_path / "cpu.max") or most == 1
