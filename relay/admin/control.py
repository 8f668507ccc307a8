"""What the admin API needs of the running relay: the seam to the composition root.

Owns the Protocol and the few values that exist only in memory. Everything durable is asked of
the queue itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.destinations.base import ProbeReport
from relay.model import DestinationState, Response
from relay.queue.base import Queue


@dataclass(frozen=True, slots=True)
class SourceLive:
    """What this process has seen of a configured source since it started."""

    name: str
    path: str  # where it posts, e.g. `/audit-logs/konnect-us`
    last_attempt_at: float | None = None  # seconds since the epoch
    last_response_code: int | None = None  # what we answered


@dataclass(frozen=True, slots=True)
class DestinationLive:
    """What this process has seen of a configured destination since it started."""

    name: str
    type: str  # e.g. `splunk_hec`
    state: DestinationState | None  # None in a process that does not deliver
    last_attempt_at: float | None = None  # seconds since the epoch
    last_response: Response | None = None


class RelayControl(Protocol):
    """A running relay as its operators see it.

    Methods that take a destination's name raise `NotFound` for a name the relay does not know and
    `Conflict` where the present state or this process's role does not allow what was asked.
    """

    @property
    def queue(self) -> Queue: ...

    @property
    def role(self) -> str:
        """`all`, `ingest` or `deliver`."""
        ...

    @property
    def started_at(self) -> float:
        """Seconds since the epoch."""
        ...

    def sources(self) -> Sequence[SourceLive]:
        """The configured sources, in the order of the configuration."""
        ...

    def destinations(self) -> Sequence[DestinationLive]:
        """The configured destinations, in the order of the configuration."""
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
        """Contact a configured destination, sending no event where its contract allows that."""
        ...
