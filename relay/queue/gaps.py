"""The rules by which gaps are kept, alike in both queues: what joins what, and how many there may be.

Pure functions over gaps. Where they are stored is each queue's own affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from relay.errors import Conflict
from relay.model import Gap

JOIN_SECONDS: Final = 120.0
"""Konnect tries again for at most about two minutes; refusals closer together are one trouble."""

MOST_OPEN: Final = 200
"""Beyond, a new gap widens an old one: fetching too much costs only time, forgetting a gap costs events."""

MOST_CLOSED: Final = 500
"""Beyond, the oldest are forgotten, those that tell of lost events last."""


def place_of(noted: Gap, opened: Sequence[Gap]) -> Gap | None:
    """The open gap that *noted* is to be joined with; None where it is one of its own."""
    ours = [gap for gap in opened if gap.source == noted.source]
    for gap in ours:
        if gap.cause == noted.cause and _distance(gap, noted) <= JOIN_SECONDS:
            return gap
    if len(opened) < MOST_OPEN:
        return None
    return min(ours, key=lambda gap: _distance(gap, noted), default=None)


def joined(gap: Gap, noted: Gap) -> Gap:
    """One gap in place of the two, under the first one's id and cause."""
    return replace(
        gap,
        start=min(gap.start, noted.start),
        end=max(gap.end, noted.end),
        refusals=gap.refusals + noted.refusals,
    )


def check_known(gap: Gap, known: Gap | None) -> None:
    """Raises `Conflict` where a gap is more than whoever closes it knows of."""
    if known is not None and (gap.start < known.start or gap.end > known.end):
        raise Conflict(f"gap {gap.id} has grown meanwhile")


def surplus(gaps: Iterable[Gap]) -> list[Gap]:
    """The closed ones among *gaps* that are to be forgotten."""
    closed = [gap for gap in gaps if gap.closed_at is not None]
    closed.sort(key=lambda gap: (gap.lost_until is not None, gap.id))
    return closed[: max(0, len(closed) - MOST_CLOSED)]


def _distance(gap: Gap, noted: Gap) -> float:
    """Seconds between the two; 0 where they touch."""
    return max(0.0, noted.start - gap.end, gap.start - noted.end)
