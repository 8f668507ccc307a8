"""What became of single events at a destination, from what a queue can say of positions.

Books count; they do not say which. But a position tells: what is before the watermarks is settled, dead
letters keep their positions, and a filter can be asked again. Owns this inference and nothing durable. What
it cannot tell: an event whose dead letter was discarded reads as delivered, and one that was settled under
an earlier filter reads as if today's had been asked.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from relay.batch import StoredBatch
from relay.model import ReaderKind, Reason
from relay.queue.base import DeadLetterFilter, Queue

_PAGE: Final = 1_000  # dead letters read at a time
_ENDLESS: Final = 1 << 62

Wanted = Callable[[StoredBatch], Collection[int]]
"""Which events of a batch a destination's filter lets through, by their indices."""


class Fate(StrEnum):
    """What became of one event at one destination."""

    DELIVERED = "delivered"
    FILTERED = "filtered"  # settled, and its filter as it is now excludes the event
    DEAD_LETTERED = "dead_lettered"  # and kept, or given up
    BACKLOG = "backlog"  # not settled yet, as far as is stored
    NOT_OWED = "not_owed"  # accepted before the destination was there


class Letters:
    """Positions of dead letters, as stretches: neighbours cost nothing more."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        """From pairs of position and count, in any order."""
        self._starts = array("q")
        self._ends = array("q")
        for start, count in sorted(spans):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], start + count)
            else:
                self._starts.append(start)
                self._ends.append(start + count)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far one destination was at one moment, in event numbers."""

    owed_from: int
    backlog: tuple[tuple[int, int], ...]  # [start, end) of what was not settled
    letters: Letters
    kept_back: Letters  # of these, for a signature that does not verify

    def fates(self, batch: StoredBatch, wanted: Collection[int]) -> list[Fate]:
        """The fate of each event of *batch*, where *wanted* are those its filter lets through."""
        return [self._fate(batch.sequence + index, index in wanted) for index in range(batch.count)]

    def _fate(self, number: int, wanted: bool) -> Fate:
        if number < self.owed_from:
            return Fate.NOT_OWED
        if any(start <= number < end for start, end in self.backlog):
            return Fate.BACKLOG
        if number in self.letters:
            return Fate.DEAD_LETTERED
        return Fate.DELIVERED if wanted else Fate.FILTERED


async def standings(queue: Queue, names: Sequence[str]) -> Mapping[str, Standing]:
    """Where these destinations stand now. Raises `QueueError`."""
    # Positions first: what a watermark has passed has its dead letter by the time that letters are read.
    places = {name: _place(queue, name) for name in names}
    found = {}
    for name, (owed_from, backlog) in places.items():
        found[name] = Standing(owed_from, backlog, *await _letters(queue, name))
    return found


def _place(queue: Queue, name: str) -> tuple[int, tuple[tuple[int, int], ...]]:
    """From which event on it is owed, and which of these it lacks."""
    backlog = []
    head = queue.stats().head.sequence
    for reader in queue.readers(name):
        mark = reader.watermark.sequence + reader.watermark.offset
        if reader.kind is ReaderKind.LIVE:
            # Where another process delivers, it may have seen more of the log than we have.
            head = max(head, mark)
            backlog.append((mark, _ENDLESS))  # what is appended meanwhile is owed, too
        elif reader.kind is ReaderKind.BACKFILL:
            backlog.append((mark, mark + reader.backlog().events))
    # What is owed is one stretch: a back-fill ends where the live reader began.
    return head - queue.books(name).owed, tuple(backlog)


async def _letters(queue: Queue, name: str) -> tuple[Letters, Letters]:
    """All, and those for a signature."""
    spans: list[tuple[int, int]] = []
    kept_back: list[tuple[int, int]] = []
    after = 0
    while True:
        page = await queue.dead_letters(DeadLetterFilter(destination=name), after=after, limit=_PAGE)
        for letter in page:
            span = letter.position.sequence + letter.position.offset, letter.count
            _note(spans, span)
            if letter.reason is Reason.SIGNATURE:
                _note(kept_back, span)
        if len(page) < _PAGE:
            return Letters(spans), Letters(kept_back)
        after = page[-1].id


def _note(spans: list[tuple[int, int]], span: tuple[int, int]) -> None:
    if spans and sum(spans[-1]) == span[0]:  # where a destination refuses everything
        spans[-1] = (spans[-1][0], spans[-1][1] + span[1])
    else:
        spans.append(span)
