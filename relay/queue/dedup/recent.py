"""The recent past of each source: tells at once that a batch is new, as nearly every batch is.

Lives in the event loop and never waits, so that live traffic need not be looked up. For
the last batches it knows between which times their events lie; for everything before them only the
newest event time, the *floor*. A batch above the floor that overlaps no recent one is new; where it
overlaps some, hashes decide. Everything else is suspicious, which is no more than that: a search
of the log decides.

Memory only: what was lost with it makes batches suspicious, never duplicates new.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from relay.queue.dedup.fingerprint import Fingerprint

# What is kept for each source: about 5 MB.
_EVENTS = 50_000
_BATCHES = 4_096
_NEVER = -2  # the generation of hashes that were not made


@dataclass(slots=True, eq=False)
class _Known:
    """A recent batch: between which times its events lie, and where their hashes are."""

    oldest: int
    newest: int
    events: int
    packed: bytes  # the hashes can be made from it again
    generation: int  # of the set that holds its hashes; they count while that is the young or the old one


class Recent:
    """The last batches of one source, in the order of their times."""

    def __init__(self, floor: int, unpack: Callable[[bytes], Iterable[int]]) -> None:
        self._newest = floor  # milliseconds; of all events ever
        self._unpack = unpack  # makes a batch's hashes from the bytes it was added with
        self.forget()

    def forget(self) -> None:
        """Something was not stored after all, so what is known here is not certain: let the log decide."""
        self._floor = self._newest
        self._arrived: deque[_Known] = deque()
        self._by_oldest: list[tuple[int, int, _Known]] = []
        self._events = 0
        self._longest = 0  # milliseconds between the first and the last event of a recent batch
        self._number = 0
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._generation = 0

    def is_new(self, prints: Sequence[Fingerprint]) -> bool:
        """Whether none of these events can have been accepted before. False is no more than a suspicion."""
        return all(each.plain and each.oldest > self._floor and self._is_unlike(each) for each in prints)

    def _is_unlike(self, each: Fingerprint) -> bool:
        """Whether no recent batch that overlaps this one in time has an event with the hash of one of its."""
        alone = True
        for known in self._overlapping(each.oldest, each.newest):
            alone = False
            if known.generation < self._generation - 1:
                self._young.update(self._unpack(known.packed))
                known.generation = self._generation
        if alone or (each.hashes.isdisjoint(self._young) and each.hashes.isdisjoint(self._old)):
            return True
        # The sets hold many more hashes than those of the batches that overlap, and a search is dear.
        overlapping = self._overlapping(each.oldest, each.newest)
        return all(each.hashes.isdisjoint(self._unpack(known.packed)) for known in overlapping)

    def add(
        self, oldest: int, newest: int, events: int, packed: bytes, hashes: Iterable[int] | None = None
    ) -> None:
        """A batch is on its way to the log: added, suspicious or not, before the next request is judged.

        Times in milliseconds, of the believable ones; *hashes* where they are made already.
        """
        if not newest:  # events without a time are always looked up
            return
        known = _Known(oldest, newest, events, packed, _NEVER)
        if hashes is not None:
            self._young.update(hashes)
            known.generation = self._generation
        self._insert(known)
        if len(self._young) > _EVENTS // 2:
            self._old, self._young = self._young, set()
            self._generation += 1

    def _overlapping(self, oldest: int, newest: int) -> Iterator[_Known]:
        start = bisect_left(self._by_oldest, (oldest - self._longest,))
        stop = bisect_right(self._by_oldest, (newest + 1,))
        for _, _, known in self._by_oldest[start:stop]:
            if known.newest >= oldest:
                yield known

    def _insert(self, known: _Known) -> None:
        self._number += 1  # makes every entry's place unique, so that entries are never compared
        insort(self._by_oldest, (known.oldest, self._number, known))
        self._arrived.append(known)
        self._events += known.events
        self._newest = max(self._newest, known.newest)
        self._longest = max(self._longest, known.newest - known.oldest)
        while self._events > _EVENTS or len(self._arrived) > _BATCHES:
            self._drop(self._arrived.popleft())

    def _drop(self, known: _Known) -> None:
        at = bisect_left(self._by_oldest, (known.oldest,))
        while self._by_oldest[at][2] is not known:
            at += 1
        del self._by_oldest[at]
        self._events -= known.events
        self._floor = max(self._floor, known.newest)
        if not self._arrived:
            self._longest = 0
