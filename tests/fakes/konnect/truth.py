"""What Konnect still knows: every event of the last seven days, and none that is older."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.fakes.konnect.events import AuditEvent

RETENTION = 7 * 86_400.0  # seconds; afterwards events are deleted for good


@dataclass(frozen=True, slots=True, order=True)
class Kept:
    """An event in its region. Twins differ by their number."""

    at: int  # milliseconds since the epoch
    number: int
    region: str
    event: AuditEvent


class Truth:
    """Events by their time. Deletes by the wall time it is given."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kept: list[Kept] = []
        self._made = 0
        self.deleted: list[Kept] = []  # what was too old

    def add(self, region: str, events: Iterable[AuditEvent]) -> None:
        for event in events:
            self._made += 1
            self._kept.append(Kept(event.at, self._made, region, event))
        self._kept.sort(key=lambda kept: (kept.at, kept.number))

    def ever(self) -> list[Kept]:
        """What it knows of every place, and what it has deleted."""
        self._delete()
        return [*self.deleted, *self._kept]

    def held(
        self,
        region: str,
        portal: str | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
    ) -> list[Kept]:
        """What is left of a region's organisation or portal from *start* to *end* inclusive, oldest first."""
        self._delete()
        return [
            kept
            for kept in self._kept
            if kept.region == region
            and kept.event.portal == portal
            and (start is None or kept.at >= start * 1000)
            and (end is None or kept.at <= end * 1000)
        ]

    def _delete(self) -> None:
        oldest = (self._now() - RETENTION) * 1000
        gone = bisect_left(self._kept, oldest, key=lambda kept: kept.at)
        self.deleted += self._kept[:gone]
        del self._kept[:gone]
