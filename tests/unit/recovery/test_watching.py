"""The small watchers: down time, gaps that are lost, silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from relay.errors import QueueError
from relay.model import Gap
from relay.observe.ledger import KONNECT_RETENTION
from relay.observe.metrics import Metrics
from relay.recovery.answers import rfc3339
from relay.recovery.expiry import Expiry
from relay.recovery.heartbeat import BEAT, MARGIN, Heartbeat
from relay.recovery.silence import Silence
from tests.fakes.clock import FakeClock

LOG = structlog.wrap_logger(structlog.testing.CapturingLogger(), wrapper_class=structlog.BoundLogger)


class Notes:
    """The little of a queue that a heartbeat needs."""

    def __init__(self, last: float | None = None) -> None:
        self.last = last
        self.gaps: list[tuple[str, float, float, str, int]] = []
        self.broken = False

    async def beat(self, at: float) -> None:
        if self.broken:
            raise QueueError
        self.last = at

    async def last_beat(self) -> float | None:
        if self.broken:
            raise QueueError
        return self.last

    async def open_gap(self, source: str, start: float, end: float, cause: str, *, refusals: int = 1) -> None:
        self.gaps.append((source, start, end, cause, refusals))


@asynccontextmanager
async def at_work(loop: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    task = asyncio.create_task(loop())
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def heart(notes: Notes, clock: FakeClock) -> Heartbeat:
    return Heartbeat(notes, lambda: ["eu", "us"], clock=clock, log=LOG)


async def test_the_first_start_ever_is_no_down_time() -> None:
    """There is no note, so nobody was missed."""
    notes, clock = Notes(), FakeClock()
    async with at_work(heart(notes, clock).run):
        await clock.next_wake()

        assert notes.gaps == []
        assert notes.last == clock.now()


@pytest.mark.parametrize(("seconds", "opens"), [(MARGIN, False), (MARGIN + 1, True), (8 * 86400.0, True)])
async def test_time_without_a_note_is_a_gap_of_every_source(seconds: float, opens: bool) -> None:
    """From the last note to the start; not where Konnect is still trying."""
    clock = FakeClock()
    notes = Notes(clock.now() - seconds)
    kept = structlog.testing.LogCapture()
    # A logger of its own: another test may have set the level of those that `get_logger` gives.
    log = structlog.wrap_logger(
        None, processors=[kept], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    heartbeat = Heartbeat(notes, lambda: ["eu", "us"], clock=clock, log=log)
    async with at_work(heartbeat.run):
        await clock.next_wake()

    told = {"event": "relay.was_down", "log_level": "warning", "since": rfc3339(clock.now() - seconds)}
    assert kept.entries == ([{**told, "seconds": seconds}] if opens else [])
    span = (clock.now() - seconds, clock.now(), "downtime", 0)
    assert notes.gaps == ([("eu", *span), ("us", *span)] if opens else [])


async def test_it_beats_every_ten_seconds_and_at_the_end() -> None:
    """So down time is known to ten seconds after a crash, and exactly after a stop."""
    notes, clock = Notes(), FakeClock()
    heartbeat = heart(notes, clock)
    async with at_work(heartbeat.run):
        await clock.next_wake()
        await clock.advance(25.0)
        assert notes.last == clock.now() - 5.0
    await heartbeat.end()

    assert notes.last == clock.now()
    assert notes.gaps == []


async def test_a_queue_that_was_away_is_asked_when_it_is_back() -> None:
    """The gap is not forgotten because nobody could be asked at the start."""
    clock = FakeClock()
    notes = Notes(clock.now() - 3600)
    notes.broken = True
    heartbeat = heart(notes, clock)
    await heartbeat.end()  # it never began: nothing to note
    async with at_work(heartbeat.run):
        await clock.next_wake()
        notes.broken = False
        await clock.advance(BEAT)

    assert [gap[0] for gap in notes.gaps] == ["eu", "us"]


async def test_a_machine_that_was_suspended_was_down() -> None:
    """Unless others, on a cluster, went on beating meanwhile."""
    for others in (False, True):
        notes, clock = Notes(), FakeClock()
        async with at_work(heart(notes, clock).run):
            await clock.next_wake()
            clock.jump(600.0)
            if others:
                notes.last = clock.now()
            await clock.advance(BEAT)

        assert bool(notes.gaps) is not others


class Gaps:
    """The little of a queue that expiry needs."""

    def __init__(self, *gaps: Gap) -> None:
        self.open = list(gaps)
        self.closed: dict[int, float | None] = {}

    async def gaps(self) -> list[Gap]:
        return self.open

    async def close_gap(self, number: int, *, at: float, lost_until: float | None = None) -> None:
        del at
        self.closed[number] = lost_until


async def test_only_what_ended_seven_days_ago_is_lost() -> None:
    """A gap of which a part can still be fetched stays open."""
    clock = FakeClock()
    limit = clock.now() - KONNECT_RETENTION
    gaps = Gaps(
        Gap(1, "eu", limit - 100, limit, "429", 1),
        Gap(2, "eu", limit - 100, limit + 1, "429", 1),
        Gap(0, "eu", limit - 100, limit, "500", 1),
    )
    await Expiry(gaps, recovered=lambda: ["eu"], clock=clock, log=LOG).close_lost()

    assert gaps.closed == {1: limit}


@pytest.mark.parametrize(
    ("source", "level", "event"),
    [("eu", "error", "recovery.lost"), ("us", "warning", "recovery.not_attempted")],
)
async def test_what_the_relay_was_not_to_recover_is_no_error(source: str, level: str, event: str) -> None:
    """It is closed as lost all the same; an operator may have replayed it, which the relay cannot know."""
    logged, clock = structlog.testing.CapturingLogger(), FakeClock()
    log = structlog.wrap_logger(logged, processors=[], wrapper_class=structlog.BoundLogger)
    limit = clock.now() - KONNECT_RETENTION
    gaps = Gaps(Gap(1, source, limit - 30, limit, "downtime", 0))
    await Expiry(gaps, recovered=lambda: ["eu"], clock=clock, log=log).close_lost()

    assert gaps.closed == {1: limit}
    ((method, _, said),) = logged.calls
    assert (method, said["event"], said["source"]) == (level, event, source)
    assert ("was not recovered by the relay" in said.get("detail", "")) is (source == "us")


class Received:
    """When something came last."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def last_received(self) -> dict[str, float]:
        return self.last


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def told(metrics: Metrics) -> dict[str, float]:
    text = (await metrics.exposition()).decode()
    pairs = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("relay_source_")]
    return {name: float(value) for name, value in pairs}


async def test_a_silence_is_told_once_at_each_end(clock: FakeClock) -> None:
    """By the source's own limit, counted from the start where nothing ever came."""
    logged = structlog.testing.CapturingLogger()
    log = structlog.wrap_logger(logged, processors=[], wrapper_class=structlog.BoundLogger)
    received, metrics = Received(), Metrics(["eu", "us"], [])
    limits = {"eu": 60.0, "us": None}
    silence = Silence(received, lambda: limits, echo=lambda: None, clock=clock, gauges=metrics, log=log)

    silence.look()
    await clock.advance(61.0)
    silence.look()
    silence.look()
    received.last["eu"] = clock.now()
    silence.look()

    assert [(call.method_name, call.kwargs["event"]) for call in logged.calls] == [
        ("warning", "source.silent"),
        ("info", "source.heard"),
    ]
    series = await told(metrics)
    assert series['relay_source_silence_limit_seconds{source="eu"}'] == 60
    assert series['relay_source_silence_limit_seconds{source="us"}'] == 0


async def test_our_own_call_has_to_come_back(clock: FakeClock) -> None:
    """Any event after it will do; without one the limit counts from the first unanswered call."""
    received, metrics = Received(), Metrics(["eu"], [])
    silence = Silence(received, lambda: {"eu": None}, echo=lambda: 300, clock=clock, gauges=metrics, log=LOG)
    for _ in range(5):
        silence.called("eu")
        await clock.advance(60.0)
    silence.look()
    assert (await told(metrics))['relay_source_echo_missing{source="eu"}'] == 0
    await clock.advance(1.0)
    silence.look()
    assert (await told(metrics))['relay_source_echo_missing{source="eu"}'] == 1

    received.last["eu"] = clock.now()
    silence.look()
    assert (await told(metrics))['relay_source_echo_missing{source="eu"}'] == 0
