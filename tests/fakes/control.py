"""A relay without listeners and workers: the admin API's other side over a real queue."""

from __future__ import annotations

from collections.abc import Sequence

from relay import __version__
from relay.admin.control import ConfiguredDestination, ConfiguredSource, KonnectAccess, PulledSpan
from relay.admin.times import rfc3339
from relay.clock import Clock
from relay.config.destination import Filter
from relay.delivery.filter import wanted
from relay.destinations.base import ProbeReport
from relay.errors import Conflict, NotFound
from relay.model import Hold, HoldReason, Replica, Sighting
from relay.queue.base import Queue
from relay.queue.fates import Wanted


class OperatedRelay:
    """Implements `relay.admin.control.RelayControl` for the destinations it is given."""

    def __init__(
        self, queue: Queue, clock: Clock, sources: Sequence[str], destinations: Sequence[str]
    ) -> None:
        self.queue = queue
        self.probe = ProbeReport(ok=True, detail="It answers.")
        self.answered: dict[str, Sighting] = {}  # by source
        self.responses: dict[str, Sighting] = {name: Sighting() for name in destinations}
        self.filters: dict[str, Filter] = {}  # by destination
        self.access = KonnectAccess()
        self.pulled: list[tuple[float, float]] = []
        self.others: list[Replica] = []  # beside this one
        self._started_at = clock.now()
        self._clock = clock
        self._sources = sources
        self._destinations = list(destinations)

    def replicas(self) -> Sequence[Replica]:
        own = Replica(
            "a1b2", __version__, "all", self._started_at, "c0ffee", dict(self.answered), dict(self.responses)
        )
        return (own, *self.others)

    def sources(self) -> Sequence[ConfiguredSource]:
        return [ConfiguredSource(name, f"/audit-logs/{name}") for name in self._sources]

    def destinations(self) -> Sequence[ConfiguredDestination]:
        return [ConfiguredDestination(name, "http") for name in self._destinations]

    def konnect(self) -> KonnectAccess:
        return self.access

    def remove(self, destination: str) -> None:
        """Take it out of the configuration."""
        self._destinations.remove(destination)
        self.responses.pop(destination, None)

    def wanted(self, destination: str) -> Wanted:
        return wanted(self.filters.get(destination, Filter()))

    async def pull(self, start: float, end: float, region: str | None) -> PulledSpan:
        if region not in (None, self.access.region):
            raise Conflict(f"the relay's region is {self.access.region}, not {region}")
        self.pulled.append((start, end))
        return PulledSpan(self._sources[0], 3, 2, rfc3339(start))

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
