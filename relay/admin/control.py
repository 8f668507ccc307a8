"""What the admin API needs of the running relay: the seam to the composition root.

Owns the Protocol and the few values it takes from the configuration. Everything durable is asked of
the queue itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relay.destinations.base import ProbeReport
from relay.model import Replica
from relay.queue.base import Queue
from relay.queue.fates import Wanted
from relay.signing.desk import SourceSignatures


@dataclass(frozen=True, slots=True)
class ConfiguredSource:
    """A source of this process's configuration."""

    name: str
    path: str  # where it posts, e.g. `/audit-logs/konnect-us`
    signatures: SourceSignatures | None = None  # what this process found; None: it checks none of them


@dataclass(frozen=True, slots=True)
class ConfiguredDestination:
    """A destination of this process's configuration."""

    name: str
    type: str  # e.g. `splunk_hec`


@dataclass(frozen=True, slots=True)
class KonnectAccess:
    """What this process knows of Konnect's side. Holds no token."""

    region: str | None = None  # None: not configured
    recovers: bool = False  # it has a token, so gaps are closed by the relay
    margin: float = 120.0  # seconds around a gap
    webhooks: Mapping[str, str | None] = field(default_factory=dict)
    """By source, which has one at most: a Dev Portal's, by its id, or the organisation's (None)."""

    @property
    def recovered(self) -> frozenset[str]:
        """The sources whose gaps the relay is to close."""
        return frozenset(self.webhooks) if self.recovers else frozenset()


@dataclass(frozen=True, slots=True)
class PulledSpan:
    """What pulling a span of the organisation's log brought."""

    source: str
    entries: int  # of the log
    accepted: int  # of these, what had not come before
    reached: str  # how far back it came: everything from here on is done


class RelayControl(Protocol):
    """A running relay as its operators see it.

    Methods that take a destination's name raise `NotFound` for a name the relay does not know and
    `Conflict` where the present state or this process's role does not allow what was asked. They work in
    every process that sees delivery, whichever of them delivers to the destination.
    """

    @property
    def queue(self) -> Queue: ...

    def replicas(self) -> Sequence[Replica]:
        """The processes at work on the same queue; this one first, as it is now."""
        ...

    def sources(self) -> Sequence[ConfiguredSource]:
        """The configured sources, in the order of the configuration."""
        ...

    def destinations(self) -> Sequence[ConfiguredDestination]:
        """The configured destinations, in the order of the configuration."""
        ...

    def wanted(self, destination: str) -> Wanted:
        """What the destination's filter lets through, as it is configured now; everything without one."""
        ...

    def konnect(self) -> KonnectAccess:
        """What is known of Konnect's side."""
        ...

    async def pull(self, start: float, end: float, region: str | None) -> PulledSpan:
        """Append what the organisation's log holds of a span and was never received.

        Raises `Conflict` where this process accepts nothing, has no token of Konnect's, or one of another
        region than *region*; `RelayError` where Konnect does not give the log.
        """
        ...

    async def hold(self, destination: str, detail: str) -> None:
        """Stop sending until `resume`; survives a restart. Holding twice changes only *detail*."""
        ...

    async def resume(self, destination: str) -> None:
        """Lift whatever hold there is and try at once."""
        ...

    async def forget(self, destination: str) -> None:
        """Drop a destination's backlog, books and dead letters.

        Raises `Conflict` while the destination is configured: it would only start again from now.
        """
        ...

    async def test(self, destination: str) -> ProbeReport:
        """Contact a configured destination, sending no event where its contract allows that.

        Raises `Conflict` in a process that does not deliver.
        """
        ...
