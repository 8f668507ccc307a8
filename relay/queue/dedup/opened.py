"""Batches that were opened to compare events with theirs, and which of their events stand for which.

Who has the id of a stored event is that event. Who only says the same may be its *twin*: the same happened
twice in a millisecond, and both were written down and signed. What tells a twin from a replay is when it
comes, and whether the stored one has come again itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from relay.queue.dedup.names import Names

CONTENT_AFTER: Final = 20.0
"""Seconds after which an event that says the same as a stored one may be a replay of it.

Konnect tries again with the same bytes, so those have the same ids. Only a replay job stamps and signs anew,
and somebody has to ask for it first: recovery waits that long after a gap. What comes earlier happened twice.
"""

_EVENTS: Final = 50_000  # of the batches that are kept open; with the names of both kinds about 12 MB


@dataclass(frozen=True, slots=True)
class Opened:
    """The names of a stored batch."""

    received_at: float  # seconds since the epoch
    ids: AbstractSet[str]
    contents: Mapping[str, str]  # what its events say, in order, each with the event's id

    @classmethod
    def of(cls, received_at: float, names: Names) -> Opened:
        contents = dict(zip(names.contents, names.ids, strict=True))
        return cls(received_at, frozenset(names.ids), contents)

    @classmethod
    def remembered(cls, received_at: float, names: Sequence[str]) -> Opened:
        """Of what is kept of a batch that is gone: its ids, and then what its events say.

        Older relays kept nothing but ids. Those are found in both halves, and never equal a content.
        """
        half = len(names) // 2
        return cls(received_at, frozenset(names), dict(zip(names[half:], names[:half], strict=False)))

    def says(self, content: str, *, at: float, request: AbstractSet[str]) -> bool:
        """Whether an event here says the same and may be the same as one of other bytes, received *at*.

        *request*: the ids of all events that came with it. One that is among them has come again, and is not
        the other one as well. Where a clock was set back the batch is of the future: then no content counts.
        """
        if self.received_at > at - CONTENT_AFTER:
            return False
        event_id = self.contents.get(content)
        return event_id is not None and event_id not in request


NOTHING: Final = Opened(0.0, frozenset(), {})


class LastOpened:
    """The batches that were opened last, by their place in the log: few large ones, or many small ones."""

    def __init__(self) -> None:
        self._batches: OrderedDict[int, Opened] = OrderedDict()
        self._events = 0

    def get(self, sequence: int) -> Opened | None:
        found = self._batches.get(sequence)
        if found is not None:
            self._batches.move_to_end(sequence)
        return found

    def put(self, sequence: int, batch: Opened) -> None:
        self._events -= len(self._batches.pop(sequence, NOTHING).ids)
        self._batches[sequence] = batch
        self._events += len(batch.ids)
        while self._events > _EVENTS:
            _, gone = self._batches.popitem(last=False)
            self._events -= len(gone.ids)
