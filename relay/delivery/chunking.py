"""What is cut from the log into one request, and the exact range of the log it answers for.

Owns the arithmetic between events in a request and positions in the log: cutting to size, splitting,
and turning fates into settlements, filtered events included. Never reads, sends or settles.

    batch 1200                     batch 1300
    ├────────────────────────────┤ ├──────────────────────┤        the log
    [ stretch 0..99              ] [ stretch 0..39 ]               one `Work`, one request
      0 1 2 · 4 · 6 …                0 1 2 3 …                     the events that passed the filter

Whole batches without a filter cost nothing per event: a stretch is then a `range`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from relay.batch import Chunk, Slice, StoredBatch
from relay.model import DeadLetter, Position, Reason, Response, Settlement

_MOST_HELD: Final = (
    8 << 20
)  # bytes that may be read ahead for one request, however little of it a filter keeps
_STRETCH_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive events [start, stop) of one batch, and those of them that passed the filter."""

    batch: StoredBatch
    start: int
    stop: int
    kept: range | tuple[int, ...]

    @classmethod
    def of(cls, batch: StoredBatch, start: int) -> Stretch:
        """Everything from *start* to the batch's end, unfiltered."""
        return cls(batch, start, batch.count, range(start, batch.count))

    @property
    def filtered(self) -> int:
        return self.stop - self.start - len(self.kept)

    @property
    def nbytes(self) -> int:
        """Uncompressed bytes of the events kept, one line end each."""
        if len(self.kept) == self.batch.count:
            return self.batch.nbytes
        if not self.kept:
            return 0
        return sum([len(self.batch.line(i)) for i in self.kept]) + len(self.kept)

    @property
    def held(self) -> int:
        """Bytes of memory that this keeps, about: one event let through keeps its whole batch."""
        return _STRETCH_BYTES + (self.batch.held if self.kept else 0)

    def continues(self, other: Stretch) -> bool:
        """Whether nothing lies between *other* and this.

        A break in the numbering of the batches means that the queue passed over something, which
        it books itself.
        """
        if self.batch.sequence == other.batch.sequence:
            return self.start == other.stop
        return (
            self.start == 0
            and other.stop == other.batch.count
            and self.batch.sequence == other.batch.sequence + other.batch.count
        )

    def cut(self, events: int) -> tuple[Stretch, Stretch]:
        """The first *events* kept events with what is filtered between them, and the remainder."""
        at = self.kept[events]
        return (
            Stretch(self.batch, self.start, at, self.kept[:events]),
            Stretch(self.batch, at, self.stop, self.kept[events:]),
        )


@dataclass(frozen=True, slots=True)
class Work:
    """Stretches in log order whose events go out in one request. May answer for no event at all."""

    stretches: tuple[Stretch, ...]
    events: int
    nbytes: int  # uncompressed bytes of the events, one line end each

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Work:
        return cls(
            tuple(stretches),
            sum([len(stretch.kept) for stretch in stretches]),
            sum([stretch.nbytes for stretch in stretches]),
        )

    @property
    def chunk(self) -> Chunk:
        return Chunk(tuple([Slice(s.batch, s.kept) for s in self.stretches if s.kept]))

    @property
    def oldest_received_at(self) -> float:
        """Arrival of the event that waited longest, seconds since the epoch."""
        return min([stretch.batch.received_at for stretch in self.stretches])

    def unfit(self) -> Sequence[int]:
        """Indices of events that must not go out: they cannot be put into the form the destination needs."""
        found: list[int] = []
        index = 0
        for stretch in self.stretches:
            if unfit := frozenset(stretch.batch.unfit(stretch.kept)):
                found += [index + n for n, at in enumerate(stretch.kept) if at in unfit]
            index += len(stretch.kept)
        return found

    def halves(self) -> tuple[Work, Work]:
        """Two parts of as many events each as possible; there must be two events."""
        return self.part(range(self.events // 2))

    def part(self, indices: Collection[int]) -> tuple[Work, Work]:
        """The events with these *indices* and the others, each with filtered events that follow it."""
        chosen: list[Stretch] = []
        others: list[Stretch] = []
        index = 0
        for stretch in self.stretches:
            start = stretch.start
            side = chosen if index in indices else others
            run: list[int] = []
            for kept in stretch.kept:
                wanted = chosen if index in indices else others
                if wanted is not side:
                    side.append(Stretch(stretch.batch, start, kept, tuple(run)))
                    start, run = kept, []
                side = wanted
                run.append(kept)
                index += 1
            side.append(Stretch(stretch.batch, start, stretch.stop, _compact(run)))
        return Work.of(chosen), Work.of(others)

    def settlements(self, dead: Mapping[int, tuple[Reason, Response]] | None = None) -> Iterator[Settlement]:
        """One settlement for each unbroken run: events listed in *dead* by index, all others delivered."""
        dead = dead or {}
        index = 0
        for run in self._runs():
            events = sum([len(stretch.kept) for stretch in run])
            letters, dead_bytes = _letters(run, index, dead) if dead else ((), 0)
            delivered = events - len(letters)
            yield Settlement(
                start=Position(run[0].batch.sequence, run[0].start),
                end=Position(run[-1].batch.sequence, run[-1].stop),
                delivered=delivered,
                delivered_bytes=(
                    self.nbytes if len(run) == len(self.stretches) else sum([s.nbytes for s in run])
                )
                - dead_bytes,
                filtered=sum([stretch.filtered for stretch in run]),
                dead=letters,
                oldest_received_at=min([s.batch.received_at for s in run if s.kept]) if delivered else None,
                unread=sum([stretch.batch.unread(stretch.kept) for stretch in run]),
            )
            index += events

    def all_dead(self, reason: Reason, response: Response) -> Iterator[Settlement]:
        """Every event as a dead letter."""
        return self.settlements(dict.fromkeys(range(self.events), (reason, response)))

    def _runs(self) -> Iterator[Sequence[Stretch]]:
        first = 0
        for n in range(1, len(self.stretches)):
            if not self.stretches[n].continues(self.stretches[n - 1]):
                yield self.stretches[first:n]
                first = n
        if self.stretches:
            yield self.stretches[first:]


def _compact(indices: list[int]) -> range | tuple[int, ...]:
    if indices and indices[-1] - indices[0] + 1 == len(indices):
        return range(indices[0], indices[-1] + 1)
    return tuple(indices)


def _letters(
    run: Sequence[Stretch], index: int, dead: Mapping[int, tuple[Reason, Response]]
) -> tuple[tuple[DeadLetter, ...], int]:
    """The dead letters of *run*, whose first event has *index*, and the bytes of their lines."""
    letters = []
    size = 0
    for stretch in run:
        for at in stretch.kept:
            if index in dead:
                event = stretch.batch.original(at)
                letters.append(DeadLetter(Position(stretch.batch.sequence, at), event, *dead[index]))
                size += len(stretch.batch.line(at)) + 1
            index += 1
    return tuple(letters), size


class Cutter:
    """What was read and not yet sent, and the knife that cuts it to the size of a request."""

    def __init__(self, *, max_bytes: int, event_overhead: int) -> None:
        self._max_bytes = max_bytes
        self._overhead = event_overhead
        self._stretches: deque[Stretch] = deque()
        self._events = 0
        self._nbytes = 0
        self._held = 0
        self._most_held = max(_MOST_HELD, 2 * max_bytes)

    @property
    def events(self) -> int:
        """Events at hand that passed the filter."""
        return self._events

    def __bool__(self) -> bool:
        return bool(self._stretches)

    @property
    def oldest_received_at(self) -> float:
        return self._stretches[0].batch.received_at

    def add(self, stretch: Stretch) -> None:
        self._stretches.append(stretch)
        self._events += len(stretch.kept)
        self._nbytes += stretch.nbytes
        self._held += stretch.held

    def give_back(self, work: Work) -> None:
        """Put *work* where it came from: in front of everything that follows it in the log."""
        self._stretches = deque(
            sorted((*work.stretches, *self._stretches), key=lambda s: (s.batch.sequence, s.start))
        )
        self._events += work.events
        self._nbytes += work.nbytes
        self._held = sum([stretch.held for stretch in self._stretches])

    def clear(self) -> None:
        self._stretches.clear()
        self._events = self._nbytes = self._held = 0

    def passed_over(self) -> Work | None:
        """What stands in front without an event to send, so that it can be settled at once."""
        taken: list[Stretch] = []
        while self._stretches and not self._stretches[0].kept:
            taken.append(self._stretches.popleft())
        self._held -= sum([stretch.held for stretch in taken])
        return Work.of(taken) if taken else None

    def is_full(self, max_events: int) -> bool:
        """Whether a request of at most *max_events* would gain nothing from more events, or nothing more fits
        into memory.
        """
        return self._events >= max_events or self._nbytes >= self._max_bytes or self._held >= self._most_held

    def cut(self, max_events: int) -> Work:
        """The next request: whole batches while they fit, part of one only where it alone is too large.

        A single event above the byte limit goes alone; the destination has the last word on it.
        """
        taken: list[Stretch] = []
        events = nbytes = 0
        while self._stretches:
            stretch = self._stretches[0]
            count, size = len(stretch.kept), stretch.nbytes
            wire = nbytes + size + (events + count) * self._overhead
            if count and (events + count > max_events or wire > self._max_bytes):
                if events:
                    break
                count = self._fitting(stretch, max_events)
                if count < len(stretch.kept):
                    stretch, remainder = stretch.cut(count)
                    self._stretches[0] = remainder
                    taken.append(stretch)
                    events, nbytes = count, nbytes + stretch.nbytes
                    break
            taken.append(self._stretches.popleft())
            events += count
            nbytes += size
        self._events -= events
        self._nbytes -= nbytes
        self._held = sum([stretch.held for stretch in self._stretches])
        return Work(tuple(taken), events, nbytes)

    def _fitting(self, stretch: Stretch, max_events: int) -> int:
        """How many of the first events of *stretch* fit into a request of their own; at least one."""
        size = 0
        for n, at in enumerate(stretch.kept[:max_events]):
            size += len(stretch.batch.line(at)) + 1 + self._overhead
            if size > self._max_bytes:
                return max(1, n)
        return min(max_events, len(stretch.kept))
