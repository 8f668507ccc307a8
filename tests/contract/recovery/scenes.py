"""What happens again and again between a Konnect, a running relay and a SIEM."""

from __future__ import annotations

from tests.contract.recovery.running import AUTHORIZATION, Running
from tests.fakes.konnect import Maker, Place


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


async def all_is_well(running: Running) -> None:
    """The promise of this file, for the organisation."""
    await running.recovered()
    arrived = running.arrived()
    assert running.kept() <= arrived.keys()
    assert {name: n for name, n in arrived.items() if n > 1} == {}


async def failing_batch(running: Running, maker: Maker) -> None:
    """Konnect gives up on a batch: for a while it cannot reach the relay."""
    (destination,) = running.konnect.organisation.destinations.values()
    good, destination.endpoint = destination.endpoint, "http://127.0.0.1:9/audit-logs/konnect"
    await some(running, maker)
    destination.endpoint = good
