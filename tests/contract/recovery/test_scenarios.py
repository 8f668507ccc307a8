"""What can go wrong between Konnect and the relay, from the first refusal to the last event at the SIEM.

After each trouble everything that Konnect still has is at the SIEM exactly once, and the list of gaps is
empty or says truthfully what is lost for ever.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.model import Recovering
from tests.contract.recovery.running import AUTHORIZATION, Running
from tests.contract.recovery.scenes import all_is_well, bind, down, failing_batch, some
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import PORTAL, TOKEN, FakeKonnect, Fault, Maker, Place
from tests.fakes.siem import Siem

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


@pytest.mark.parametrize("seconds", [MINUTE, HOUR])
async def test_down_for_a_while(running: Running, maker: Maker, seconds: float) -> None:
    """Killed and started again: down time is a gap, the webhook is switched on, a replay closes the gap."""
    await some(running, maker)
    await down(running, maker, seconds, every=seconds / 7)

    await all_is_well(running)
    gaps = await running.gaps()
    assert {gap.cause for gap in gaps} == {"downtime", "inactive"}
    assert all(gap.lost_until is None for gap in gaps)
    assert len(running.log.named("webhook.switched_on")) == 1
    assert await running.metric('relay_recovered_events_total{source="konnect"}') >= 21
    assert await running.metric('relay_gaps_open{source="konnect"}') == 0


async def test_down_for_eight_days(running: Running, maker: Maker) -> None:
    """What Konnect has deleted is lost and stays visible; everything else comes."""
    await some(running, maker)
    began = running.clock.now()
    await down(running, maker, 8 * DAY, every=6 * HOUR)
    started = running.clock.now()

    await all_is_well(running)
    (gap,) = [gap for gap in await running.gaps() if gap.cause == "downtime"]
    assert gap.start <= began
    assert gap.lost_until is not None
    assert started - 7 * DAY <= gap.lost_until <= running.clock.now() - 7 * DAY + 2 * MINUTE
    assert running.log.named("recovery.lost")
    assert await running.metric('relay_gaps_lost{source="konnect"}') >= 1


async def test_a_short_restart_is_no_gap(running: Running, maker: Maker) -> None:
    """Konnect tries for fifteen seconds; who is back before that has missed nothing."""
    await some(running, maker)
    await running.stop()
    await running.clock.advance(5.0)
    await running.start()
    await running.through(60.0)

    assert await running.gaps() == []
    assert running.konnect.called("PUT", "/audit-log-replay-job") == []


async def test_the_queue_is_full(tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem) -> None:
    """429 until there is room again: what was refused comes by a replay, once it can be kept."""
    maker = Maker()
    konnect.sender.restamps = False
    siem.then(503)
    queue = {
        "type": "sqlite",
        "path": str(tmp_path / "relay.db"),
        "min_free_disk": 0,
        "max_bytes": "256KiB",
        "when_full": "reject",
    }
    async with Running(tmp_path, clock, konnect, siem, queue=queue) as running:
        bind(running)
        while "429" not in [gap.cause for gap in await running.gaps()]:
            konnect.happen(maker.some(100, at=clock.now()), batch=100)
            await running.through(1.0)
        await running.through(5 * MINUTE)
        assert "429" in [gap.cause for gap in await running.queue.gaps()]
        assert len(konnect.called("PUT", "/audit-log-replay-job")) < 8
        siem.then(200)

        await all_is_well(running)
        assert all(gap.lost_until is None for gap in await running.gaps())


async def test_konnect_gives_up_on_the_webhook(running: Running, maker: Maker) -> None:
    """The network fails, not the relay: nothing was refused, Konnect's own word tells."""
    await some(running, maker)
    await running.through(MINUTE)
    organisation = running.konnect.organisation
    (destination,) = organisation.destinations.values()
    good, destination.endpoint = destination.endpoint, "http://127.0.0.1:9/audit-logs/konnect"
    await some(running, maker)  # it does not arrive
    destination.endpoint = good
    running.konnect.record(maker.some(5, at=running.clock.now()))

    await running.until(lambda: bool(running.log.named("webhook.inactive")), "the relay noticing")
    await all_is_well(running)
    assert {gap.cause for gap in await running.gaps()} == {"inactive"}
    assert len(running.log.named("webhook.switched_on")) == 1
    await some(running, maker)
    await all_is_well(running)


async def test_somebody_switched_the_webhook_off(running: Running, maker: Maker) -> None:
    """That is left as it is: the relay does not argue with people. What happens meanwhile is pulled."""
    await some(running, maker)
    running.konnect.organisation.webhook(Place()).enabled = False
    running.konnect.record(maker.some(5, at=running.clock.now()))
    await running.through(3 * MINUTE)

    assert [gap.cause for gap in await running.gaps()] == ["inactive"]
    assert running.relay.replicas()[0].recovering == Recovering(
        None, "somebody switched off the webhook of the organisation in Konnect"
    )
    running.clock.jump(HOUR)
    await running.until(lambda: bool(running.log.named("recovery.pulled")), "the pull")
    running.konnect.organisation.webhook(Place()).enabled = True
    await all_is_well(running)
    assert running.log.named("webhook.switched_on") == []


async def test_the_token_may_not_switch_the_webhook_on(running: Running, maker: Maker) -> None:
    """That is said, and what is missing is pulled; nothing else waits for somebody to do it."""
    await some(running, maker)
    await running.through(MINUTE)
    running.konnect.faults.add(Fault("PATCH", "*/audit-log-webhook", status=403, times=-1))
    await failing_batch(running, maker)
    await running.until(lambda: bool(running.log.named("webhook.not_switched_on")), "the refusal")
    running.clock.jump(HOUR)
    await running.until(lambda: bool(running.log.named("recovery.pulled")), "the pull")

    assert running.log.named("webhook.switched_on") == []
    assert len(running.log.named("webhook.not_switched_on")) <= 2  # once an hour
    running.konnect.organisation.webhook(Place()).enabled = True
    await all_is_well(running)


async def test_somebody_switched_the_webhook_off_after_it_was_mended(running: Running, maker: Maker) -> None:
    """No batch came in between, so its last attempt is still the failed one; a person is left alone."""
    await some(running, maker)
    await failing_batch(running, maker)
    await running.until(lambda: bool(running.log.named("webhook.switched_on")), "the mending")
    await all_is_well(running)
    await running.through(2 * MINUTE)
    webhook = running.konnect.organisation.webhook(Place())
    webhook.last_code, webhook.last_message = 500, "answered 500"  # as if no batch had come since
    await running.through(3 * MINUTE)
    webhook.enabled = False
    running.konnect.record(maker.some(5, at=running.clock.now()))
    await running.through(15 * MINUTE)

    assert not webhook.enabled
    assert len(running.log.named("webhook.switched_on")) == 1
    assert running.relay.replicas()[0].recovering == Recovering(
        None, "somebody switched off the webhook of the organisation in Konnect"
    )


async def test_the_webhook_leads_elsewhere(running: Running, maker: Maker) -> None:
    """Somebody else's receiver gets no replay, and is not switched on; what happened is pulled."""
    await some(running, maker)
    await running.kill()
    async with Siem() as other:
        running.konnect.record(maker.some(10, at=running.clock.now()))
        running.konnect.organisation.bind(other.url, AUTHORIZATION)
        running.clock.jump(HOUR)
        await running.start()

        await all_is_well(running)
        assert running.konnect.called("PUT", "/audit-log-replay-job") == []
        assert running.log.named("recovery.pulled")
        (entry,) = running.log.named("recovery.webhook_elsewhere")
        assert entry["source"] == "konnect"

        def doing() -> str:
            recovering = running.relay.replicas()[0].recovering
            return "" if recovering is None else recovering.detail

        await running.until(lambda: "not to this relay" in doing(), "the status saying so")

        webhook = running.konnect.organisation.webhook(Place())
        webhook.enabled, webhook.last_code, webhook.last_attempt_at = False, 500, running.clock.now()
        await running.through(20 * MINUTE)
        assert not webhook.enabled
        assert len(running.log.named("recovery.webhook_elsewhere")) == 1


async def test_the_webhook_is_bound_to_another_receiver_during_a_replay(
    running: Running, maker: Maker
) -> None:
    """What a completed job sent elsewhere is not taken for recovered."""
    await some(running, maker)
    running.konnect.replays.pace = 10.0
    await down(running, maker, HOUR, every=MINUTE)
    await running.until(lambda: bool(running.log.named("recovery.replaying")), "the replay")
    async with Siem() as other:
        running.konnect.organisation.bind(other.url, AUTHORIZATION)

        await all_is_well(running)
    assert "the webhook was bound to another receiver while it ran" in {
        entry["detail"] for entry in running.log.named("recovery.replay_failed")
    }


async def test_a_replay_fails_half_way(running: Running, maker: Maker) -> None:
    """It is run again; what had come is not kept twice."""
    await some(running, maker)
    running.konnect.replays.fail_after = 2
    await down(running, maker, HOUR, every=MINUTE)

    await all_is_well(running)
    assert len(running.log.named("recovery.replay_failed")) == 1


async def test_replays_that_never_work_end_in_a_pull(running: Running, maker: Maker) -> None:
    """After three attempts the organisation's log is read; nothing that had come is taken twice."""
    await some(running, maker)
    running.konnect.faults.add(Fault("PUT", "*/audit-log-replay-job", status=400, times=-1))
    await down(running, maker, HOUR, every=MINUTE)

    await all_is_well(running)
    assert running.log.named("recovery.pulled")


@pytest.mark.parametrize("status", [403, 404])
async def test_replay_is_not_allowed(running: Running, maker: Maker, status: int) -> None:
    """The log is pulled at once."""
    await some(running, maker)
    running.konnect.faults.add(Fault("PUT", "*/audit-log-replay-job", status=status, times=-1))
    await down(running, maker, HOUR, every=MINUTE)

    await all_is_well(running)
    assert len(running.konnect.called("PUT", "/audit-log-replay-job")) <= 2  # one for each gap


async def test_a_wrong_token(running: Running, maker: Maker) -> None:
    """The gap stays open and the status says why; with the right one it is closed."""
    await some(running, maker)
    tokens = running.konnect.organisation.tokens
    del tokens[TOKEN]
    await down(running, maker, HOUR, every=MINUTE)
    await running.through(3 * MINUTE)

    assert [gap.cause for gap in await running.gaps()] == ["downtime"]
    doing = running.relay.replicas()[0].recovering
    assert doing is not None
    assert "token" in doing.detail
    assert len(running.konnect.calls) < 10
    tokens[TOKEN] = True
    await all_is_well(running)


async def test_konnects_api_is_away_for_a_while(running: Running, maker: Maker) -> None:
    """It is asked again, ever more rarely, and then everything is as if nothing had been."""
    await some(running, maker)
    running.konnect.faults.add(Fault("*", "*", status=503, times=4))
    running.konnect.faults.add(Fault("PUT", "*", status=429, retry_after="40", times=1))
    await down(running, maker, HOUR, every=MINUTE)

    await all_is_well(running)


async def test_another_replay_job_runs(running: Running, maker: Maker) -> None:
    """One at a time: it is waited for."""
    await some(running, maker)
    running.konnect.replays.pace = 40.0
    running.konnect.begin_replay(running.clock.now() - 30, running.clock.now())
    await down(running, maker, MINUTE, every=MINUTE)

    await all_is_well(running)


async def test_a_replay_that_is_refused_in_part_is_run_again(running: Running, maker: Maker) -> None:
    """A job that Konnect calls completed is not believed when we refused something meanwhile."""
    await some(running, maker)
    await down(running, maker, MINUTE, every=MINUTE)
    await running.until(lambda: bool(running.log.named("recovery.replaying")), "the replay")
    await running.queue.open_gap("konnect", running.clock.now(), running.clock.now(), "500")

    await all_is_well(running)
    assert len(running.log.named("recovery.replaying")) >= 2
    assert "requests were refused while it ran" in {
        entry["detail"] for entry in running.log.named("recovery.replay_failed")
    }


async def test_a_replay_that_is_signed_anew_loses_nothing(running: Running, maker: Maker) -> None:
    """Should Konnect do that, which nobody knows, the ids differ: what had come before comes once more."""
    running.konnect.sender.restamps = True
    await some(running, maker)
    await down(running, maker, MINUTE, every=MINUTE)

    await running.recovered()
    assert running.kept() <= running.arrived().keys()


async def test_a_status_that_is_not_for_us_is_told_once(running: Running, maker: Maker) -> None:
    """Not with every look; the gap is closed by a pull meanwhile."""
    await some(running, maker)
    running.konnect.faults.add(Fault("GET", "*/audit-log-webhook/status", status=403, times=-1))
    await down(running, maker, MINUTE, every=MINUTE)

    await all_is_well(running)
    await running.through(5 * MINUTE)
    assert len(running.log.named("recovery.trouble")) <= 2


async def test_portals_are_recovered_as_well(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem
) -> None:
    """Each has a webhook and a replay job of its own."""
    maker = Maker()
    running = Running(tmp_path, clock, konnect, siem)
    running.config["sources"].append({"name": "portal", "authorization": AUTHORIZATION})
    running.config["recovery"]["konnect"] |= {
        "source": "konnect",
        "portals": [{"id": PORTAL, "source": "portal"}],
    }
    place = Place(portal=PORTAL)
    async with running:
        bind(running)
        bind(running, place, "portal")
        await running.kill()
        clock.jump(MINUTE)
        konnect.record(maker.some(5, at=clock.now()))
        konnect.record([maker.authentication(at=clock.now(), portal=PORTAL)])
        clock.jump(MINUTE)
        await running.start()

        await all_is_well(running)
        assert running.kept(place) <= running.arrived().keys()
        assert {gap.source for gap in await running.gaps()} == {"konnect", "portal"}
