"""A relay without listeners and workers: the admin API's other side over a real queue."""

from __future__ import annotations

from collections.abc import Sequence

from relay.admin.control import DestinationLive, SourceLive
from relay.clock import Clock
from relay.destinations.base import ProbeReport
from relay.errors import Conflict, NotFound
from relay.model import DestinationState, Hold, HoldReason, Response
from relay.queue.base import Queue


class OperatedRelay:
    """Implements `relay.admin.control.RelayControl` for the destinations it is given."""

    def __init__(
        self, queue: Queue, clock: Clock, sources: Sequence[str], destinations: Sequence[str]
    ) -> None:
        self.queue = queue
        self.role = "all"
        self.started_at = clock.now()
        self.probe = ProbeReport(ok=True, detail="It answers.")
        self.answered: dict[str, tuple[float, int]] = {}  # by source: when, with which code
        self.responses: dict[str, tuple[float, Response]] = {}  # by destination
        self._clock = clock
        self._sources = sources
        self._destinations = list(destinations)

    def sources(self) -> Sequence[SourceLive]:
        return [
            SourceLive(name, f"/audit-logs/{name}", *self.answered.get(name, (None, None)))
            for name in self._sources
        ]

    def destinations(self) -> Sequence[DestinationLive]:
        return [
            DestinationLive(name, "http", self._state(name), *self.responses.get(name, (None, None)))
            for name in self._destinations
        ]

    def _state(self, name: str) -> DestinationState:
        hold = self.queue.hold(name)
        if hold is None:
            retrying = self.queue.readers(name)[0].retry.attempts
            return DestinationState.RETRYING if retrying else DestinationState.ACTIVE
        return DestinationState.PAUSED if hold.reason is HoldReason.OPERATOR else DestinationState.HELD

    def remove(self, destination: str) -> None:
        """Take it out of the configuration."""
        self._destinations.remove(destination)

    async def hold(self, destination: str, detail: str) -> None:
        self._known(destination)
        await self.queue.set_hold(destination, Hold(HoldReason.OPERATOR, self._clock.now(), detail))

    async def resume(self, destination: str) -> None:
        self._known(destination)
        await self.queue.set_hold(destination, None)

    async def forget(self, destination: str) -> None:
        if destination in self._destinations:
            raise Conflict(f"{destination} is configured; take it out of the configuration first.")
        await self.queue.forget(destination)

    async def test(self, destination: str) -> ProbeReport:
        self._known(destination)
        return self.probe

    def _known(self, destination: str) -> None:
        if destination not in self._destinations:
            raise NotFound(f"There is no destination {destination!r}.")
