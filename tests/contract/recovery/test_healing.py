"""Replay jobs over what is missing, and the patience they and the pulled log need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import TypeVar

import pytest

from relay.observe.ledger import KONNECT_RETENTION
from relay.recovery.answers import ORGANISATION, ReplayState
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectError, KonnectForbidden, KonnectUnavailable
from relay.recovery.healing import Replayed, replay, run_job
from relay.recovery.pulling import whole_log
from relay.recovery.reconciling import Window
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import FakeKonnect, Fault, Maker

JOB = "*/audit-log-replay-job"
LOG = "*/v3/audit-logs"

Result = TypeVar("Result")


async def turned(clock: FakeClock, work: Awaitable[Result]) -> Result:
    """The result of *work*, with the clock going on whenever somebody waits for it."""
    task = asyncio.ensure_future(work)
    while not task.done():
        sleeping = asyncio.ensure_future(clock.next_wake())
        await asyncio.wait({task, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await clock.advance(await sleeping)
        sleeping.cancel()
    return await task


async def heal(
    api: KonnectApi, clock: FakeClock, windows: Sequence[Window], *, margin: float = 60.0
) -> list[Replayed]:
    jobs: list[Replayed] = []
    await turned(
        clock,
        replay(
            api,
            ORGANISATION,
            windows,
            clock=clock,
            margin=margin,
            told=lambda sentence: None,
            done=jobs.append,
        ),
    )
    return jobs


def window(clock: FakeClock, ago: float, *, length: float = 60.0, missing: int = 3) -> Window:
    start = round((clock.now() - ago) * 1000)
    return Window(start, start + round(length * 1000), missing)


@pytest.fixture(autouse=True)
async def webhook(konnect: FakeKonnect) -> None:
    """Bound to something; there is nothing that would be sent to it."""
    konnect.organisation.bind("http://127.0.0.1:1/", "Bearer x")


async def test_what_konnect_does_not_allow_is_an_error(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """Nobody waits for it to change."""
    konnect.faults.add(Fault("PUT", JOB, status=403))

    with pytest.raises(KonnectForbidden):
        await heal(api, clock, [window(clock, 3600)])


async def test_a_job_that_fails_is_the_last_one(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """Its state is told; windows after it are left alone."""
    konnect.replays.fail_after = 0
    konnect.record(Maker().some(3, at=clock.now() - 7200))

    jobs = await heal(api, clock, [window(clock, 7200), window(clock, 600)])

    assert [job.state for job in jobs] == [ReplayState.FAILED]
    assert len(konnect.called("PUT", "audit-log-replay-job")) == 1


async def test_every_window_has_its_job_one_after_the_other(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """Widened by the margin; windows that overlap by it share one."""
    now = clock.now()
    windows = [window(clock, 7200), window(clock, 7080, missing=2), window(clock, 600)]

    jobs = await heal(api, clock, windows)

    assert [job.state for job in jobs] == [ReplayState.COMPLETED] * 2
    assert [(now - job.start, now - job.end, job.missing) for job in jobs] == [
        (7260.0, 6960.0, 5),
        (660.0, 480.0, 3),
    ]


async def test_a_job_of_somebody_elses_is_waited_for(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """409 is no failure."""
    konnect.begin_replay(clock.now() - 100, clock.now())

    jobs = await heal(api, clock, [window(clock, 3600)])

    assert [job.state for job in jobs] == [ReplayState.COMPLETED]
    assert len(konnect.called("PUT", "audit-log-replay-job")) > 1


async def test_a_lost_answer_begins_no_second_job(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """The job that is running over our window is ours."""
    konnect.faults.add(Fault("PUT", JOB, status=500, effective=True))
    konnect.replays.pace = 10.0

    jobs = await heal(api, clock, [window(clock, 3600)])

    assert [job.state for job in jobs] == [ReplayState.COMPLETED]
    assert len(konnect.called("PUT", "audit-log-replay-job")) == 2


async def test_a_job_whose_place_was_taken_is_begun_again(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """The relay's own recovery may be faster than our next look, and then nobody knows how ours ended."""
    start, end = clock.now() - 3600, clock.now() - 1800
    told: list[str] = []
    konnect.replays.pace = None
    running = asyncio.ensure_future(
        run_job(api, ORGANISATION, start, end, clock=clock, poll=5.0, told=told.append)
    )
    await konnect.asked("GET", "audit-log-replay-job")
    for _ in range(3):
        konnect.replays.step()
    assert await konnect.replayed() == "completed"
    konnect.begin_replay(clock.now() - 100, clock.now())
    await clock.next_wake()
    await clock.advance(5.0)
    await konnect.asked("GET", "audit-log-replay-job", times=2)
    for _ in range(3):
        konnect.replays.step()
    konnect.replays.pace = 1.0

    job = await turned(clock, running)

    assert (job.start, job.end, job.state) == (start, end, ReplayState.COMPLETED)
    assert "waiting for another replay job" in told


async def test_a_konnect_that_does_not_answer_is_no_endless_wait(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """For a minute or so; whoever watches the command wants to know."""
    konnect.faults.add(Fault("GET", JOB, status=503, times=-1))
    before = clock.monotonic()

    with pytest.raises(KonnectUnavailable):
        await heal(api, clock, [window(clock, 3600)])
    assert 30 < clock.monotonic() - before < 120


async def test_a_window_never_begins_before_what_konnect_keeps(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """It would be refused as a whole; what is deleted is gone."""
    gone, going = window(clock, KONNECT_RETENTION + 7200), window(clock, KONNECT_RETENTION - 90)

    jobs = await heal(api, clock, [gone, going])

    assert [job.state for job in jobs] == [ReplayState.COMPLETED]


# -- the log from end to end


async def pulled(api: KonnectApi, clock: FakeClock) -> int:
    count = 0
    async with aclosing(whole_log(api, clock.now() - 3600, clock.now(), clock=clock)) as pages:
        async for page in pages:
            count += len(page.entries)
    return count


async def test_a_log_that_goes_round_in_a_circle_is_no_whole_one(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """What came before is not taken for everything."""
    konnect.record(Maker().some(2500, at=clock.now() - 60))
    konnect.pull.cursor_form = "repeated"

    with pytest.raises(KonnectError, match="read to its end"):
        await turned(clock, pulled(api, clock))


async def test_a_log_that_does_not_come_is_an_error(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """After some tries, each later than the one before."""
    konnect.faults.add(Fault("GET", LOG, status=503, times=-1))

    with pytest.raises(KonnectUnavailable):
        await turned(clock, pulled(api, clock))


async def test_pages_that_fail_are_asked_for_again(
    api: KonnectApi, konnect: FakeKonnect, clock: FakeClock
) -> None:
    """Nothing comes twice and nothing is passed over; Konnect's own wish to wait is heard."""
    konnect.record(Maker().some(2500, at=clock.now() - 60))
    konnect.faults.add(Fault("GET", LOG, status=429, retry_after="90", after=1))
    konnect.faults.add(Fault("GET", LOG, status=500, after=1))
    before = clock.monotonic()

    assert await turned(clock, pulled(api, clock)) == 2500
    assert clock.monotonic() - before >= 90
