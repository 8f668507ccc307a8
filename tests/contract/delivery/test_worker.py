"""Order, isolation, restarts, lanes: what the worker does around the outcomes."""

from __future__ import annotations

import asyncio

from relay.batch import Chunk
from relay.destinations.base import (
    Delivered,
    Outcome,
    Partial,
    ProbeReport,
    Rejection,
    Throttled,
    Transient,
)
from relay.model import (
    DestinationState,
    Event,
    HoldReason,
    ReaderKind,
    Reason,
    Response,
    RetryState,
    Sighting,
)
from relay.queue.base import DeadLetterFilter
from tests.contract.delivery.rig import Rig
from tests.fakes.chunks import sample
from tests.fakes.events import NOW
from tests.fakes.siem import Answer, Received, Siem


async def test_batches_that_pile_up_go_out_together(rig: Rig, siem: Siem) -> None:
    """While a request is in the air new batches wait and fill the next one; bytes arrive as they came."""
    answer = asyncio.Event()
    siem.answer(200, after=answer)
    await rig.start(url=siem.url)
    await rig.append(3)
    await siem.received(1)
    for _ in range(10):
        await rig.append(100)
    answer.set()
    await rig.drained()

    assert [len(r.lines()) for r in siem.requests] == [3, 1000]
    assert siem.lines() == rig.sent


async def test_chunks_respect_both_limits(rig: Rig, siem: Siem) -> None:
    """Neither more events nor more bytes than configured, unless one event alone is larger."""
    worker = await rig.start(url=siem.url, batch={"max_events": 7, "max_bytes": 1024})
    await rig.append_lines([b"x" * 100] * 20 + [b"y" * 2000] + [b"z" * 500] * 3)
    await rig.drained()

    assert [len(r.lines()) for r in siem.requests] == [7, 7, 6, 1, 2, 1]
    assert siem.lines() == rig.sent
    assert worker.state is DestinationState.ACTIVE


async def test_a_restart_resumes_the_schedule(rig: Rig, siem: Siem) -> None:
    """A crash after two failed attempts neither forgets them nor the time of the third."""
    siem.then(503)
    worker = await rig.start(url=siem.url)
    await rig.append(10)
    assert await rig.waits(1) == [1]
    await siem.received(2)
    assert await rig.clock.next_wake() == 2

    await rig.clock.advance(0.5)
    await rig.kill()
    await rig.restart_queue()
    worker = await rig.start(url=siem.url)
    await rig.until(lambda: worker.state is DestinationState.RETRYING)

    assert await rig.waits(3) == [1.5, 4, 8]
    await rig.until(lambda: worker.state is DestinationState.HELD)
    assert len(siem.requests) == 5


async def test_a_clock_set_back_does_not_stop_delivery_for_hours(rig: Rig, siem: Siem) -> None:
    """A stored next attempt that lies absurdly far ahead is waited for five minutes at most."""
    await rig.start(url=siem.url)
    await rig.stop()
    (reader,) = rig.queue.readers("siem")
    await reader.retry_later(RetryState(1, NOW + 86_400))
    await rig.append(1)
    await rig.start(url=siem.url)

    assert await rig.waits(1) == [300]
    await rig.drained()


async def test_a_clock_set_back_while_waiting_changes_nothing(rig: Rig, siem: Siem) -> None:
    """A wait goes by elapsed time."""
    siem.answer(503)
    await rig.start(url=siem.url)
    await rig.append(1)
    assert await rig.clock.next_wake() == 1
    rig.clock.jump(-7200)
    assert await rig.waits(1) == [1]
    await rig.drained()


async def test_a_held_destination_is_probed_at_once_after_a_restart(rig: Rig, siem: Siem) -> None:
    """A restart is often what mends things, so it does not wait for the next probe."""
    siem.answer(401, times=2)
    worker = await rig.start(url=siem.url)
    await rig.append(30)
    await rig.until(lambda: worker.state is DestinationState.HELD)
    hold = rig.queue.hold("siem")
    await rig.kill()
    await rig.restart_queue()
    assert rig.queue.hold("siem") == hold

    worker = await rig.start(url=siem.url)
    await siem.received(2)
    assert await rig.waits(1) == [30]  # that probe failed
    await rig.drained()
    assert [len(r.lines()) for r in siem.requests[:3]] == [30, 10, 10]


async def test_an_operators_hold_survives_a_restart_and_is_never_probed(rig: Rig, siem: Siem) -> None:
    """Only `resume` ends it; the events are all there then."""
    worker = await rig.start(url=siem.url)
    await rig.hold(detail="maintenance of the SIEM")
    assert worker.state is DestinationState.PAUSED
    await rig.append(25)
    await rig.kill()
    await rig.restart_queue()

    worker = await rig.start(url=siem.url)
    await rig.until(lambda: worker.state is DestinationState.PAUSED)
    await rig.clock.advance(3600)
    hold = rig.queue.hold("siem")
    assert hold is not None
    assert (hold.reason, hold.detail) == (HoldReason.OPERATOR, "maintenance of the SIEM")
    assert (rig.clock.sleepers, siem.requests, rig.books().backlog) == (0, [], 25)

    await rig.resume()
    await rig.drained()
    assert [len(r.lines()) for r in siem.requests] == [10, 15]
    assert rig.queue.hold("siem") is None


async def test_resume_ends_a_wait(rig: Rig, siem: Siem) -> None:
    """An operator who has mended the SIEM does not wait for the schedule, which starts anew."""
    siem.answer(503)
    worker = await rig.start(url=siem.url)
    await rig.append(3)
    assert await rig.clock.next_wake() == 1
    await rig.resume()
    await rig.drained()

    assert worker.state is DestinationState.ACTIVE


async def test_resume_while_a_retry_is_in_the_air(rig: Rig, siem: Siem) -> None:
    """The schedule starts anew, and the success of the request in the air changes nothing more."""
    answer = asyncio.Event()
    siem.answer(503).answer(200, after=answer)
    worker = await rig.start(url=siem.url)
    await rig.append(3)
    assert await rig.waits(1) == [1]
    await siem.received(2)
    await rig.resume()
    assert rig.queue.readers("siem")[0].retry == RetryState()
    answer.set()
    await rig.drained()

    assert worker.state is DestinationState.ACTIVE


async def test_a_hold_lets_the_request_in_the_air_land(rig: Rig, siem: Siem) -> None:
    """What was already sent is booked; nothing follows it, and success does not end the hold."""
    answer = asyncio.Event()
    siem.answer(200, after=answer)
    worker = await rig.start(url=siem.url)
    await rig.append(3)
    await siem.received(1)
    await rig.append(4)
    await rig.hold()
    answer.set()
    await rig.until(lambda: rig.books().delivered == 3)

    assert worker.state is DestinationState.PAUSED
    assert rig.books().backlog == 4


async def test_a_stop_within_the_grace_period_lets_requests_finish(rig: Rig, siem: Siem) -> None:
    """SIGTERM waits for the answer and books it; nothing more is read."""
    answer = asyncio.Event()
    siem.answer(200, after=answer)
    await rig.start(url=siem.url)
    await rig.append(3)
    await siem.received(1)
    await rig.append(4)
    async with asyncio.TaskGroup() as group:
        group.create_task(rig.stop())
        group.create_task(_set(answer))

    assert (rig.books().delivered, rig.books().backlog) == (3, 4)


async def _set(event: asyncio.Event) -> None:
    event.set()


async def test_a_cancelled_request_spends_no_attempt(rig: Rig, siem: Siem) -> None:
    """A hanging request is cut off when the grace period ends, and its events stay as they were."""
    siem.hang(times=1)
    await rig.start(url=siem.url)
    await rig.append(3)
    await siem.received(1)
    await rig.stop(grace=5, overdue=True)

    assert rig.queue.readers("siem")[0].retry == RetryState()
    assert rig.metrics.attempts == []
    assert rig.books().backlog == 3
    await rig.start(url=siem.url)
    await rig.drained()


async def test_a_hanging_destination_does_not_disturb_the_other(rig: Rig, siem: Siem) -> None:
    """One SIEM takes requests and never answers; the other gets everything meanwhile."""
    async with Siem() as tarpit:
        tarpit.then(Answer(hang=True))
        await rig.start(url=siem.url)
        await rig.start("other", url=tarpit.url)
        for _ in range(5):
            await rig.append(100)
        await rig.drained()

        assert siem.lines() == rig.sent
        assert rig.books("other").backlog == 500
        await rig.kill("other")


async def test_several_requests_in_the_air_keep_a_contiguous_watermark(rig: Rig, siem: Siem) -> None:
    """Three at once, the first fails: one attempt is counted, the others settle, nothing comes twice."""
    answer = asyncio.Event()

    def behave(request: Received) -> Answer:
        first = request.lines()[0] == rig.sent[0] and len(siem.requests) <= 3
        return Answer(503, after=answer) if first else Answer(after=answer)

    siem.then(behave)
    worker = await rig.start(url=siem.url, max_in_flight=3, batch={"max_events": 10})
    for _ in range(3):
        await rig.append(10)
    await siem.received(3)
    began = rig.queue.readers("siem")[0].watermark
    answer.set()
    await rig.until(lambda: worker.state is DestinationState.RETRYING)
    await rig.until(lambda: len(rig.metrics.attempts) == 3)
    assert rig.queue.readers("siem")[0].watermark == began  # the first ten are still owed
    assert rig.queue.readers("siem")[0].retry.attempts == 1
    assert await rig.waits(1) == [1]
    await rig.drained()

    assert sorted(siem.lines()) == sorted(rig.sent)
    assert rig.books().delivered == 30


async def test_requests_that_fail_together_cost_one_attempt(rig: Rig, siem: Siem) -> None:
    """An outage that hits four requests at once has not used up four retries."""
    answer = asyncio.Event()
    siem.act(Answer(503, after=answer), times=4)
    await rig.start(url=siem.url, max_in_flight=4, batch={"max_events": 10})
    for _ in range(4):
        await rig.append(10)
    await siem.received(4)
    answer.set()

    assert await rig.waits(1) == [1]
    await rig.drained()
    assert len(siem.requests) >= 8
    assert sorted(siem.lines()) == sorted(rig.sent)


async def test_filtered_events_are_booked_and_not_sent(rig: Rig, siem: Siem) -> None:
    """Ranges of filtered events only are settled without a request."""
    await rig.start(url=siem.url, filter={"sources": ["us"]})
    await rig.append(10)
    await rig.append(5, source="us")
    await rig.append(10)
    await rig.drained()

    assert siem.lines() == rig.sent[10:15]
    assert (rig.books().delivered, rig.books().filtered) == (5, 20)


async def test_a_filter_with_holes_bisects_and_books_exactly(rig: Rig, siem: Siem) -> None:
    """Filtered events between delivered and poisonous ones are each counted once."""
    siem.then(lambda request: Answer(400) if b"bad" in request.body else Answer())
    await rig.start(url=siem.url, filter={"names": ["keep*", "bad"]})
    names = ["drop", "keep1", "drop", "drop", "bad", "keep2", "drop", "keep3", "bad", "drop"]
    await rig.append_lines([b'{"name":"%s","n":%d}' % (n.encode(), i) for i, n in enumerate(names)])
    await rig.drained()

    assert [line.split(b'"')[3] for line in siem.lines()] == [b"keep1", b"keep2", b"keep3"]
    assert (rig.books().delivered, rig.books().filtered, rig.books().dead) == (3, 5, 2)


class Buggy:
    """A destination with a bug that a test can mend."""

    event_overhead = 0

    def __init__(self) -> None:
        self.broken = True
        self.lines: list[bytes] = []

    def part(self, event: Event) -> bytes:
        return event.line

    async def open(self) -> None: ...

    async def send(self, chunk: Chunk) -> Outcome:
        if self.broken:
            raise KeyError("secret")
        self.lines += chunk.lines()
        return Delivered(Response("ok", 200))

    async def probe(self) -> ProbeReport:
        return ProbeReport(ok=True, detail="")

    async def close(self) -> None: ...


class Scripted:
    """A destination that answers what a test has written down, then that all is well."""

    event_overhead = 0

    def __init__(self, *script: Outcome) -> None:
        self.script = list(script)
        self.chunks: list[list[bytes]] = []

    def part(self, event: Event) -> bytes:
        return event.line

    async def open(self) -> None: ...

    async def send(self, chunk: Chunk) -> Outcome:
        self.chunks.append(list(chunk.lines()))
        return self.script.pop(0) if self.script else Delivered(OK)

    async def probe(self) -> ProbeReport:
        return ProbeReport(ok=True, detail="")

    async def close(self) -> None: ...


OK = Response("ok", 200)
BAD = Response("some failed", 200)
REFUSED = Rejection(3, Reason.REJECTED, "no such field")


async def test_scattered_partial_success_resends_only_what_is_missing(rig: Rig) -> None:
    """Items that were throttled wait for their time, in one request; the others never go out again."""
    fake = Scripted(Partial(BAD, (0, 2, 5), (REFUSED,), Throttled(Response("slow down", 429), 9.0)))
    await rig.start("other", destination=fake)
    sent = await rig.append(6)
    assert await rig.waits(1) == [9]
    await rig.drained("other")

    assert fake.chunks == [sent, [sent[1], sent[4]]]
    (letter,) = await rig.dead_letters()
    assert (letter.event and letter.event.line, letter.detail) == (sent[3], "no such field")
    assert (rig.books("other").delivered, rig.books("other").dead) == (5, 1)


async def test_partial_success_with_nothing_left(rig: Rig) -> None:
    """Where each event has its own verdict and none is open, filtered ones behind them are booked too."""
    fake = Scripted(Partial(BAD, (0,), (Rejection(1, Reason.REJECTED, "no"),)))
    await rig.start("other", destination=fake, filter={"names": ["yes"]})
    await rig.hold("other")
    await rig.append_lines([b'{"name":"%s"}' % name for name in (b"no", b"yes", b"yes", b"no")])
    await rig.append_lines([b'{"name":"no"}'] * 3)
    await rig.resume("other")
    await rig.drained("other")

    books = rig.books("other")
    assert (books.delivered, books.dead, books.filtered, len(fake.chunks)) == (1, 1, 5, 1)


async def test_partial_success_whose_rest_is_not_retried(rig: Rig) -> None:
    """With `on` and `on_exhausted` set so, the rest becomes dead letters at once."""
    fake = Scripted(Partial(BAD, (0,), (), Transient(Response("later", 503))))
    await rig.start("other", destination=fake, retry={"on": ["429"], "on_exhausted": "dead_letter"})
    await rig.append(3)
    await rig.drained("other")

    assert [letter.reason for letter in await rig.dead_letters()] == [Reason.EXHAUSTED] * 2
    assert (rig.books("other").delivered, rig.books("other").dead) == (1, 2)


async def test_a_success_while_another_request_failed_keeps_the_schedule(rig: Rig) -> None:
    """The head's attempts are its own: what succeeds behind it neither counts nor resets them."""
    fake = Scripted(Transient(Response("down", 503)), Transient(Response("down", 503)))
    worker = await rig.start("other", destination=fake)
    await rig.append(2)
    assert await rig.waits(1) == [1]
    assert await rig.clock.next_wake() == 2
    assert rig.queue.readers("other")[0].retry.attempts == 2
    assert "retrying" in repr(worker)
    assert worker.sighting == Sighting(NOW + 1, 503, "down")


async def test_a_repeated_failure_is_logged_loudly_once(rig: Rig, siem: Siem) -> None:
    """An outage is one warning, then debug lines, until something else happens."""
    siem.answer(503, times=3)
    await rig.start(url=siem.url)
    await rig.append(1)
    await rig.waits(3)
    await rig.drained()

    attempts = [line for line in rig.log_lines() if b"delivery.attempted" in line]
    levels = [line.split(b'"level":"')[1].split(b'"')[0] for line in attempts]
    assert levels == [b"warning", b"debug", b"debug", b"info"]
    assert not any(rig.sent[0] in line or siem.url.encode() in line for line in attempts)


async def test_a_bug_stops_one_destination_for_a_moment(rig: Rig, siem: Siem) -> None:
    """It is restarted after 1, 2, 4 … s, visibly; nothing is lost, and the others never notice."""
    buggy = Buggy()
    worker = await rig.start("other", destination=buggy)
    await rig.start(url=siem.url)
    await rig.append(10)
    await rig.drained()
    assert await rig.waits(3) == [1, 2, 4]
    assert await rig.clock.next_wake() == 8
    assert (worker.crashes, worker.last_error) == (4, "KeyError")

    buggy.broken = False
    await rig.waits(1)
    await rig.drained("other")
    assert buggy.lines == rig.sent
    assert b"delivery.crashed" in rig.log_stream.getvalue()


async def test_stop_ends_the_pause_after_a_crash(rig: Rig) -> None:
    """A worker that waits for its restart does not hold up the shutdown."""
    worker = await rig.start("other", destination=Buggy())
    await rig.append(1)
    await rig.clock.next_wake()
    await rig.stop("other")

    assert worker.crashes == 1


async def test_linger_collects_a_chunk(rig: Rig, siem: Siem) -> None:
    """An idle destination waits `linger` for more before it sends, and not at all for a full chunk."""
    await rig.start(url=siem.url, batch={"linger": "2s", "max_events": 10})
    await rig.append(3)
    assert await rig.clock.next_wake() == 2
    await rig.append(4)
    await rig.clock.advance(1)
    assert await rig.clock.next_wake() == 1
    assert siem.requests == []
    await rig.clock.advance(1)
    await rig.drained()
    await rig.append(10)
    await rig.drained()

    assert [len(r.lines()) for r in siem.requests] == [7, 10]


async def test_a_replay_runs_beside_the_live_events_at_its_rate(rig: Rig, siem: Siem) -> None:
    """100 events at 20 a second take five chunks a second apart; live events do not wait for them."""
    await rig.start(url=siem.url)
    replayed = await rig.append(100)
    await rig.drained()
    await rig.queue.replay("siem", NOW - 1, NOW + 1, 20.0)

    assert await rig.clock.next_wake() == 1
    live = await rig.append(5)
    await siem.received_lines(125)
    assert await rig.waits(4) == [1, 1, 1, 1]
    await siem.received_lines(205)
    await rig.until(lambda: rig.books().replayed == 100)

    assert siem.lines()[100:] == [*replayed[:20], *live, *replayed[20:]]
    assert rig.books().delivered == 105


async def test_a_redrive_starts_by_itself_and_finishes(rig: Rig, siem: Siem) -> None:
    """Dead letters that are sent again reach the mended SIEM; the books then show them delivered."""
    siem.answer(400)
    await rig.start(url=siem.url)
    await rig.append(1)
    await rig.drained()
    assert rig.books().dead == 1

    assert await rig.queue.redrive(DeadLetterFilter()) == 1
    await rig.until(lambda: rig.books().dead == 0)

    assert siem.lines() == rig.sent
    assert rig.books().delivered == 1

    await rig.append(1)
    await rig.drained()  # by then the loop has looked at its lanes again
    assert [reader.kind for reader in rig.queue.readers("siem")] == [ReaderKind.LIVE]


async def test_a_backfill_is_not_starved_by_steady_live_events(rig: Rig, siem: Siem) -> None:
    """While the live lane always has something new, the other one still gets every fifth turn."""
    await rig.append(100)
    old = list(rig.sent)
    await rig.start(url=siem.url, start_from="earliest", batch={"max_events": 10})
    await rig.hold()
    for _ in range(12):
        await rig.append(10)
    await rig.resume()
    await rig.drained()

    turns = ["old" if r.lines()[0] in old else "live" for r in siem.requests]
    assert turns[:10] == ["live", "live", "live", "live", "old"] * 2
    assert siem.lines()[-1] in old
    assert sorted(siem.lines()) == sorted(rig.sent)


async def test_a_filter_that_lets_nothing_through_holds_nothing(rig: Rig, siem: Siem) -> None:
    """What is left out is settled as it is read, and none of it stays in memory."""
    await rig.queue.attach("siem", "now")
    for _ in range(200):
        await rig.append(50)
    worker = await rig.start(url=siem.url, filter={"types": ["authentication"]})
    await rig.drained()

    assert rig.books().filtered == 10_000
    assert siem.requests == []
    assert worker.crashes == 0


async def test_a_sparse_filter_sends_before_it_holds_too_much(rig: Rig, siem: Siem) -> None:
    """One event in a thousand is wanted: requests go out smaller rather than hold the whole log."""
    await rig.queue.attach("siem", "now")
    wanted = sample("cef")[0]
    for n in range(60):
        padding = [b"%s pad=%d-%d-%s" % (sample("cef")[11], n, m, b"x" * 2000) for m in range(200)]
        await rig.append_lines([*padding, wanted + b" n=%d" % n])
    await rig.start(url=siem.url, filter={"types": ["authentication"]})
    await rig.drained()

    assert sum(len(request.lines()) for request in siem.requests) == 60
    assert len(siem.requests) > 2
