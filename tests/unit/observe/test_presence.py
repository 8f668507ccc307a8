"""A process among the others of its relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog
from structlog.testing import CapturingLogger

from relay.errors import QueueError
from relay.model import Replica, Sighting
from relay.observe.presence import BEAT, Presence
from relay.observe.replicas import holder, last_seen
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW

OWN = Replica("own", "1.0", "all", NOW, "c0ffee")
OTHER = Replica("other", "1.0", "all", NOW, "c0ffee")


class Board:
    """Where replicas tell of themselves, in memory."""

    def __init__(self) -> None:
        self.told: list[Replica] = []
        self.others: list[Replica] = []
        self.reachable = True

    async def announce(self, replica: Replica) -> None:
        if not self.reachable:
            raise QueueError
        self.told.append(replica)

    def replicas(self) -> Sequence[Replica]:
        return [*self.told[-1:], *self.others]


class Process:
    """One with a presence on *board*."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        self.board = Board()
        self.own = OWN
        self.logged = CapturingLogger()
        log = structlog.wrap_logger(self.logged, processors=[], wrapper_class=structlog.BoundLogger)
        self.presence = Presence(self.board, lambda: self.own, clock=self.clock, log=log)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.presence.run())
            assert await self.clock.next_wake() == BEAT
            yield
            task.cancel()

    def said(self) -> list[tuple[str, object]]:
        return [(call.method_name, call.kwargs["event"]) for call in self.logged.calls]


async def test_a_process_tells_of_itself_with_every_beat() -> None:
    """As it is then, and also when nothing changed: it is a sign of life."""
    process = Process()
    async with process.running():
        process.own = replace(OWN, destinations={"sumo": Sighting()})
        await process.clock.advance(2 * BEAT)

    assert process.board.told == [OWN, process.own, process.own]


async def test_an_unreachable_queue_does_not_end_the_beat() -> None:
    """The next one is as good a sign of life."""
    process = Process()
    process.board.reachable = False
    async with process.running():
        await process.clock.advance(BEAT)
        process.board.reachable = True
        await process.clock.advance(BEAT)

    assert process.board.told == [OWN]
    assert process.said() == []


async def test_the_own_description_is_first_and_never_stale() -> None:
    """Also before it was told to anyone."""
    process = Process()
    process.board.others = [OTHER]
    assert process.presence.replicas() == (OWN, OTHER)

    async with process.running():
        process.own = replace(OWN, configuration="facade")
        assert process.presence.replicas() == (process.own, OTHER)


async def test_a_different_configuration_is_complained_of_once_per_change() -> None:
    """Not with every beat; and it is said when all agree again."""
    process = Process()
    process.board.others = [OTHER]
    differs, agrees = ("warning", "configuration.differs"), ("info", "configuration.agrees")
    async with process.running():
        assert process.said() == []
        process.board.others = [replace(OTHER, configuration="facade")]
        await process.clock.advance(3 * BEAT)
        assert process.said() == [differs]
        process.own = replace(OWN, configuration="beef")
        await process.clock.advance(3 * BEAT)
        assert process.said() == [differs] * 2
        process.own = replace(OWN, configuration="facade")
        await process.clock.advance(3 * BEAT)

    assert process.said() == [differs, differs, agrees]
    assert process.logged.calls[0].kwargs["others"] == {"other": "facade"}


def test_who_delivers() -> None:
    """The one that says so; nobody while a lease changes hands."""
    other = replace(OTHER, destinations={"sumo": Sighting(NOW, 200)})

    assert holder([OWN, other], "sumo") is other
    assert holder([OWN, other], "splunk") is None


def test_the_newest_request_of_a_source() -> None:
    """Whichever replica answered it; a replica that has seen none does not count."""
    own = replace(OWN, sources={"eu": Sighting(), "us": Sighting(NOW, 200)})
    other = replace(OTHER, sources={"eu": Sighting(NOW, 429)})

    assert last_seen([own, other], "eu") == Sighting(NOW, 429)
    assert last_seen([own, other], "us") == Sighting(NOW, 200)
    assert last_seen([own, other], "au") == Sighting()
