"""What Konnect has against what was accepted, and what became of it: the comparison itself.

Owns the rules by which an event counts as received, missing, extra or unprovable. Nothing here asks anybody:
both sides are put in, the result comes out. Memory is bounded by `relay.recovery.spool`, the lists of single
events by their limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from relay.queue.fates import Fate
from relay.recovery.keys import Key
from relay.recovery.spool import Entry, Spool, key_of

_LETTERS: Final = dict(zip(Fate, "DFLBN", strict=True))
# Where an event was accepted more often than Konnect has it, the best that happened to it counts.
_BEST_FIRST: Final = "DFBLN"
_OF_LETTER: Final = {letter: fate for fate, letter in _LETTERS.items()}
_MINUTE: Final = 60_000  # milliseconds
# An event with a time shortly after the log's beginning may have come before it: clocks differ.
_CLOCKS_DIFFER: Final = 120_000  # milliseconds
_APART: Final = 10  # minutes without anything missing that end a window


@dataclass(frozen=True, slots=True)
class Listed:
    """An event that only one side has."""

    key: Key
    count: int  # twins


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which something is missing, whole minutes. Milliseconds since the epoch."""

    start: int
    end: int  # exclusive
    missing: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The comparison's result. Counts are of events."""

    konnect: int  # that Konnect has
    accepted: int  # by the relay, of those that can be compared
    received: int  # both have
    alike: int  # of these, told by everything but the name of a resource
    missing: int  # Konnect has and the relay's log, which reaches back far enough, does not
    unproven: int  # not found, but older than what the log still holds
    extra: int  # accepted, and Konnect does not show them
    portal: int  # accepted from a Dev Portal, which the pull API does not cover
    unreadable: int  # accepted without anything to compare by
    kept_back: int  # not accepted after all: their signatures did not verify
    deleted_before: int | None  # milliseconds; what Konnect had of the range before that, nobody can tell
    konnect_unreadable: int  # the same on Konnect's side
    destinations: Mapping[str, Mapping[Fate, int]]  # of the events received
    extra_at: Mapping[str, int]  # delivered to a destination beyond what Konnect shows
    organisations: tuple[str, ...]
    listed_missing: tuple[Listed, ...]  # the earliest
    listed_extra: tuple[Listed, ...]
    windows: tuple[Window, ...]  # around what is missing

    @property
    def complete(self) -> bool:
        """Whether everything Konnect has was provably accepted."""
        unknown = self.unproven or self.konnect_unreadable or self.deleted_before is not None
        return not (self.missing or unknown)


class Reconciliation:
    """Takes in both sides in any order; `outcome` ends it."""

    def __init__(self, folder: Path, *, limit: int = 1000) -> None:
        """*folder* is an empty one for temporary files; *limit* bounds the lists of single events."""
        self._spool = Spool(folder)
        self._names: Sequence[str] = ()
        self._limit = limit
        self._konnect = self._konnect_unreadable = 0
        self._accepted = self._portal = self._unreadable = self._kept_back = 0
        self._organisations: set[str] = set()

    def konnect_has(self, key: Key | None) -> None:
        """An event of Konnect's log; None: one that cannot be compared."""
        self._konnect += 1
        if key is None:
            self._konnect_unreadable += 1
            return
        if key.org_id:
            self._organisations.add(key.org_id)
        self._spool.pulled(key)

    def relay_delivers_to(self, destinations: Sequence[str]) -> None:
        """Comes before the first event that the relay accepted."""
        self._names = destinations

    def relay_accepted(self, key: Key | None, fates: Mapping[str, Fate], *, kept_back: bool = False) -> None:
        """An event of the relay's log with what became of it at each destination.

        What was kept back for its signature proves nothing: anybody who may send can make up an event's copy.
        """
        if kept_back:
            self._kept_back += 1
        elif key is None:
            self._unreadable += 1
        elif key.portal_id:
            self._portal += 1
        else:
            self._accepted += 1
            letters = "".join([_LETTERS[fates.get(name, Fate.NOT_OWED)] for name in self._names])
            self._spool.accepted(key, letters.encode())

    def outcome(self, retained_from: int | None, deleted_before: int | None = None) -> Outcome:
        """Compare.

        *retained_from*: what was accepted before is gone, in ms; None: nothing is. *deleted_before*: the same
        of what Konnect had of the range.
        """
        tally = _Tally(len(self._names), self._limit, retained_from, deleted_before)
        for part in self._spool.parts():
            tally.take(part)
        return Outcome(
            konnect=self._konnect,
            accepted=self._accepted,
            received=tally.received,
            alike=tally.alike,
            missing=tally.missing.count,
            unproven=tally.unproven,
            extra=tally.extra.count,
            portal=self._portal,
            unreadable=self._unreadable,
            kept_back=self._kept_back,
            deleted_before=deleted_before,
            konnect_unreadable=self._konnect_unreadable,
            destinations={
                name: {_OF_LETTER[letter]: counts[letter] for letter in _OF_LETTER}
                for name, counts in zip(self._names, tally.fates, strict=True)
            },
            extra_at=dict(zip(self._names, tally.extra_at, strict=True)),
            organisations=tuple(sorted(self._organisations)),
            listed_missing=tally.missing.earliest(),
            listed_extra=tally.extra.earliest(),
            windows=windows(tally.minutes),
        )


class _Tally:
    def __init__(
        self, destinations: int, limit: int, retained_from: int | None, deleted_before: int | None
    ) -> None:
        self.received = self.alike = self.unproven = 0
        self.missing, self.extra = _Some(limit), _Some(limit)
        self.minutes: Counter[int] = Counter()  # in which something is missing
        self.fates = [Counter[str]() for _ in range(destinations)]
        self.extra_at = [0] * destinations
        self._proven_from = 0 if retained_from is None else retained_from + _CLOCKS_DIFFER
        self._shown_from = deleted_before or 0  # by Konnect

    def take(self, part: Mapping[bytes, Entry]) -> None:
        lacking: list[Listed] = []
        over: dict[Key, list[_Copies]] = {}
        for text, entry in part.items():
            copies = _Copies(entry.accepted)
            both = min(entry.pulled, copies.left)
            self._receive(copies, both)
            if entry.pulled > both:
                lacking.append(Listed(key_of(text), entry.pulled - both))
            elif copies.left:
                key = copies.key = key_of(text)
                over.setdefault(key.nameless, []).append(copies)
        for listed in lacking:
            self._lack(listed.key, listed.count - self._alike(listed, over.get(listed.key.nameless, ())))
        for each in over.values():
            for copies in each:
                self._exceed(copies)

    def _receive(self, copies: _Copies, count: int) -> None:
        if count:
            self.received += count
            for counts, fates in zip(self.fates, copies.take(count), strict=True):
                counts.update(fates)

    def _alike(self, listed: Listed, over: Sequence[_Copies]) -> int:
        """The two schemas may name one resource in two ways: what is alike but for that is the same event."""
        wanted = listed.count
        for copies in over:
            found = min(wanted, copies.left)
            self._receive(copies, found)
            wanted -= found
        self.alike += listed.count - wanted
        return listed.count - wanted

    def _lack(self, key: Key, count: int) -> None:
        if not count:
            return
        if key.at < self._proven_from:
            self.unproven += count
            return
        self.missing.add(Listed(key, count))
        self.minutes[key.at // _MINUTE] += count

    def _exceed(self, copies: _Copies) -> None:
        if copies.left and copies.key is not None and copies.key.at >= self._shown_from:
            self.extra.add(Listed(copies.key, copies.left))
            for index, fates in enumerate(copies.take(copies.left)):
                self.extra_at[index] += fates.count(_LETTERS[Fate.DELIVERED])


class _Copies:
    """The times one event was accepted. At each destination the best that happened to any is taken first."""

    __slots__ = ("_columns", "key", "left")

    def __init__(self, accepted: Sequence[bytes]) -> None:
        self.key: Key | None = None
        self.left = len(accepted)
        rows = [letters.decode() for letters in accepted]
        if len(rows) == 1:
            self._columns = [[letter] for letter in rows[0]]
        else:
            self._columns = [sorted(column, key=_BEST_FIRST.index) for column in zip(*rows, strict=True)]

    def take(self, count: int) -> list[list[str]]:
        """So many fates of each destination."""
        self.left -= count
        taken = [column[:count] for column in self._columns]
        self._columns = [column[count:] for column in self._columns]
        return taken


@dataclass(slots=True)
class _Some:
    """A count of all, and the earliest few."""

    limit: int
    count: int = 0
    _kept: list[Listed] = field(default_factory=list)

    def add(self, listed: Listed) -> None:
        self.count += listed.count
        self._kept.append(listed)
        if len(self._kept) > 2 * self.limit + 1000:
            self._kept = list(self.earliest())

    def earliest(self) -> tuple[Listed, ...]:
        return tuple(sorted(self._kept, key=lambda listed: (listed.key.at, listed.key))[: self.limit])


def windows(minutes: Mapping[int, int]) -> tuple[Window, ...]:
    """The tightest windows around minutes in which something is missing; those close together are one."""
    found: list[Window] = []
    for minute in sorted(minutes):
        start, end, missing = minute * _MINUTE, (minute + 1) * _MINUTE, minutes[minute]
        if found and start - found[-1].end <= _APART * _MINUTE:
            last = found[-1]
            found[-1] = Window(last.start, end, last.missing + missing)
        else:
            found.append(Window(start, end, missing))
    return tuple(found)
