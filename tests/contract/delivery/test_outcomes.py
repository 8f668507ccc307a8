"""Each row of the table in architecture.md section 5, against a real SIEM, with exact waits."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from relay.model import DestinationState, HoldReason, Reason
from tests.contract.delivery.rig import Rig
from tests.fakes.siem import Answer, Received, Siem

POISON = b"poison"


def refuses_poison(request: Received) -> Answer:
    """A SIEM that answers 400 to any request with a poisonous event in it."""
    return Answer(400, b"cannot parse") if POISON in request.body else Answer()


def takes_at_most(events: int) -> object:
    def limit(request: Received) -> Answer:
        return Answer(413) if len(request.lines()) > events else Answer()

    return limit


async def test_siem_down_for_the_whole_run(rig: Rig, siem: Siem) -> None:
    """Four retries after 1, 2, 4 and 8 s, then one small probe every 30 s; nothing is spent."""
    siem.then(500)
    worker = await rig.start(url=siem.url)
    await rig.append(100)
    assert await rig.waits(4) == [1, 2, 4, 8]

    await rig.until(lambda: worker.state is DestinationState.HELD)
    assert await rig.waits(3) == [30, 30, 30]
    await siem.received(8)

    assert [len(r.lines()) for r in siem.requests[:5]] == [100] * 5
    assert [len(r.lines()) for r in siem.requests[5:8]] == [10] * 3
    hold = rig.queue.hold("siem")
    assert hold is not None
    assert hold.reason is HoldReason.EXHAUSTED
    assert (rig.books().owed, rig.books().backlog, rig.books().dead) == (100, 100, 0)


async def test_nobody_listens_and_then_somebody_does(rig: Rig, siem: Siem) -> None:
    """A refused connection is trouble like any other; the first probe that succeeds drains the backlog."""
    await siem.close()
    worker = await rig.start(url=siem.url)
    for _ in range(10):
        await rig.append(100)
    assert await rig.waits(4) == [1, 2, 4, 8]
    await rig.until(lambda: worker.state is DestinationState.HELD)

    await siem.start(siem.port)
    await rig.waits(1)
    await rig.drained()

    sizes = [len(r.lines()) for r in siem.requests]
    assert sizes[:4] == [10, 20, 40, 30]  # the probe, then doubling within the batch it began
    assert all(size <= 10 * 2**n for n, size in enumerate(sizes))
    assert siem.lines() == rig.sent
    assert worker.state is DestinationState.ACTIVE
    assert rig.queue.hold("siem") is None
    assert rig.books().delivered == 1000


async def test_siem_hangs(rig: Rig, siem: Siem) -> None:
    """A request without an answer ends with its time-out and is sent again."""
    siem.hang(times=1)
    await rig.start(url=siem.url, timeout="2s")
    await rig.append(10)
    assert await rig.waits(1) == [1]
    await rig.drained()

    assert [a[1] for a in rig.metrics.attempts] == ["transient", "delivered"]
    assert siem.lines() == rig.sent


async def test_siem_resets_in_the_middle_of_its_answer(rig: Rig, siem: Siem) -> None:
    """Half an answer is no answer: the events are sent again."""
    siem.act(Answer(200, b"x" * 100, cut_after=50), times=2)
    await rig.start(url=siem.url)
    await rig.append(10)
    assert await rig.waits(2) == [1, 2]
    await rig.drained()

    assert [len(r.lines()) for r in siem.requests] == [10, 10, 10]
    assert rig.books().delivered == 10


@pytest.mark.parametrize(("seconds", "wait"), [("7", 7.0), ("0", 1.0), ("100000", 300.0)])
async def test_retry_after_in_seconds(rig: Rig, siem: Siem, seconds: str, wait: float) -> None:
    """429 with Retry-After waits as asked: never less than the schedule, never over `max_retry_after`."""
    siem.answer(429, headers={"Retry-After": seconds})
    await rig.start(url=siem.url)
    await rig.append(10)
    assert await rig.waits(1) == [wait]
    await rig.drained()

    assert rig.books().delivered == 10


async def test_retry_after_as_a_date(rig: Rig, siem: Siem) -> None:
    """The other form of the header means the same."""
    until = datetime.fromtimestamp(rig.clock.now() + 90, UTC)
    siem.answer(429, headers={"Retry-After": format_datetime(until, usegmt=True)})
    await rig.start(url=siem.url)
    await rig.append(10)

    assert await rig.waits(1) == [90]
    await rig.drained()


async def test_a_few_server_errors(rig: Rig, siem: Siem) -> None:
    """500 three times costs 1 + 2 + 4 s and nothing else; the schedule then starts anew."""
    siem.answer(500, times=3)
    worker = await rig.start(url=siem.url)
    await rig.append(10)
    assert await rig.waits(3) == [1, 2, 4]
    await rig.drained()
    await rig.until(lambda: worker.state is DestinationState.ACTIVE)

    siem.answer(502)
    await rig.append(10)
    assert await rig.waits(1) == [1]
    await rig.drained()
    assert rig.queue.readers("siem")[0].retry.attempts == 0
    assert [a[3] for a in rig.metrics.attempts] == [False, True, True, True, False, True]


async def test_wrong_token_then_the_right_one(rig: Rig, siem: Siem) -> None:
    """401 holds at once without spending a retry; the next probe finds the token mended."""
    siem.answer(401)
    worker = await rig.start(url=siem.url)
    await rig.append(25)
    await rig.until(lambda: worker.state is DestinationState.HELD)
    hold = rig.queue.hold("siem")
    assert hold is not None
    assert hold.reason is HoldReason.MISCONFIGURED

    assert await rig.waits(1) == [30]
    await rig.drained()

    assert [len(r.lines()) for r in siem.requests] == [25, 10, 15]
    assert siem.lines() == rig.sent
    assert rig.books().dead == 0


async def test_too_large_is_halved_until_it_fits(rig: Rig, siem: Siem) -> None:
    """413 halves the chunk; nothing waits and nothing is lost."""
    siem.then(takes_at_most(30))  # type: ignore[arg-type]  # a behaviour, see there
    await rig.start(url=siem.url)
    await rig.append(100)
    await rig.drained()

    assert [len(r.lines()) for r in siem.requests] == [100, 50, 25, 25, 50, 25, 25]
    assert siem.lines() == rig.sent


async def test_one_event_too_large(rig: Rig, siem: Siem) -> None:
    """An event that is too large on its own becomes a dead letter, the others go through."""
    siem.then(lambda request: Answer(413) if len(request.body) > 3000 else Answer())
    await rig.start(url=siem.url)
    small = [b"a" * 300, b"b" * 300, b"c" * 300]
    await rig.append_lines([small[0], b"x" * 5000, *small[1:]])
    await rig.drained()

    assert siem.lines() == small
    (letter,) = await rig.dead_letters()
    assert (letter.reason, letter.status) == (Reason.TOO_LARGE, 413)


async def test_one_poisonous_event(rig: Rig, siem: Siem) -> None:
    """A 400 is bisected down to the one bad event; its dead letter tells why."""
    siem.then(refuses_poison)
    await rig.start(url=siem.url)
    good = await rig.append(50)
    bad = (await rig.append_lines([b"this is poison"]))[0]
    more = await rig.append(49)
    await rig.drained()

    assert siem.lines() == [*good, *more]
    (letter,) = await rig.dead_letters()
    assert letter.event is not None
    assert letter.event.line == bad
    assert (letter.reason, letter.status, letter.excerpt, letter.attempts) == (
        Reason.REJECTED,
        400,
        b"cannot parse",
        1,
    )
    assert (rig.books().delivered, rig.books().dead) == (99, 1)
    assert not any(b"this is poison" in line for line in rig.log_lines())


async def test_poison_while_bisecting_meets_an_outage(rig: Rig, siem: Siem) -> None:
    """Trouble in the middle of a bisection waits by the schedule and goes on where it was."""
    siem.act(refuses_poison).answer(200).answer(503).then(refuses_poison)
    await rig.start(url=siem.url)
    await rig.append_lines([b"1", b"2", b"3", b"4", b"poison", b"6", b"7", b"8"])
    assert await rig.waits(1) == [1]
    await rig.drained()

    assert [len(r.lines()) for r in siem.requests] == [8, 4, 4, 4, 2, 1, 1, 2]
    assert siem.lines() == [line for line in rig.sent if line != b"poison"]
    assert (rig.books().delivered, rig.books().dead) == (7, 1)


async def test_partial_success_of_splunk(rig: Rig, siem: Siem) -> None:
    """Splunk names the bad event: those before it are settled, it is set aside, the rest is resent."""
    siem.answer(400, body='{"text":"Invalid data format","code":6,"invalid-event-number":2}')
    siem.then(200, body='{"text":"Success","code":0}')
    await rig.start(type="splunk_hec", url=siem.base, token="t")
    await rig.append(5)
    await rig.drained()

    assert len(siem.requests) == 2
    (letter,) = await rig.dead_letters()
    assert letter.event is not None
    assert letter.event.line == rig.sent[2]
    assert (rig.books().delivered, rig.books().dead) == (4, 1)


async def test_partial_success_up_to_the_last_event(rig: Rig, siem: Siem) -> None:
    """The last event is the bad one: nothing is left to be sent, and nothing goes wrong about it."""
    siem.answer(400, body='{"text":"Invalid data format","code":6,"invalid-event-number":2}')
    siem.then(200, body='{"text":"Success","code":0}')
    await rig.start(type="splunk_hec", url=siem.base, token="t")
    await rig.append(3)
    await rig.drained()

    assert len(siem.requests) == 1
    assert (rig.books().delivered, rig.books().dead) == (2, 1)
    assert rig.workers["siem"].crashes == 0


async def test_what_azure_would_truncate_is_set_aside(rig: Rig, siem: Siem) -> None:
    """An event that Azure would cut becomes a dead letter without having been sent; the others arrive."""
    long = b"x" * 70_000
    siem.then(204)
    async with Siem() as tokens:
        tokens.then(200, body='{"access_token":"t","expires_in":3600}')
        await rig.start(
            type="sentinel",
            url=siem.base,
            dcr="dcr-0",
            stream="Custom-Konnect",
            tenant_id="acme",
            client_id="relay",
            client_secret="s3cret",
            token_url=tokens.url,
        )
        await rig.append_lines([b"a", long, b"b"])
        await rig.drained()

    assert len(siem.requests) == 1
    (letter,) = await rig.dead_letters()
    assert letter.event is not None
    assert (letter.event.line, letter.reason) == (long, Reason.TOO_LARGE)
    assert (rig.books().delivered, rig.books().dead) == (2, 1)


async def test_exhausted_events_become_dead_letters_where_the_user_says_so(rig: Rig, siem: Siem) -> None:
    """With `on_exhausted: dead_letter` the fifth failure sets the chunk aside and the next one goes on."""
    siem.answer(503, times=5)
    await rig.start(url=siem.url, retry={"on_exhausted": "dead_letter"})
    await rig.append(3)
    assert await rig.waits(4) == [1, 2, 4, 8]
    await rig.drained()
    after = await rig.append(2)
    await rig.drained()

    assert siem.lines() == after
    letters = await rig.dead_letters()
    assert [(one.reason, one.attempts) for one in letters] == [(Reason.EXHAUSTED, 5)] * 3
    assert (rig.books().delivered, rig.books().dead) == (2, 3)
