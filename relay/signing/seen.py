"""Which events of the log were looked at already, so that none is counted twice.

Numbers only. Neighbouring batches melt into one span, so a log read from end to end is a single one.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

_MOST_SPANS: Final = 4096


class Seen:
    """Spans of event numbers. Where there are too many, the oldest is forgotten."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __len__(self) -> int:
        """Number of spans."""
        return len(self._starts)

    def add(self, start: int, count: int) -> bool:
        """Note a batch; whether it is new. Batches never overlap in part."""
        if start in self:
            return False
        end = start + count
        at = bisect_right(self._starts, start)
        if at < len(self._starts) and self._starts[at] == end:
            end = self._ends[at]
            del self._starts[at], self._ends[at]
        if at and self._ends[at - 1] == start:
            self._ends[at - 1] = end
        else:
            self._starts.insert(at, start)
            self._ends.insert(at, end)
        if len(self._starts) > _MOST_SPANS:
            del self._starts[0], self._ends[0]
        return True
