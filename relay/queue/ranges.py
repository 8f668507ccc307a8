"""Which events of a reader's range are settled, and how far without a break.

Numbers only: ranges may be settled in any order; those beyond the first unsettled event wait in memory
until the watermark reaches them, so that books and watermark always tell the same story.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from relay.errors import QueueError
from relay.model import DeadLetter, Settlement


@dataclass(slots=True)
class Tally:
    """What became of a range of events."""

    delivered: int = 0
    delivered_bytes: int = 0
    filtered: int = 0
    dead: tuple[DeadLetter, ...] = ()
    lost: int = 0  # events of a batch that is gone; a tally has either these or the others

    @property
    def events(self) -> int:
        return self.delivered + self.filtered + len(self.dead) + self.lost

    def without(self, events: int) -> Tally:
        """Take *events* off that were given up while they were in flight (see `Ranges.give_up`)."""
        delivered = max(0, self.delivered - events)
        filtered = max(0, self.filtered - max(0, events - self.delivered))
        dead = self.dead[max(0, events - self.delivered - self.filtered) :]
        return Tally(delivered, self.delivered_bytes, filtered, dead, max(0, self.lost - events))


class Ranges:
    """From a watermark on."""

    def __init__(self, watermark: int) -> None:
        self.watermark = watermark  # number of the first event that is not settled
        self._done: dict[int, tuple[int, Tally]] = {}  # settled beyond the watermark: start -> (end, tally)

    def settle(self, settlement: Settlement) -> None:
        """Note a range. Raises `QueueError` unless it accounts for every event in it."""
        start = settlement.start.sequence + settlement.start.offset
        end = settlement.end.sequence + settlement.end.offset
        tally = Tally(settlement.delivered, settlement.delivered_bytes, settlement.filtered, settlement.dead)
        if tally.events != end - start:
            raise QueueError(f"{tally.events} fates for the {end - start} events from {start}")
        if end <= self.watermark:
            return  # given up while in flight
        if start < self.watermark:
            start, tally = self.watermark, tally.without(self.watermark - start)
        self._done[start] = (end, tally)

    def lose(self, start: int, end: int) -> None:
        """These events are gone from the log."""
        self._done[start] = (end, Tally(lost=end - start))

    def advance(self) -> Iterator[Tally]:
        """Move the watermark over what is settled without a break.

        While a tally is given out, the watermark still stands before its range.
        """
        while (entry := self._done.pop(self.watermark, None)) is not None:
            yield entry[1]
            self.watermark = entry[0]

    def give_up(self, to: int) -> None:
        """Move the watermark to *to*, whatever is or is not settled before it."""
        self.watermark = to
        for start, (end, tally) in sorted(self._done.items()):
            if start < to:
                del self._done[start]
                if end > to:
                    self._done[to] = (end, tally.without(to - start))

    def forget(self) -> None:
        """Forget what is settled beyond the watermark: it will be read, and settled, again."""
        self._done.clear()
