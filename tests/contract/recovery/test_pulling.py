"""Pulling the organisation's log into a queue: what it costs, what errors cost, and that all of it comes."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from relay import gzipped
from relay.batch import StoredBatch
from relay.cli.konnect_recovering import PULL_LASTS
from relay.config.queue import SqliteQueueConfig
from relay.config.schema import Config
from relay.errors import QueueError
from relay.konnect.lines import count_formats
from relay.konnect.pulled import line_of
from relay.model import Batch, Receipt
from relay.observe import logs
from relay.observe.metrics import Metrics
from relay.queue.sqlite import SqliteQueue
from relay.recovery.api import KonnectApi
from relay.recovery.by_hand import PullByHand
from relay.recovery.errors import KonnectError, KonnectUnavailable
from relay.recovery.puller import Puller
from relay.recovery.state import Window
from tests.contract.recovery.running import trace, trace_of
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import TOKEN, AuditEvent, FakeKonnect, Fault, Maker
from tests.fakes.konnect.writing import line

LOG = "*/v3/audit-logs"
HOUR = 3600.0


class Counted(SqliteQueue):
    """Counts what is read of the log, and breaks off once after *fails_after* batches."""

    batches_read = 0
    fails_after: int | None = None

    async def received(self, start: float, end: float) -> AsyncGenerator[StoredBatch, None]:
        async with aclosing(super().received(start, end)) as batches:
            async for batch in batches:
                if self.fails_after == 0:
                    self.fails_after = None
                    raise QueueError("the disk is busy")
                if self.fails_after is not None:
                    self.fails_after -= 1
                self.batches_read += 1
                yield batch


@pytest.fixture
async def queue(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Counted]:
    config = SqliteQueueConfig(type="sqlite", path=tmp_path / "relay.db", min_free_disk=0)
    queue = await Counted.open(
        config, clock=clock, metrics=Metrics(["us"], []), deduplicate={"us": 7 * 86_400.0}
    )
    assert isinstance(queue, Counted)
    yield queue
    await queue.close()


class Pulling:
    """A pull from its beginning to its end, and what was told on the way."""

    def __init__(self, api: KonnectApi, queue: SqliteQueue, clock: FakeClock, *, most: int = 1000) -> None:
        self.puller = Puller(api, queue, clock=clock, most=most)
        self.window = Window(clock.now() - HOUR, clock.now())
        self.done: Window | None = None
        self.entries = self.accepted = self.goes = self.errors = 0

    async def told(self, done: Window, entries: int, accepted: int) -> None:
        assert self.done is None or done.start < self.done.start
        self.done = done
        self.entries += entries
        self.accepted += accepted

    async def go(self) -> bool:
        self.goes += 1
        return await self.puller.pull("us", self.window, self.done, self.told)

    async def run(self) -> None:
        """To the end, whatever fails in between."""
        while True:
            try:
                if await self.go():
                    return
            except (KonnectUnavailable, QueueError):
                self.errors += 1


async def receive(
    queue: SqliteQueue, clock: FakeClock, events: Sequence[AuditEvent], *, ago: float = 0.0
) -> None:
    """They came by the webhook, ten at a time, and are stored now."""
    for first in range(0, len(events), 10):
        lines = [line(event, "cef", stamp=clock.now()) for event in events[first : first + 10]]
        body = b"".join([each + b"\n" for each in lines])
        at = clock.now() - ago
        await queue.append([Batch("us", at, count_formats(lines), body, gzip.compress(body), lines)])
    await clock.advance(1.0)


async def stored(queue: SqliteQueue, clock: FakeClock) -> Counter[str]:
    """How often each event is in the queue."""
    found: Counter[str] = Counter()
    async with aclosing(queue.received(0.0, clock.now() + 1.0)) as batches:
        async for batch in batches:
            found.update(trace(each) for each in batch.lines)
    return found


def once(events: Sequence[AuditEvent]) -> Counter[str]:
    return Counter(trace_of(event) for event in events)


async def test_an_error_costs_one_page(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """What was fetched stays fetched, and what was received is not read again."""
    events = Maker().some(5500, at=clock.now() - 3000, every=0.5)
    konnect.record(events)
    await receive(queue, clock, events[:3000])
    await clock.advance(60.0)  # what is younger is looked for again
    konnect.faults.add(Fault("GET", LOG, status=500, after=1))
    konnect.faults.add(Fault("GET", LOG, status=502, after=2))
    konnect.faults.add(Fault("GET", LOG, status=503, after=1))
    pulling = Pulling(api, queue, clock, most=100_000)

    await pulling.run()

    assert pulling.errors == 3
    assert len(konnect.called("GET", "/v3/audit-logs")) <= 6 + 2 * 3
    assert queue.batches_read <= 300
    assert (pulling.accepted, await stored(queue, clock)) == (2500, once(events))


async def test_a_pull_goes_on_in_another_process(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """It needs no more than the window that is done."""
    events = Maker().some(3500, at=clock.now() - 3000, every=0.5)
    konnect.record(events)
    konnect.faults.add(Fault("GET", LOG, status=500, after=2, times=-1))
    first = Pulling(api, queue, clock)
    with pytest.raises(KonnectUnavailable):
        await first.go()
    konnect.faults.clear()
    calls = len(konnect.called("GET", "/v3/audit-logs"))

    second = Pulling(api, queue, clock)
    second.done = first.done
    await second.run()

    assert len(konnect.called("GET", "/v3/audit-logs")) - calls == 2
    assert await stored(queue, clock) == once(events)


async def test_what_a_pull_costs_grows_with_its_window_alone(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """Each batch of the log is read once, each page asked for once, over a whole day."""
    maker = Maker()
    events = [event for hour in range(24) for event in maker.some(200, at=clock.now() - (24 - hour) * HOUR)]
    konnect.record(events)
    await receive(queue, clock, events[::2])
    pulling = Pulling(api, queue, clock, most=100_000)
    pulling.window = Window(clock.now() - 25 * HOUR, clock.now())

    await pulling.run()

    assert len(konnect.called("GET", "/v3/audit-logs")) == 5
    assert queue.batches_read == 240
    assert await stored(queue, clock) == once(events)


async def test_more_than_fits_into_memory_is_pulled_in_parts(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """The newest part first; none of them misses or doubles anything at its ends."""
    events = Maker().some(3000, at=clock.now() - 3500, every=1.0)
    konnect.record(events)
    await receive(queue, clock, [event for number, event in enumerate(events) if number % 3])
    pulling = Pulling(api, queue, clock, most=500)

    await pulling.run()

    assert pulling.goes >= 4
    assert pulling.accepted == 1000
    assert await stored(queue, clock) == once(events)


async def half_pulled(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> tuple[Pulling, AuditEvent]:
    """A pull that broke off, and an event of which there are two; both are older than what is pulled."""
    maker = Maker()
    (twin,) = maker.some(1, at=clock.now() - 2000)
    events = maker.some(2500, at=clock.now() - 1000, every=0.1)
    konnect.record([twin, twin, *events])
    konnect.faults.add(Fault("GET", LOG, status=500, after=1))
    pulling = Pulling(api, queue, clock)
    with pytest.raises(KonnectUnavailable):
        await pulling.go()
    return pulling, twin


async def test_what_a_broken_reading_took_in_is_not_counted_again(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """One of two twins comes while the log is pulled, and the queue fails behind it: the other is pulled."""
    pulling, twin = await half_pulled(api, konnect, queue, clock)
    await receive(queue, clock, [twin])
    await receive(queue, clock, Maker().some(3000, at=clock.now() - HOUR * 3)[-10:])
    queue.fails_after = 2  # behind the first page that was pulled, and the twin

    await pulling.run()

    assert pulling.errors == 1
    assert (await stored(queue, clock))[trace_of(twin)] == 2


async def test_what_was_stored_while_the_log_was_read_is_not_missed(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """It came before the reading and was stored behind it, so it is found by the next one, and once."""
    pulling, twin = await half_pulled(api, konnect, queue, clock)
    await receive(queue, clock, [twin], ago=20.0)
    konnect.faults.add(Fault("GET", LOG, status=500, after=0))

    await pulling.run()

    assert pulling.errors == 1
    assert (await stored(queue, clock))[trace_of(twin)] == 2


async def test_a_clock_that_is_set_back_has_nothing_counted_twice(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """What was read before the step is not read once more when the clock passes the same time again."""
    pulling, twin = await half_pulled(api, konnect, queue, clock)
    await receive(queue, clock, [twin])
    konnect.faults.add(Fault("GET", LOG, status=500, after=0, times=2))
    for step in (-600.0, 1200.0):
        with pytest.raises(KonnectUnavailable):
            await pulling.go()
        clock.jump(step)

    await pulling.run()

    assert (await stored(queue, clock))[trace_of(twin)] == 2


async def test_what_came_before_the_clock_was_set_back_is_not_pulled(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """By the clock as it is now that was in the future."""
    events = Maker().some(50, at=clock.now() - 2000)
    konnect.record(events)
    await receive(queue, clock, events)
    clock.jump(-600.0)
    pulling = Pulling(api, queue, clock)

    await pulling.run()

    assert (pulling.entries, pulling.accepted) == (50, 0)


async def test_twins_on_two_pages_are_counted_together(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """The end of a page falls into a millisecond, before and after an error."""
    maker = Maker()
    (twin,) = maker.some(1, at=clock.now() - 1000)
    events = [*maker.some(997, at=clock.now() - 2000), *[twin] * 5, *maker.some(998, at=clock.now() - 500)]
    konnect.record(events)
    await receive(queue, clock, [twin])
    konnect.faults.add(Fault("GET", LOG, status=500, after=1))
    pulling = Pulling(api, queue, clock)

    await pulling.run()

    assert pulling.errors == 1
    assert await stored(queue, clock) == once(events)


async def test_entries_of_a_part_of_a_millisecond_are_not_passed_over(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """A pull goes on at the millisecond's end: Konnect's times may be finer than ours."""
    events = Maker().some(1500, at=clock.now() - 1000)
    konnect.record(events)
    konnect.faults.add(Fault("GET", LOG, status=500, after=1))
    pulling = Pulling(api, queue, clock)
    with pytest.raises(KonnectUnavailable):
        await pulling.go()
    await pulling.run()

    assert pulling.done is not None
    asked = [call.query["filter[ts][lte]"] for call in konnect.called("GET", "/v3/audit-logs")]
    held = events[500].at  # the first page's oldest: it is asked for again with the whole of its millisecond
    assert asked[-1].endswith(f".{(held + 1) % 1000:03d}Z")
    assert await stored(queue, clock) == once(events)


async def test_pages_in_a_circle_are_left_by_the_time(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """Each go brings a page; where none brings any, that is an error."""
    events = Maker().some(2500, at=clock.now() - 1000)
    konnect.record(events)
    konnect.pull.cursor_form = "repeated"
    pulling = Pulling(api, queue, clock)

    await pulling.run()

    assert await stored(queue, clock) == once(events)

    (twin,) = Maker().some(1, at=clock.now() - 100)
    konnect.record([twin] * 1500)
    with pytest.raises(KonnectError, match="circle"):
        await Pulling(api, queue, clock).go()


async def test_a_log_in_another_order_is_not_taken_for_whole(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """How far a pull has come is told by the time alone."""
    body = b'{"data":[{"ts":"2025-06-15T15:00:00Z"},{"ts":"2025-06-15T15:00:01Z"}],"meta":{"page":{}}}'
    konnect.faults.add(Fault("GET", LOG, status=200, body=body))

    with pytest.raises(KonnectError, match="newest first"):
        await Pulling(api, queue, clock).go()


async def test_entries_without_a_time_do_not_gather_in_memory(
    api: KonnectApi, konnect: FakeKonnect, queue: Counted, clock: FakeClock
) -> None:
    """How far a pull has come could not be told; so it ends at their first page, whatever came before."""
    for before in ("", '{"ts":"2025-06-15T15:00:01Z"},{"ts":"2025-06-15T15:00:00Z"}'):
        konnect.faults.clear()
        bodies = [before, *['{"ts":"yesterday"},{}'] * 5] if before else ['{"ts":"yesterday"},{}'] * 5
        for number, entries in enumerate(bodies):
            body = (
                f'{{"data":[{entries}],"meta":{{"page":{{"next":"/v3/audit-logs?page[after]=c{number}"}}}}}}'
            )
            konnect.faults.add(Fault("GET", LOG, status=200, body=body.encode()))
        calls = len(konnect.called("GET", LOG[1:]))

        with pytest.raises(KonnectError, match="no time"):
            await Pulling(api, queue, clock).go()

        assert len(konnect.called("GET", LOG[1:])) - calls == (2 if before else 1)


async def test_pages_are_worked_through_beside_the_intake(
    api: KonnectApi,
    konnect: FakeKonnect,
    queue: Counted,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What takes long, writing and compressing a thousand lines, is not done where Konnect is answered."""
    events = Maker().some(1500, at=clock.now() - 1000)
    konnect.record(events)
    threads: set[int] = set()

    def noted(function: Callable[..., bytes]) -> Callable[..., bytes]:
        def noting(*arguments: Any) -> bytes:
            threads.add(threading.get_ident())
            return function(*arguments)

        return noting

    monkeypatch.setattr("relay.recovery.puller.line_of", noted(line_of))
    monkeypatch.setattr(gzipped, "compress", noted(gzipped.compress))

    await Pulling(api, queue, clock).run()

    assert threads
    assert threading.get_ident() not in threads
    assert await stored(queue, clock) == once(events)


class Slow(Counted):
    """Each append lasts a quarter of an hour."""

    clock: FakeClock

    async def append(self, batches: Sequence[Batch]) -> Receipt:
        await self.clock.advance(900.0)
        return await super().append(batches)


async def test_a_pull_by_hand_is_answered_before_nobody_waits_for_it(
    konnect: FakeKonnect, tmp_path: Path, clock: FakeClock
) -> None:
    """It says how far it came, and the next call goes on from there."""
    events = Maker().some(4500, at=clock.now() - 1000, every=0.1)
    konnect.record(events)
    konnect.pull.cursor_form = "repeated"  # each go is short
    settings = {"region": "us", "token": TOKEN, "source": "us", "regional_url": konnect.url()}
    config = Config.model_validate(
        {
            "sources": [{"name": "us", "authorization": "Bearer x"}],
            "destinations": [{"name": "siem", "type": "http"}],
            "recovery": {"konnect": settings},
        }
    )
    metrics = Metrics(["us"], [])
    queue = await Slow.open(
        SqliteQueueConfig(type="sqlite", path=tmp_path / "relay.db", min_free_disk=0),
        clock=clock,
        metrics=metrics,
        deduplicate={"us": 7 * 86_400.0},
    )
    assert isinstance(queue, Slow)
    queue.clock = clock
    by_hand = PullByHand(queue, clock=clock, tally=metrics, log=logs.configure("error"))
    start, end = clock.now() - HOUR, clock.now()

    lasted, accepted, reached = [], 0, end
    while reached > start:
        began, before = clock.monotonic(), reached
        _, _, new, reached = await by_hand.pull(config, None, Window(start, before))
        lasted.append(clock.monotonic() - began)
        accepted += new
        assert reached < before
    found = await stored(queue, clock)
    await queue.close()

    assert len(lasted) > 1
    assert max(lasted) < PULL_LASTS
    assert (accepted, reached, found) == (len(events), start, once(events))
