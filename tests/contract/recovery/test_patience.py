"""A call of Konnect's API that keeps failing, or a request that we always refuse, holds up nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.recovery.running import Running
from tests.contract.recovery.scenes import (
    HOUR,
    MINUTE,
    all_is_well,
    bind,
    down,
    failing_batch,
    some,
    with_portal,
)
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import PORTAL, FakeKonnect, Fault, Maker, Place
from tests.fakes.siem import Siem

JOB = "*/audit-log-replay-job"


def doing(running: Running) -> str:
    recovering = running.relay.replicas()[0].recovering
    return "" if recovering is None else recovering.detail


async def open_sources(running: Running) -> set[str]:
    return {gap.source for gap in await running.queue.gaps()}


@pytest.mark.parametrize("status", [500, 200])
async def test_one_portals_status_that_cannot_be_had_is_its_own_trouble(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem, status: int
) -> None:
    """The organisation's gap is closed meanwhile; the portal's once Konnect answers as published again."""
    maker = Maker()
    konnect.sender.restamps = False
    async with with_portal(Running(tmp_path, clock, konnect, siem)) as running:
        bind(running)
        bind(running, Place(portal=PORTAL), "portal")
        status_path = f"/portals/{PORTAL}/audit-log-webhook/status"
        konnect.faults.add(Fault("GET", f"*{status_path}", status=status, body=b"[]", times=-1))
        await running.through(MINUTE)  # a heartbeat is stored
        await running.kill()
        clock.jump(MINUTE)
        konnect.record(maker.some(5, at=clock.now()))
        konnect.record([maker.authentication(at=clock.now(), portal=PORTAL)])
        clock.jump(MINUTE)
        asked = len(konnect.called("GET", status_path))
        await running.start()
        await running.until(lambda: bool(running.log.named("recovery.closed")), "the organisation's gap")
        await running.through(10 * MINUTE)

        assert await open_sources(running) == {"portal"}
        assert str(status) in doing(running) or "as published" in doing(running)
        assert len(konnect.called("GET", status_path)) - asked < 12
        konnect.faults.clear()
        await all_is_well(running)
        assert all(running.kept(Place(portal=PORTAL)) <= arrived.keys() for arrived in running.arrived())


async def test_a_trouble_that_stays_is_told_once(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem
) -> None:
    """Though other calls go well in between."""
    async with with_portal(Running(tmp_path, clock, konnect, siem)) as running:
        bind(running)
        bind(running, Place(portal=PORTAL), "portal")
        konnect.faults.add(Fault("GET", "*/v3/audit-log-webhook/status", status=403, times=-1))
        await running.through(10 * MINUTE)

        assert len(konnect.called("GET", f"/portals/{PORTAL}/audit-log-webhook/status")) > 5
        assert len(running.log.named("recovery.trouble")) == 1


async def test_a_replay_that_konnect_cannot_begin_ends_in_a_pull(running: Running, maker: Maker) -> None:
    """Looks at the status that go well do not make it be asked for ever more often."""
    await some(running, maker)
    running.konnect.faults.add(Fault("PUT", JOB, status=503, times=-1))
    await down(running, maker, HOUR, every=MINUTE)

    await all_is_well(running)
    assert running.log.named("recovery.pulled")
    assert len(running.konnect.called("PUT", "/audit-log-replay-job")) <= 8


async def test_a_pull_that_fails_now_and_then_goes_on_where_it_was(running: Running, maker: Maker) -> None:
    """Each error costs a page, not the window; what was fetched is not told anew."""
    await some(running, maker)
    running.konnect.faults.add(Fault("PUT", JOB, status=403, times=-1))
    for passed in (2, 5, 8, 11):
        running.konnect.faults.add(Fault("GET", "*/v3/audit-logs", status=500, after=passed))
    await running.kill()
    running.konnect.record(maker.some(5500, at=running.clock.now() + 60.0))
    running.clock.jump(HOUR)
    await running.start()

    await all_is_well(running)
    assert len(running.konnect.called("GET", "/v3/audit-logs")) <= 6 + 2 * 4
    assert await running.metric('relay_recovered_events_total{source="konnect"}') == 5500


async def test_a_webhook_that_konnect_cannot_switch_on_holds_up_no_pull(
    running: Running, maker: Maker
) -> None:
    """It is tried again all the same."""
    await some(running, maker)
    running.konnect.faults.add(Fault("PATCH", "*/audit-log-webhook", status=500, times=-1))
    await down(running, maker, HOUR, every=MINUTE)
    await running.until(lambda: bool(running.log.named("recovery.pulled")), "the pull")

    running.konnect.faults.clear()
    await running.until(lambda: bool(running.log.named("webhook.switched_on")), "the mending")
    await all_is_well(running)


@pytest.mark.parametrize("method", ["job", "status"])
async def test_a_job_of_which_konnect_tells_nothing_is_not_waited_for(
    running: Running, maker: Maker, method: str
) -> None:
    """Neither is it taken for done: the log is pulled."""
    await some(running, maker)
    await down(running, maker, HOUR, every=MINUTE)
    await running.until(lambda: bool(running.log.named("recovery.replaying")), "the replay")
    path = JOB if method == "job" else "*/audit-log-webhook/status"
    running.konnect.faults.add(Fault("GET", path, status=500, times=-1))

    await running.until(lambda: bool(running.log.named("recovery.pulled")), "the pull")
    assert running.log.named("recovery.replayed") == []
    running.konnect.faults.clear()
    await all_is_well(running)


async def test_a_call_that_hangs_holds_up_no_other(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem
) -> None:
    """Nobody can tell it from a host that is away, until another call gets through."""
    maker = Maker()
    konnect.sender.restamps = False
    running = Running(tmp_path, clock, konnect, siem)
    running.config["recovery"]["konnect"]["timeout"] = "1s"
    async with running:
        bind(running)
        konnect.faults.add(Fault("PUT", JOB, hang=True, times=-1))
        await down(running, maker, HOUR, every=MINUTE)

        await all_is_well(running)
        assert running.log.named("recovery.pulled")


@pytest.mark.parametrize(("asked", "obeyed"), [("1200", 1200.0), ("86400", 3600.0)])
async def test_konnects_wish_to_be_left_alone_is_obeyed_for_an_hour_at_most(
    running: Running, maker: Maker, asked: str, obeyed: float
) -> None:
    """The status says so, and the log once."""
    await some(running, maker)
    running.konnect.faults.add(Fault("PUT", JOB, status=429, retry_after=asked))
    await down(running, maker, HOUR, every=MINUTE)
    await running.until(lambda: bool(running.konnect.called("PUT", "/audit-log-replay-job")), "the refusal")
    calls = len(running.konnect.calls)
    await running.through(MINUTE)
    assert f"left alone for {asked} s" in doing(running)
    (entry,) = running.log.named("recovery.trouble")
    assert obeyed <= entry["seconds"] <= obeyed * 1.25

    running.clock.jump(obeyed - 3 * MINUTE)
    await running.through(MINUTE)
    assert len(running.konnect.calls) == calls
    running.clock.jump(obeyed / 4 + MINUTE)
    await all_is_well(running)


async def too_large(running: Running, maker: Maker, place: Place | None = None) -> None:
    """While the relay is down, what happens makes a batch that it will not take."""
    running.konnect.replays.batch = 1000
    await running.through(MINUTE)  # a heartbeat is stored
    await running.kill()
    running.clock.jump(HOUR)
    at = running.clock.now() - HOUR / 2
    portal = None if place is None else place.portal
    if portal is None:
        running.konnect.record(maker.some(400, at=at))
    else:
        running.konnect.record([maker.authentication(at=at, portal=portal) for _ in range(400)])
    await running.start()


async def test_a_replay_that_the_relay_itself_will_not_take_ends_in_a_pull(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem
) -> None:
    """A pull has no batches that could be too large."""
    running = Running(tmp_path, clock, konnect, siem)
    running.config["server"]["max_body"] = "4KiB"
    async with running:
        bind(running)
        await too_large(running, Maker())

        await all_is_well(running)
        assert running.log.named("recovery.pulled")
        assert {entry["detail"] for entry in running.log.named("recovery.replay_failed")} == {
            "this relay refused a batch of it as too large (413): raise server.max_body"
        }


async def test_a_portals_replay_that_the_relay_will_not_take_waits_for_the_operator(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem
) -> None:
    """There is no other way: it is tried once an hour, and the status says what has to be changed."""
    place = Place(portal=PORTAL)
    running = with_portal(Running(tmp_path, clock, konnect, siem))
    running.config["server"]["max_body"] = "4KiB"
    async with running:
        bind(running)
        bind(running, place, "portal")
        await too_large(running, Maker(), place)
        await running.until(lambda: bool(running.log.named("recovery.replay_failed")), "the attempt")
        await running.through(15 * MINUTE)

        assert "raise server.max_body; tried again at" in doing(running)
        assert "portal" in await open_sources(running)
        # What this has opened besides, while the webhook was off, was closed by replays of its own.
        failed = running.log.named("recovery.replay_failed")
        assert [entry["failures"] for entry in failed] == [1]
        assert len(konnect.called("PUT", f"/portals/{PORTAL}/audit-log-replay-job")) <= 4

        await running.stop()
        running.config["server"]["max_body"] = "4MiB"
        await running.start()
        await all_is_well(running)
        assert all(running.kept(place) <= arrived.keys() for arrived in running.arrived())


async def test_a_proxys_refusal_of_a_replay_is_told(running: Running, maker: Maker) -> None:
    """The relay has seen nothing of it; Konnect's status has its code."""
    await some(running, maker)
    await running.through(MINUTE)
    await failing_batch(running, maker)
    await running.until(lambda: bool(running.log.named("recovery.replaying")), "the replay")
    webhook = running.konnect.organisation.webhook(Place())
    webhook.failing, webhook.last_code, webhook.last_attempt_at = True, 413, running.clock.now() + 1.0

    await running.until(lambda: bool(running.log.named("recovery.replay_failed")), "the judgement")
    (entry,) = running.log.named("recovery.replay_failed")
    assert "answered 413" in entry["detail"]
    assert "proxy" in entry["detail"]
    await all_is_well(running)
