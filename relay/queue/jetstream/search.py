"""Finding events in the log of the cluster, whichever replica accepted them and however long ago.

Places name the few batches that may hold an event, the hashes in their headers leave fewer, and these are
opened and compared by event id and by what events say. Where the latter is not enough, the batches in which
somebody says the same are named, for a judge. Asks the stream, so it knows of everything that is stored,
except for the moment that a server of the cluster lags behind its leader: what was stored last has to be
named by the caller.

A search costs a consumer and all headers of its places, so under load few run, and each for all who wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from relay import gzipped
from relay.queue.dedup.names import names_of
from relay.queue.dedup.opened import NOTHING, LastOpened, Opened
from relay.queue.jetstream.aside import aside
from relay.queue.jetstream.bucket import Bucket, Entry
from relay.queue.jetstream.by_sequence import Message, get
from relay.queue.jetstream.fetch import scan
from relay.queue.jetstream.index import from_header, unpack
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import HASHES, Meta, NotABatch, decode, intact, token
from relay.queue.jetstream.pausing import pause
from relay.queue.jetstream.remembered import key_of, recall
from relay.queue.jetstream.turns import Turns

# Filters of one consumer. The server compares each with each of the others: 256 take it some 8 ms.
_FILTERS: Final = 256
_AT_ONCE: Final = 2  # consumers at a time
_UNINTERRUPTED: Final = 32  # batches that are looked at without letting others do something


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events that are looked for."""

    source: str
    ids: frozenset[str]
    contents: frozenset[str]  # what the events say
    checked: bool  # to say the same is not enough: somebody looks at signatures
    hashes: frozenset[int]
    places: frozenset[str]
    at: float  # when the request was received; seconds since the epoch
    since: float  # batches received before this time, in seconds since the epoch, do not count

    def may_be_in(self, received_at: float, hashes: Iterable[int] | None) -> bool:
        """Whether a batch of one of the places is worth opening. *hashes*: of its events, where known."""
        return received_at >= self.since and (hashes is None or not self.hashes.isdisjoint(hashes))


@dataclass(frozen=True, slots=True)
class Stored:
    """A batch in the log."""

    seq: int
    place: str
    received_at: float  # seconds since the epoch
    packed: bytes  # the hashes of its events


@dataclass(slots=True, eq=False)
class Found:
    """What a search has come to."""

    wanted: Wanted
    names: set[str] = field(default_factory=set)  # ids, and contents where they are enough
    # What somebody says, too, where that is not enough, by the batches in which he does.
    alike: dict[int, set[str]] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.wanted.ids <= self.names or (
            not self.wanted.checked and self.wanted.contents <= self.names
        )

    def look(self, batch: Opened, seq: int | None = None) -> None:
        """Compare with a batch; *seq* is None where no more than names is left of it."""
        wanted = self.wanted
        self.names |= wanted.ids & batch.ids
        alike = wanted.contents & batch.contents.keys()
        said = {each for each in alike if batch.says(each, at=wanted.at, request=wanted.ids)}
        if not wanted.checked:
            self.names |= said
        elif said and seq is not None:
            self.alike[seq] = said


class Search:
    """See the module."""

    def __init__(self, link: Link, stream: str, bucket: Bucket) -> None:
        self._link = link
        self._stream = stream
        self._bucket = bucket
        self._opened = LastOpened()
        self._turns = Turns(self._find, at_once=_AT_ONCE)

    def forget(self) -> None:
        """Sequences are given out a second time."""
        self._opened = LastOpened()

    async def known(self, wanted: Wanted, latest: Iterable[Stored]) -> Found:
        """Which of the events are in the log, or were and are remembered.

        *latest* are the last batches of the same source. Raises `QueueError`.
        """
        return await self._turns.ask(wanted.source, (wanted, latest))

    async def texts(self, seq: int) -> dict[str, bytes]:
        """The lines of a batch by what they say; none where it is broken or gone. Raises `QueueError`."""
        kept = self._opened
        batch = await self._open(seq)
        message = await get(self._link, self._stream, seq)
        if message is None or kept is not self._opened:  # it may be another batch
            return {}
        return dict(zip(batch.contents, _lines(message, decode(message)) or (), strict=False))

    async def _find(self, some: Sequence[tuple[Wanted, Iterable[Stored]]]) -> list[Found]:
        """What is found of each; all are of one source."""
        quests = [Found(wanted) for wanted, _ in some]
        source, latest = quests[0].wanted.source, some[0][1]
        places = sorted(frozenset().union(*[quest.wanted.places for quest in quests]))
        await self._in_latest(latest, quests)
        # What leaves the log is remembered first: looked for in this order, it is found in one or the other,
        # even if it goes between being found and being opened.
        for look in (self._in_log, self._among_remembered):
            for portion in _portions(places):
                await look(source, portion, [quest for quest in quests if not quest.is_over])
        return quests

    async def _in_latest(self, latest: Iterable[Stored], quests: Sequence[Found]) -> None:
        hashes = _hashes(quests)
        places = frozenset().union(*[quest.wanted.places for quest in quests])
        for n, batch in enumerate(list(latest)):
            if n % _UNINTERRUPTED == 0:
                await pause(0)  # with many events in each this would hold up heartbeats
            if batch.place not in places or not (like := hashes.intersection(unpack(batch.packed))):
                continue
            for quest in quests:
                if quest.wanted.may_be_in(batch.received_at, like):
                    quest.look(await self._open(batch.seq), batch.seq)

    async def _in_log(self, source: str, places: list[str], quests: list[Found]) -> None:
        if not quests:
            return
        filters = [f"{self._stream}.events.{token(source)}.{place}" for place in places]
        hashes = _hashes(quests)
        async with aclosing(scan(self._link, self._stream, filters=filters, headers_only=True)) as messages:
            async for message in messages:
                packed = from_header(message.headers.get(HASHES))
                like = None if packed is None else hashes.intersection(unpack(packed))
                # First, because at a high rate a place holds thousands of batches, nearly all of them unlike.
                if like is not None and not like:
                    continue
                try:
                    meta = decode(message)
                except NotABatch:
                    continue
                for quest in quests:
                    if quest.wanted.may_be_in(meta.received_at, like):
                        quest.look(await self._open(meta.seq), meta.seq)
                if all(quest.is_over for quest in quests):
                    break

    async def _among_remembered(self, source: str, places: list[str], quests: list[Found]) -> None:
        if not quests:
            return
        filters = [self._bucket.subject + key_of(source, place, "*") for place in places]
        async with aclosing(scan(self._link, self._bucket.stream, filters=filters)) as messages:
            async for message in messages:
                _recall(self._bucket.entry(message), quests)

    async def _open(self, seq: int) -> Opened:
        """The names of a batch's events; none where it is broken, or was purged since it was found."""
        kept = self._opened  # another one once sequences are given out a second time
        opened = kept.get(seq)
        if opened is None:
            message = await get(self._link, self._stream, seq)
            if message is None:
                return NOTHING
            meta = decode(message)
            opened = await aside(meta.count, partial(_named, message, meta))
            if opened is None:
                return NOTHING
            kept.put(seq, opened)
        return opened


def _named(message: Message, meta: Meta) -> Opened | None:
    """The names of a batch's events; None where it is broken."""
    lines = _lines(message, meta)
    if lines is None:
        return None
    return Opened.of(meta.received_at, names_of(lines, meta.ordinals, pulled=meta.pulled))


def _lines(message: Message, meta: Meta) -> list[bytes] | None:
    if not intact(meta, message.payload):
        return None
    return gzipped.decompress(message.payload).split(b"\n")[:-1]


def _recall(entry: Entry, quests: Sequence[Found]) -> None:
    if entry.deleted:
        return
    try:
        batch = recall(entry)
    except (KeyError, ValueError):  # not written by a relay
        return
    packed = from_header(batch.hashes)
    hashes = None if packed is None else unpack(packed)
    for quest in quests:
        if quest.wanted.may_be_in(batch.received_at, hashes):
            quest.look(Opened.remembered(batch.received_at, batch.ids))


def _hashes(quests: Sequence[Found]) -> frozenset[int]:
    return frozenset().union(*[quest.wanted.hashes for quest in quests])


def _portions(places: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(places), _FILTERS):
        yield places[at : at + _FILTERS]
