"""What Konnect and its people do while the relay recovers: jobs that fail, tokens, webhooks of others.

After each trouble `scenes.all_is_well`, as in `test_outages`.
"""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from relay.konnect.pulled import line_of
from relay.model import Reason, Recovering
from relay.queue.base import DeadLetterFilter
from tests.contract.recovery.running import AUTHORIZATION, Running
from tests.contract.recovery.scenes import (
    HOUR,
    MINUTE,
    all_is_well,
    bind,
    down,
    failing_batch,
    mended_and_quiet,
    on_both,
    some,
    unreachable,
    with_portal,
)
from tests.fakes.clock import FakeClock
from tests.fakes.judging import forged
from tests.fakes.konnect import PORTAL, TOKEN, FakeKonnect, Fault, Maker, Place
from tests.fakes.konnect.writing import LogFormat, entry, jwks, line
from tests.fakes.siem import Siem
from tests.fakes.signing import JWKS_FILE


async def send(running: Running, lines: list[bytes]) -> None:
    """As Konnect would, or somebody who has its secret."""
    url = f"http://127.0.0.1:{running.port}/audit-logs"
    async with (
        aiohttp.ClientSession(headers={"Authorization": AUTHORIZATION}) as session,
        session.post(url, data=b"\n".join(lines)) as answer,
    ):
        assert (await answer.json())["accepted"] == len(lines)


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


@pytest.mark.parametrize("signed", [True, False])
async def test_what_is_pulled_passes_the_quarantine(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem, maker: Maker, signed: bool
) -> None:
    """However Konnect signs its own log, or does not: it told the relay these events itself.

    Somebody who has the webhook's secret sends the same lines before: neither believed, nor in the way.
    """
    konnect.pull.signed = signed
    signatures = {"mode": "quarantine", "jwks": str(JWKS_FILE)}
    async with Running(tmp_path, clock, konnect, siem, signatures=signatures) as it:
        bind(it)
        await some(it, maker)
        it.konnect.organisation.webhook(Place()).enabled = False
        missed = maker.some(5, at=it.clock.now())
        it.konnect.record(missed)
        forged = [line_of(entry(event, signed=False)) for event in missed]
        await send(it, forged)
        await it.through(3 * MINUTE)
        it.clock.jump(HOUR)
        await it.until(lambda: bool(it.log.named("recovery.pulled")), "the pull")
        it.konnect.organisation.webhook(Place()).enabled = True
        await all_is_well(it)

        letters = await it.queue.dead_letters(DeadLetterFilter())
        assert [letter.event and letter.event.line for letter in letters] == forged
        pulled = [line_of(entry(event, signed=signed)) for event in missed]
        assert set(pulled) <= set(siem.lines())
        result = "verified" if signed else "absent"
        assert await it.metric(f'relay_signatures_total{{result="{result}"') >= 5


async def test_the_token_may_not_switch_the_webhook_on(running: Running, maker: Maker) -> None:
    """That is said, and what is missing is pulled; nothing else waits for somebody to do it."""
    await some(running, maker)
    await running.through(MINUTE)
    running.konnect.faults.add(Fault("PATCH", "*/audit-log-webhook", status=403, times=-1))
    await failing_batch(running, maker)
    await running.until(lambda: bool(running.log.named("webhook.not_switched_on")), "the refusal")
    await running.through(MINUTE)
    recovering = running.relay.replicas()[0].recovering
    assert recovering is not None
    assert "may not switch on" in recovering.detail
    running.clock.jump(HOUR)
    await running.until(lambda: bool(running.log.named("recovery.pulled")), "the pull")

    assert running.log.named("webhook.switched_on") == []
    assert len(running.log.named("webhook.not_switched_on")) <= 2  # once an hour
    webhook = running.konnect.organisation.webhook(Place())
    webhook.enabled, webhook.failing = True, False  # a person did it
    await all_is_well(running)


async def test_a_webhook_of_version_2_is_switched_on_by_its_owner(running: Running, maker: Maker) -> None:
    """Version 3 of the API cannot, and that is said. Until somebody does, what happens is pulled."""
    await some(running, maker)
    await running.through(MINUTE)
    webhook = running.konnect.organisation.webhook(Place())
    assert webhook.destination is not None
    webhook.destination.name = "inline"
    await failing_batch(running, maker)
    await running.until(lambda: bool(running.log.named("webhook.not_switched_on")), "its being told")
    await running.through(MINUTE)
    recovering = running.relay.replicas()[0].recovering
    assert recovering is not None
    assert "may not switch on" in recovering.detail
    running.konnect.record(maker.some(5, at=running.clock.now()))
    running.clock.jump(HOUR)
    await running.until(lambda: bool(running.log.named("recovery.pulled")), "the pull")

    assert "inactive" in [gap.cause for gap in await running.queue.gaps()]
    running.konnect.record(maker.some(5, at=running.clock.now()))
    await running.through(MINUTE)
    webhook.failing = False  # its owner did it
    await all_is_well(running)


async def test_somebody_switched_the_webhook_off_after_it_was_mended(running: Running, maker: Maker) -> None:
    """No batch came in between, so its last attempt is still the failed one; a person is left alone."""
    webhook = await mended_and_quiet(running, maker)
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


@on_both
async def test_a_replay_fails_half_way(running: Running, maker: Maker) -> None:
    """It is run again; what had come is not kept twice."""
    await some(running, maker)
    running.konnect.replays.fail_after = 2
    await down(running, maker, HOUR, every=MINUTE)

    await all_is_well(running)
    assert len(running.log.named("recovery.replay_failed")) == 1


@on_both
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


@on_both
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


@on_both
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


@pytest.mark.parametrize("mode", ["off", "tag", "quarantine"])
@pytest.mark.parametrize("log_format", ["cef", "json", "cps"])
async def test_a_replay_that_is_signed_anew_brings_nothing_twice(
    tmp_path: Path,
    clock: FakeClock,
    konnect: FakeKonnect,
    siem: Siem,
    maker: Maker,
    mode: str,
    log_format: LogFormat,
) -> None:
    """Should Konnect stamp and sign anew, which nobody knows: whether signatures are checked or not."""
    signatures = {"mode": mode} if mode == "off" else {"mode": mode, "jwks": jwks()}
    async with Running(tmp_path, clock, konnect, siem, signatures=signatures) as running:
        bind(running)
        (destination,) = konnect.organisation.destinations.values()
        destination.log_format = log_format
        await some(running, maker)
        await down(running, maker, MINUTE, every=MINUTE)

        await all_is_well(running)
        assert any(sending.replay for sending in konnect.sender.sendings)
        assert running.queue.duplicates()["konnect"] >= 20


async def test_a_forgery_hides_nothing_from_a_replay(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem, maker: Maker
) -> None:
    """Somebody who may send has sent what Konnect could not, under signatures of his own."""
    signatures = {"mode": "quarantine", "jwks": jwks()}
    async with Running(tmp_path, clock, konnect, siem, signatures=signatures) as running:
        bind(running)
        await some(running, maker)
        missed = maker.some(10, at=clock.now())
        await send(running, [forged(line(event, "cef", stamp=clock.now())) for event in missed])
        konnect.record(missed)
        await down(running, maker, MINUTE, every=MINUTE)

        await all_is_well(running)
        assert running.queue.books("siem1").dead_by_reason == {Reason.SIGNATURE: 10}


async def test_a_job_is_called_completed_though_batches_were_lost(running: Running, maker: Maker) -> None:
    """The network failed while it ran. Nothing was refused here; that the webhook is inactive tells."""
    await some(running, maker)
    running.konnect.replays.admits = False
    await down(running, maker, HOUR, every=MINUTE)
    await running.until(lambda: bool(running.log.named("recovery.replaying")), "the replay")
    job = running.konnect.organisation.job(Place())
    with unreachable(running):
        await running.until(lambda: not job.running, "the end of the job")

    assert job.status == "completed"
    await all_is_well(running)
    assert "Konnect gave up on a batch while it ran" in {
        entry["detail"] for entry in running.log.named("recovery.replay_failed")
    }


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
    running = with_portal(Running(tmp_path, clock, konnect, siem))
    place = Place(portal=PORTAL)
    async with running:
        bind(running)
        bind(running, place, "portal")
        await running.through(MINUTE)  # it has noted by then that it accepts: what it was down is a gap
        await running.kill()
        clock.jump(MINUTE)
        konnect.record(maker.some(5, at=clock.now()))
        konnect.record([maker.authentication(at=clock.now(), portal=PORTAL)])
        clock.jump(MINUTE)
        await running.start()

        await all_is_well(running)
        assert running.kept(place) <= running.arrived()[0].keys()
        assert {gap.source for gap in await running.gaps()} == {"konnect", "portal"}
