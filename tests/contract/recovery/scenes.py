"""What scenarios are made of, and what has to hold after each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.contract.recovery.running import AUTHORIZATION, Running
from tests.fakes.konnect import PORTAL, Maker, Place
from tests.fakes.konnect.organisation import Webhook

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
SLACK = 2 * MINUTE  # between the relay's word and the truth: recovery asks a minute late, to be sure

on_both = pytest.mark.parametrize("engine", ["sqlite", "jetstream"], indirect=True)
"""For scenarios that the queue has a part in; the others are about what Konnect says and does."""


async def all_is_well(running: Running) -> None:
    """Each SIEM has everything that Konnect still has, once, and the gaps say what is lost for ever."""
    await running.recovered()
    gaps = await running.gaps()
    assert all(gap.closed_at is not None for gap in gaps)
    lost = [(gap.start, gap.lost_until) for gap in gaps if gap.lost_until is not None]
    happened = running.happened()
    for arrived in running.arrived():
        assert running.kept() <= arrived.keys() <= happened.keys()
        assert {name: n for name, n in arrived.items() if n > 1} == {}
        for at in [at for name, at in happened.items() if name not in arrived]:
            assert any(start - SLACK <= at <= until for start, until in lost), (
                f"nobody says that {at} is lost"
            )
    for gap in gaps:  # what is called lost is something that Konnect had deleted by then
        if gap.closed_at is not None and gap.lost_until is not None:
            assert gap.lost_until <= gap.closed_at - 7 * DAY + SLACK


def bind(running: Running, place: Place | None = None, source: str = "konnect") -> None:
    endpoint = f"http://127.0.0.1:{running.port}/audit-logs/{source}"
    running.konnect.organisation.bind(endpoint, AUTHORIZATION, place=place)


async def some(running: Running, maker: Maker, number: int = 20) -> None:
    """Events happen and arrive."""
    running.konnect.happen(maker.some(number, at=running.clock.now()))
    await running.until(lambda: all(it.over.is_set() for it in running.konnect.sender.sendings), "sending")


async def down(running: Running, maker: Maker, seconds: float, *, every: float) -> None:
    """Nobody is there for a time in which things go on happening; Konnect gives up on the first batch."""
    await running.kill()
    running.konnect.happen(maker.some(10, at=running.clock.now()))
    await running.until(lambda: all(it.over.is_set() for it in running.konnect.sender.sendings), "giving up")
    left = seconds
    while left > 0:
        running.clock.jump(min(every, left))
        running.konnect.record(maker.some(3, at=running.clock.now()))
        left -= every
    await running.start()


def with_portal(running: Running) -> Running:
    """A Dev Portal beside the organisation, with a source of its own."""
    running.config["sources"].append({"name": "portal", "authorization": AUTHORIZATION})
    running.config["recovery"]["konnect"] |= {
        "source": "konnect",
        "portals": [{"id": PORTAL, "source": "portal"}],
    }
    return running


async def mended_and_quiet(running: Running, maker: Maker) -> Webhook:
    """The relay has switched the webhook on, and no batch came since: its last attempt is the failed one."""
    await some(running, maker)
    await failing_batch(running, maker)
    await running.until(lambda: bool(running.log.named("webhook.switched_on")), "the mending")
    await all_is_well(running)
    await running.through(2 * MINUTE)
    webhook = running.konnect.organisation.webhook(Place())
    webhook.last_code, webhook.last_message = 500, "answered 500"  # as if no batch had come since
    await running.through(3 * MINUTE)
    return webhook


@contextmanager
def unreachable(running: Running) -> Iterator[None]:
    """For the time of the block Konnect cannot reach the relay; the relay reaches Konnect."""
    (destination,) = running.konnect.organisation.destinations.values()
    good, destination.endpoint = destination.endpoint, "http://127.0.0.1:9/audit-logs/konnect"
    yield
    destination.endpoint = good


async def failing_batch(running: Running, maker: Maker) -> None:
    """Konnect gives up on a batch."""
    with unreachable(running):
        await some(running, maker)


async def until_refused(running: Running, maker: Maker) -> None:
    """Events happen until Konnect gives up on some.

    In the beginning long before the gap: while the queue is nearly full it gives up the ids of what was
    delivered first (ADR 0003), which would come twice if it lay within the gap's margin.
    """
    sender = running.konnect.sender
    while not any(sending.given_up for sending in sender.sendings):
        running.konnect.happen(maker.some(100, at=running.clock.now()), batch=100)
        await running.through(20.0)
