"""Finding events in the log of the cluster, whichever replica accepted them and however long ago.

Places name the few batches that may hold an event, the hashes in their headers leave fewer, and these are
opened and compared by full event id. Owns the ids of batches that were opened. Asks the stream, so it knows
of everything that is stored, except for the moment that a server of the cluster lags behind its leader: what
was stored last has to be named by the caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from relay import gzipped
from relay.konnect.lines import event_ids
from relay.queue.jetstream.bucket import Bucket, Entry
from relay.queue.jetstream.fetch import Message, get, scan
from relay.queue.jetstream.index import from_header, unpack
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import HASHES, NotABatch, decode, intact, token
from relay.queue.jetstream.remembered import key_of, recall

# Filters of one consumer. The server compares each with each of the others: 256 take it some 8 ms.
_FILTERS: Final = 256
_OPENED_IDS: Final = 100_000  # ids of opened batches are kept, about 12 MB


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events that are looked for."""

    source: str
    ids: frozenset[str]
    hashes: frozenset[int]
    places: frozenset[str]
    since: float  # batches received before this time, in seconds since the epoch, do not count

    def may_be_in(self, received_at: float, packed: bytes | None) -> bool:
        """Whether a batch of one of the places is worth opening. *packed*: its hashes, where known."""
        return received_at >= self.since and self.is_like(packed)

    def is_like(self, packed: bytes | None) -> bool:
        """Whether a batch with these hashes may hold one of the events; None where they are not known."""
        return packed is None or not self.hashes.isdisjoint(unpack(packed))


@dataclass(frozen=True, slots=True)
class Stored:
    """A batch in the log."""

    seq: int
    place: str
    received_at: float  # seconds since the epoch
    packed: bytes  # the hashes of its events


class Search:
    """See the module."""

    def __init__(self, link: Link, stream: str, bucket: Bucket) -> None:
        self._link = link
        self._stream = stream
        self._bucket = bucket
        self._opened: OrderedDict[int, frozenset[str]] = OrderedDict()
        self._opened_ids = 0

    def forget(self) -> None:
        """Sequences are given out a second time."""
        self._opened.clear()
        self._opened_ids = 0

    async def known(self, wanted: Wanted, latest: Iterable[Stored]) -> frozenset[str]:
        """Which of the ids are in the log, or were and are remembered. Raises `QueueError`."""
        found: set[str] = set()
        for batch in list(latest):
            if batch.place in wanted.places and wanted.may_be_in(batch.received_at, batch.packed):
                found |= wanted.ids & await self._open(batch.seq)
        # What leaves the log is remembered first: looked for in this order, it is found in one or the other,
        # even if it goes between being found and being opened.
        for places in _portions(sorted(wanted.places)):
            if found != wanted.ids:
                found |= await self._in_log(wanted, places)
        for places in _portions(sorted(wanted.places)):
            if found != wanted.ids:
                found |= await self._among_remembered(wanted, places)
        return frozenset(found)

    async def _in_log(self, wanted: Wanted, places: list[str]) -> set[str]:
        found: set[str] = set()
        filters = [f"{self._stream}.events.{token(wanted.source)}.{place}" for place in places]
        async with aclosing(scan(self._link, self._stream, filters=filters, headers_only=True)) as messages:
            async for message in messages:
                packed = from_header(message.headers.get(HASHES))
                # First, because at a high rate a place holds thousands of batches, nearly all of them unlike.
                if not wanted.is_like(packed):
                    continue
                try:
                    meta = decode(message)
                except NotABatch:
                    continue
                if wanted.may_be_in(meta.received_at, packed):
                    found |= wanted.ids & await self._open(meta.seq)
                    if found == wanted.ids:
                        break
        return found

    async def _among_remembered(self, wanted: Wanted, places: list[str]) -> set[str]:
        found: set[str] = set()
        filters = [self._bucket.subject + key_of(wanted.source, place, "*") for place in places]
        async with aclosing(scan(self._link, self._bucket.stream, filters=filters)) as messages:
            async for message in messages:
                found |= wanted.ids & _recalled(self._bucket.entry(message), wanted)
        return found

    async def _open(self, seq: int) -> frozenset[str]:
        """The event ids of a batch; none where it is broken, or was purged since it was found."""
        ids = self._opened.get(seq)
        if ids is not None:
            self._opened.move_to_end(seq)
            return ids
        message = await get(self._link, self._stream, seq)
        ids = frozenset() if message is None else _ids_of(message)
        if ids:
            self._opened[seq] = ids
            self._opened_ids += len(ids)
        while self._opened_ids > _OPENED_IDS:
            _, gone = self._opened.popitem(last=False)
            self._opened_ids -= len(gone)
        return ids


def _ids_of(message: Message) -> frozenset[str]:
    meta = decode(message)
    if not intact(meta, message.payload):
        return frozenset()
    lines = gzipped.decompress(message.payload).split(b"\n")[:-1]
    return frozenset(event_ids(lines, meta.ordinals))


def _recalled(entry: Entry, wanted: Wanted) -> frozenset[str]:
    if entry.deleted:
        return frozenset()
    try:
        batch = recall(entry)
    except (KeyError, ValueError):  # not written by a relay
        return frozenset()
    if not wanted.may_be_in(batch.received_at, from_header(batch.hashes)):
        return frozenset()
    return frozenset(batch.ids)


def _portions(places: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(places), _FILTERS):
        yield places[at : at + _FILTERS]
