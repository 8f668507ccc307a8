"""Gaps: spans in which Konnect may have given up on events, as records of the state bucket.

    gap.<id>      ids count from 1
    alive         when a replica was last known to accept, in seconds since the epoch

What this replica notes stays in memory until it could be written: the usual reason for a refusal is that NATS
takes nothing, not even this. Replicas extend each other's gaps. Owns gaps and their ids, never what caused or
closes one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

from pydantic import TypeAdapter, ValidationError

from relay.errors import NotFound, QueueError
from relay.model import Gap
from relay.queue.gaps import check_known, joined, place_of, surplus
from relay.queue.jetstream.bucket import Bucket, Entry, Stale

PREFIX: Final = "gap"
ALIVE: Final = "alive"
_UNWRITTEN: Final = 0  # the id of what is in nobody's bucket yet

_GAP: Final = TypeAdapter(Gap)


class Gaps:
    """All gaps of the cluster, and what this replica noted of them."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: dict[int, tuple[Gap, int]] = {}  # with its revision
        self._removed: dict[int, int] = {}  # revision of the removal; an older value may still be on its way
        self._noted: list[Gap] = []  # to be written
        self._writing: Gap | None = None
        self._one_writer = asyncio.Lock()

    def seen(self, entry: Entry) -> None:
        """The watch saw a value. Raises `QueueError` if it cannot be read."""
        if entry.deleted:
            number = _number(entry.key)
            if entry.revision > self._revision(number):
                self._known.pop(number, None)
                self._removed[number] = entry.revision
            return
        gap = load(entry.value)
        if entry.revision > max(self._revision(gap.id), self._removed.get(gap.id, 0)):
            self._known[gap.id] = (gap, entry.revision)

    def note(self, source: str, start: float, end: float, cause: str, refusals: int = 1) -> None:
        """A span of trouble; joined with a recent one of the same source and cause."""
        _add(self._noted, Gap(_UNWRITTEN, source, start, end, cause, refusals))

    def open(self) -> list[Gap]:
        """Gaps that nobody closed, with what is not written yet; the id of a gap not written at all is 0."""
        found = [gap for gap in self._all() if gap.closed_at is None]
        for gap in [self._writing, *self._noted]:
            if gap is not None:
                _add(found, gap)
        return found

    def all(self) -> list[Gap]:
        """Closed ones as well."""
        return [*[gap for gap in self._all() if gap.closed_at is not None], *self.open()]

    async def write(self) -> None:
        """Write what was noted. Raises `QueueError` and keeps what could not be written.

        Where an acknowledgement gets lost, refusals are counted twice: they tell how bad it was, nothing is
        derived from them.
        """
        async with self._one_writer:
            while self._noted:
                noted = self._writing = self._noted.pop(0)
                try:
                    await self._write(noted)
                except BaseException:
                    _add(self._noted, noted)
                    raise
                finally:
                    self._writing = None

    async def close(self, number: int, at: float, lost_until: float | None, known: Gap | None = None) -> None:
        """Closing a closed one changes nothing. Raises `NotFound`, `Conflict` if it is more than *known*, or
        `QueueError`.
        """
        async with self._one_writer:
            while True:
                if number not in self._known:
                    await self._reload(number)
                if number not in self._known:
                    raise NotFound(f"There is no gap {number}.")
                gap, _ = self._known[number]
                if gap.closed_at is not None:
                    return
                check_known(gap, known)
                try:
                    await self._put(replace(gap, closed_at=at, lost_until=lost_until))
                except Stale:
                    continue  # somebody extended it a moment ago
                break
            for each in surplus(self._all()):
                with suppress(Stale):
                    await self._bucket.delete(key_of(each.id), revision=self._revision(each.id))

    async def _write(self, noted: Gap) -> None:
        while True:
            try:
                known = place_of(noted, [gap for gap in self._all() if gap.closed_at is None])
                if known is None:
                    await self._create(noted)
                else:
                    await self._put(joined(known, noted))
            except Stale:
                continue  # another replica was faster; its gap is known by now, perhaps it is ours to extend
            return

    async def _put(self, gap: Gap) -> None:
        """Change one that is known."""
        try:
            revision = await self._bucket.put(key_of(gap.id), dump(gap), revision=self._revision(gap.id))
        except Stale:
            await self._reload(gap.id)
            raise
        self._known[gap.id] = (gap, revision)

    async def _create(self, noted: Gap) -> None:
        """Take the next id. That fails unless every gap before it is known here, so no gap opens twice."""
        number = 1 + max([0, *self._known, *self._removed])
        gap = replace(noted, id=number)
        try:
            revision = await self._bucket.put(key_of(number), dump(gap), revision=0)
        except Stale:
            await self._reload(number)
            raise
        self._known[number] = (gap, revision)

    async def _reload(self, number: int) -> None:
        if (entry := await self._bucket.get(key_of(number))) is not None:
            self._known.pop(number, None)  # the leader's word counts, also for an earlier revision
            self.seen(entry)
        else:
            self._known.pop(number, None)
            self._removed.setdefault(number, 0)

    def _all(self) -> list[Gap]:
        return [self._known[number][0] for number in sorted(self._known)]

    def _revision(self, number: int) -> int:
        return self._known[number][1] if number in self._known else 0


def _add(gaps: list[Gap], noted: Gap) -> None:
    """Join *noted* with one of them, or append it."""
    gap = place_of(noted, gaps)
    if gap is None:
        gaps.append(noted)
    else:
        gaps[gaps.index(gap)] = joined(gap, noted)


def key_of(number: int) -> str:
    return f"{PREFIX}.{number}"


def _number(key: str) -> int:
    try:
        return int(key.removeprefix(f"{PREFIX}."))
    except ValueError as error:
        raise QueueError("a gap's key in the state bucket cannot be read") from error


def dump(gap: Gap) -> bytes:
    return _GAP.dump_json(gap)


def load(value: bytes) -> Gap:
    try:
        return _GAP.validate_json(value)
    except ValidationError as error:
        raise QueueError("a gap in the state bucket cannot be read") from error


async def read_alive(bucket: Bucket) -> float | None:
    """When a replica was last known to accept; None where none has told. Raises `QueueError`."""
    entry = await bucket.get(ALIVE)
    try:
        return None if entry is None else float(entry.value)
    except ValueError as error:
        raise QueueError("the last heartbeat in the state bucket cannot be read") from error


def dump_alive(at: float) -> bytes:
    return repr(at).encode()
