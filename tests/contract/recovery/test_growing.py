"""Gaps that do not end: what there is of them by now is fetched all the same."""

from __future__ import annotations

import aiohttp

from tests.contract.recovery.running import AUTHORIZATION, Running
from tests.contract.recovery.scenes import HOUR, MINUTE, all_is_well, some
from tests.fakes.konnect import Maker, Place


async def refused(running: Running) -> None:
    """Somebody who has the secret sends what the relay will not take."""
    url = f"http://127.0.0.1:{running.port}/audit-logs/konnect"
    headers = {"Authorization": AUTHORIZATION, "Content-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, data=b"\x1f\x8bx") as answer,
    ):
        assert answer.status == 400


async def test_a_refusal_every_quarter_of_a_minute_keeps_nothing_from_being_recovered(
    running: Running, maker: Maker
) -> None:
    """They are one gap, which is open as long as they go on; Konnect keeps its events for a week only."""
    await some(running, maker)
    missed = maker.some(10, at=running.clock.now())
    running.konnect.record(missed)
    for _ in range(260):
        await refused(running)
        await running.through(15.0, step=5.0)

    assert [gap.cause for gap in await running.queue.gaps()] == ["400"]
    assert running.kept() <= running.arrived()[0].keys()
    await all_is_well(running)


async def test_a_webhook_that_stays_switched_off_is_pulled_by_the_hour(
    running: Running, maker: Maker
) -> None:
    """Each hour once, however long it takes: the next look at the webhook begins no pull anew.

    The rest is pulled as well, although it could be replayed: what came last before the first pull would
    come a second time.
    """
    await some(running, maker)
    await running.through(MINUTE)
    running.konnect.organisation.webhook(Place()).enabled = False
    off = running.clock.now()
    for _ in range(140):
        running.konnect.record(maker.some(10, at=running.clock.now()))
        await running.through(30.0, step=5.0)

    arrived = running.arrived()[0].keys()
    assert {name for name, at in running.happened().items() if at < off + HOUR - 5 * MINUTE} <= arrived
    assert len(running.konnect.called("GET", "/v3/audit-logs")) < 5
    assert [gap.cause for gap in await running.queue.gaps()] == ["inactive"]
    running.konnect.organisation.webhook(Place()).enabled = True
    await all_is_well(running)


async def test_what_happened_between_the_last_look_at_an_inactive_webhook_and_its_end_is_fetched(
    running: Running, maker: Maker
) -> None:
    """Somebody switches it on between two looks, which may be further apart than the margin is wide."""
    running.config["recovery"]["konnect"]["status_interval"] = "10m"
    await running.stop()
    await running.start()
    await some(running, maker)
    await running.through(11 * MINUTE)
    webhook = running.konnect.organisation.webhook(Place())
    webhook.enabled = False
    await running.until(lambda: bool(running.log.named("webhook.inactive")), "the look")
    for _ in range(18):
        running.konnect.record(maker.some(10, at=running.clock.now()))
        await running.through(30.0)
    webhook.enabled = True
    await all_is_well(running)
