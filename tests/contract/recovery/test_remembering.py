"""What recovery knows outlives a restart, another replica's turn, and a change of its configuration."""

from __future__ import annotations

from pathlib import Path

import yaml

from relay.config.load import load
from relay.destinations.registry import CONFIG_TYPES
from relay.model import Recovering
from tests.contract.recovery.running import Running
from tests.contract.recovery.scenes import (
    DAY,
    HOUR,
    MINUTE,
    all_is_well,
    bind,
    down,
    failing_batch,
    mended_and_quiet,
    some,
    with_portal,
)
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import PORTAL, TOKEN, FakeKonnect, Fault, Maker, Place
from tests.fakes.siem import Siem

LOG, JOB = ("GET", "/v3/audit-logs"), ("PUT", "/audit-log-replay-job")


async def test_a_webhook_that_was_switched_off_by_hand_stays_off_over_a_restart(
    running: Running, maker: Maker
) -> None:
    """Its last attempt is a failed one from before it was mended; only the relay knows that it was well."""
    webhook = await mended_and_quiet(running, maker)
    await running.kill()
    webhook.enabled = False
    running.clock.jump(HOUR)
    await running.start()
    await running.through(15 * MINUTE)

    assert not webhook.enabled
    assert len(running.log.named("webhook.switched_on")) == 1
    assert running.relay.replicas()[0].recovering == Recovering(
        None, "somebody switched off the webhook of the organisation in Konnect"
    )


async def test_a_pull_goes_on_after_a_restart(running: Running, maker: Maker) -> None:
    """It begins where it was, and no replay is tried in its place."""
    await some(running, maker)
    await running.kill()
    running.konnect.faults.add(Fault("PUT", "*/audit-log-replay-job", status=400, times=-1))
    failing = Fault("GET", "*/v3/audit-logs", status=500, after=4, times=-1)
    running.konnect.faults.add(failing)
    running.konnect.record(maker.some(5500, at=running.clock.now() + 60.0))
    running.clock.jump(HOUR)
    await running.start()
    await running.until(lambda: len(running.konnect.called("GET", "/v3/audit-logs")) > 5, "four pages")
    await running.kill()
    failing.times = 1  # the next one, and then no more
    before, tried = (running.konnect.called(*call) for call in (LOG, JOB))
    await running.start()
    await running.until(lambda: len(running.konnect.called(*LOG)) > len(before), "the next page")

    asked = [call.query["filter[ts][lte]"] for call in running.konnect.called(*LOG)]
    assert asked[len(before)] == asked[len(before) - 1] < asked[0]
    assert len(running.konnect.called(*JOB)) == len(tried)
    await all_is_well(running)


async def test_a_clock_that_is_set_back_holds_up_nothing(running: Running, maker: Maker) -> None:
    """What was to be done at a time that is far away again is done now."""
    await some(running, maker)
    running.clock.jump(2 * DAY)
    await running.through(2 * MINUTE)
    await all_is_well(running)
    running.clock.jump(-2 * DAY)
    await failing_batch(running, maker)
    await running.until(lambda: bool(running.log.named("webhook.switched_on")), "the mending")


async def test_a_note_that_cannot_be_read_is_as_none(running: Running, maker: Maker) -> None:
    """It may be another version's."""
    await some(running, maker)
    await running.kill()
    await running.start()
    await running.queue.note("recovery", '{"hooks": 3}')
    await down(running, maker, HOUR, every=MINUTE)

    await all_is_well(running)


def reloaded(running: Running, folder: Path) -> None:
    (folder / "relay.yaml").write_text(yaml.safe_dump(running.config))


async def test_a_changed_token_is_used_at_once(running: Running, maker: Maker, tmp_path: Path) -> None:
    """No restart: what was refused before is recovered."""
    await some(running, maker)
    tokens = running.konnect.organisation.tokens
    del tokens[TOKEN]
    await down(running, maker, HOUR, every=MINUTE)
    await running.through(MINUTE)
    tokens["kpat_another"] = True
    running.config["recovery"]["konnect"]["token"] = "kpat_another"

    reloaded(running, tmp_path)
    await running.relay.reload(load(tmp_path / "relay.yaml", destination_types=CONFIG_TYPES))

    await all_is_well(running)
    assert running.log.named("relay.restart_needed") == []


async def test_recovery_begins_and_ends_with_its_configuration(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem
) -> None:
    """With a portal more, and then without any of it."""
    maker = Maker()
    konnect.sender.restamps = False
    running = with_portal(Running(tmp_path, clock, konnect, siem))
    wanted = running.config.pop("recovery")
    place = Place(portal=PORTAL)
    async with running:
        bind(running)
        bind(running, place, "portal")
        await running.through(MINUTE)  # a heartbeat is stored
        await running.kill()
        clock.jump(MINUTE)
        konnect.record([maker.authentication(at=clock.now(), portal=PORTAL)])
        clock.jump(MINUTE)
        await running.start()
        await running.through(2 * MINUTE)
        assert konnect.calls == []

        running.config["recovery"] = wanted
        reloaded(running, tmp_path)
        await running.relay.reload(load(tmp_path / "relay.yaml", destination_types=CONFIG_TYPES))
        await all_is_well(running)
        assert all(running.kept(place) <= arrived.keys() for arrived in running.arrived())

        del running.config["recovery"]
        reloaded(running, tmp_path)
        await running.relay.reload(load(tmp_path / "relay.yaml", destination_types=CONFIG_TYPES))
        calls = len(konnect.calls)
        await running.through(3 * MINUTE)
        assert len(konnect.calls) == calls
        assert running.relay.replicas()[0].recovering is None
