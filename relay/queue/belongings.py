"""What a queue holds, in a form that every engine can give and take: what is carried when a queue moves.

Values only. Events are named by their number, and numbers do not change on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Final

from pydantic import TypeAdapter

from relay import gzipped
from relay.konnect.lines import event_ids
from relay.model import Batch, Format, Gap, Hold, ReaderKind, Reason, RetryState
from relay.queue.base import StoredDeadLetter


class Part(StrEnum):
    """What is carried item by item, in this order."""

    BATCHES = "batches"  # the log, by number
    REMEMBERED = "remembered"  # ids of batches that were purged and may still come again
    DEAD_LETTERS = "dead_letters"  # those a redrive has taken first, then by age
    QUARANTINED = "quarantined"  # what nobody could read, by age


@dataclass(frozen=True, slots=True)
class MovedBatch:
    """A batch of the log."""

    number: int  # of its first event
    source: str
    received_at: float  # seconds since the epoch
    formats: tuple[tuple[Format, int], ...]
    payload: bytes  # gzip of the lines
    ordinals: tuple[int, ...] | None  # where twins are not simply counted inside the batch
    # Whether its events are to be found again when they come a second time. Queues know it of a batch
    # or only of its source, so it is no part of the comparison.
    deduplicated: bool = field(compare=False)
    pulled: bool = False

    @property
    def count(self) -> int:
        """Number of events."""
        return sum(n for _, n in self.formats)

    @property
    def end(self) -> int:
        """The number behind its last event."""
        return self.number + self.count

    def batch(self) -> Batch:
        """The batch as it was on its way into the queue. What a broken gzip raises it passes on."""
        body = gzipped.decompress(self.payload)
        lines = body.split(b"\n")[:-1]
        return Batch(self.source, self.received_at, self.formats, body, self.payload, lines, self.pulled)

    def is_made_of(self, pieces: Sequence[MovedBatch]) -> bool:
        """Whether *pieces*, which follow each other, are this batch, cut."""
        batches = [piece.batch() for piece in pieces]
        return (
            {(piece.source, piece.received_at, piece.pulled) for piece in pieces}
            == {(self.source, self.received_at, self.pulled)}
            and [piece.number for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
            and (pieces[0].number, pieces[-1].end) == (self.number, self.end)
            and b"".join([batch.body for batch in batches]) == self.batch().body
            and [each for piece in pieces for each in piece.ids()] == self.ids()
        )

    def ids(self) -> list[str]:
        """The event ids."""
        return event_ids(self.batch().lines, self.ordinals, pulled=self.pulled)


@dataclass(frozen=True, slots=True)
class Remembered:
    """The events of a batch that is gone, kept so that a second copy is recognised."""

    source: str
    received_at: float  # seconds since the epoch
    ids: tuple[str, ...]
    # Spans of event time, in milliseconds, which together hold every event that has one. A queue may keep
    # wider ones, which costs it comparisons and nothing else; so they are not compared.
    times: tuple[tuple[int, int], ...] = field(compare=False)
    # BLAKE2b of each event without a time: of its identity, five bytes, the highest first.
    untimed: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Bytes nobody could understand."""

    created_at: float  # seconds since the epoch
    source: str
    cause: str
    body: bytes
    number: int | None = None  # of a batch that failed its checksum
    count: int | None = None


Item = MovedBatch | Remembered | StoredDeadLetter | Quarantined
"""Dead letters are carried with the id 0: each queue gives its own."""


@dataclass(frozen=True, slots=True)
class SourceBooks:
    """What was accepted from one source, ever."""

    name: str
    accepted: tuple[tuple[Format, int], ...]  # by name of the format
    duplicates: int
    last_received: float | None  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class MovedReader:
    """A reader; numbers of events."""

    kind: ReaderKind
    start: int
    watermark: int
    stop: int | None  # exclusive; None: it follows the log
    rate: float | None  # events per second
    retry: RetryState
    left: int = 0  # dead letters a redrive still has before it


@dataclass(frozen=True, slots=True)
class DestinationBooks:
    """A destination's account; meanings as in `relay.model.Books`."""

    name: str
    start: int  # number of the first event owed
    backfilled: int
    delivered: int
    delivered_bytes: int
    filtered: int
    dead: int  # kept at present
    discarded: int
    replayed: int
    dead_by_reason: tuple[tuple[Reason, int], ...]  # by name of the reason
    hold: Hold | None
    readers: tuple[MovedReader, ...]  # the live one first


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that is small."""

    head: int  # the number the next event will get
    first: int  # the oldest number that is retained or still owed
    sources: tuple[SourceBooks, ...]  # by name
    destinations: tuple[DestinationBooks, ...]  # in the order they were made
    gaps: tuple[Gap, ...]  # numbered from 1
    alive_at: float | None  # when the relay was last known to accept
    sizes: Mapping[Part, int] = field(compare=False)  # how many items about; broken ones are not carried

    def digest(self) -> str:
        """Tells this state of this queue from every other one."""
        return sha256(_INVENTORY.dump_json(self, exclude={"sizes"})).hexdigest()


_INVENTORY: Final = TypeAdapter(Inventory)
