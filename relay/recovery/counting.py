"""How many events a replay job of ours brought: what its source accepts while it runs.

Owns the comparison. Live events of that time are counted as well; nothing tells them from replayed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from relay.model import Format


class Accepted(Protocol):
    """Who knows what was accepted. `relay.queue.base.Queue` is one."""

    def accepted(self) -> Mapping[tuple[str, Format], int]: ...


class Tally(Protocol):
    """Where recovered events are counted. `relay.observe.metrics.Metrics` is one."""

    def recovered(self, source: str, events: int) -> None: ...


class Counting:
    """Of one job at a time."""

    def __init__(self, accepted: Accepted, tally: Tally) -> None:
        self._accepted = accepted
        self._tally = tally
        self._source: str | None = None
        self._events = 0  # what it had accepted when we looked last

    def begin(self, source: str) -> None:
        """A job begins that brings events of *source*."""
        self._source, self._events = source, self._now(source)

    def look(self) -> None:
        """Count what came since the last look."""
        if self._source is not None:
            events = self._now(self._source)
            self._tally.recovered(self._source, max(0, events - self._events))
            self._events = events

    def end(self) -> None:
        """The job is over."""
        self.look()
        self._source = None

    def _now(self, source: str) -> int:
        return sum(n for (name, _), n in self._accepted.accepted().items() if name == source)
