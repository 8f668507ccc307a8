"""Appending what is new: which events of a request were accepted before, by this replica or another.

Nearly every request is new by its times alone (`relay.queue.dedup.recent`), and is published at once.
One that is suspicious first waits until requests of this replica that are alike and still being published
have ended, and is then searched for. Two replicas that are given the same events within the milliseconds
they need to follow each other may both store them; not the same body, whose message id the server knows.
Searching costs more than storing, and what fails comes again as something to be searched for: where too many
requests wait for a search, more are asked at once to come later.

Owns what this process remembers of each source. Publishes nothing itself.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Final

from relay import gzipped
from relay.clock import Clock
from relay.errors import QueueError, QueueFull
from relay.konnect.lines import ordinal_of
from relay.model import Batch
from relay.queue.dedup.fingerprint import ordinals
from relay.queue.dedup.judge import Judge, NoJudge, vouch
from relay.queue.dedup.names import Names, names_of
from relay.queue.dedup.parts import with_lines
from relay.queue.dedup.recent import Recent
from relay.queue.jetstream.aside import aside
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.by_sequence import Message
from relay.queue.jetstream.index import (
    NOWHERE,
    from_header,
    pack,
    places_of,
    to_header,
    unpack,
)
from relay.queue.jetstream.link import Link, Outgoing
from relay.queue.jetstream.message import Meta, Stamp, decode, encode, encode_marker, intact
from relay.queue.jetstream.pieces import HEADERS, Piece, Pieces, cut
from relay.queue.jetstream.remembered import Remembered, remember
from relay.queue.jetstream.search import Found, Search, Stored, Wanted

# The last batches of a source are looked at here before the stream is asked: a server of the cluster may lag
# behind its leader for a moment.
_LATEST: Final = 1_024
_LINE: Final = 64  # requests that wait for a search; a sender would give up before more had their turn
_LINE_BYTES: Final = 32 << 20  # of their lines; in memory a request takes several times as much
_LATER: Final = 5.0  # seconds after which those who find no place there should come again

# A piece with the ordinals of its events, None where counting within it gives the same.
Numbered = tuple[Piece, Sequence[int] | None]


@dataclass(frozen=True, slots=True)
class Part:
    """A batch to be published, without the events that were accepted before."""

    batch: Batch
    stamp: Stamp


class Admission:
    """What is to be published of one request."""

    def __init__(self, batches: Sequence[Batch], parts: tuple[Part, ...], replica: str) -> None:
        self.parts = parts  # empty: every event was accepted before
        self.last: int | None = None  # sequence of the last message, once they are stored
        self._total = sum(batch.count for batch in batches)
        self._first = batches[0]
        self._replica = replica

    @property
    def accepted(self) -> int:
        """Events to be stored."""
        return sum(part.batch.count for part in self.parts)

    @property
    def duplicates(self) -> int:
        """Events that were accepted before."""
        return self._total - self.accepted

    def messages(self, prefix: str) -> list[Outgoing]:
        """What to publish, all or none; a marker where nothing is left to store."""
        if not self.parts:
            stamp = Stamp(NOWHERE, replica=self._replica)
            return [encode_marker(prefix, self._first, stamp, self.duplicates)]
        first, *others = self.parts
        return [
            encode(prefix, first.batch, first.stamp, self.duplicates),
            *[encode(prefix, each.batch, each.stamp, 0) for each in others],
        ]

    def recognised(self) -> None:
        """The server knows the message id: the whole request was stored before. Publish what is left."""
        self.parts = ()

    def published(self, last: int) -> None:
        """All messages are stored, the last one with this sequence."""
        self.last = last


@dataclass(slots=True, eq=False)
class _Flight:
    """A request on its way into the stream."""

    hashes: AbstractSet[int]
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class _Source:
    """What this process knows of one source."""

    def __init__(self, floor: int) -> None:
        self.window: float | None = None  # seconds; None where deduplication is off
        self.recent = Recent(floor, unpack)
        self.latest: deque[Stored] = deque(maxlen=_LATEST)
        self.flights: dict[_Flight, None] = {}  # in the order they were admitted


class Deduplicator:
    """See the module. `start` comes first, then `set_sources`."""

    def __init__(self, link: Link, stream: str, bucket: Bucket, *, replica: str, clock: Clock) -> None:
        self._search = Search(link, stream, bucket)
        self._bucket = bucket
        self._room = link.max_payload - HEADERS
        self._replica = replica
        self._clock = clock
        self._judge: Judge = NoJudge()
        self._floors: dict[str, int] = {}
        self._sources: dict[str, _Source] = {}
        self._line = 0  # requests that wait for a search, or for others that are alike
        self._line_bytes = 0  # of their lines

    def start(self, newest: Mapping[str, int]) -> None:
        """What was accepted before this process began: each source's newest event time in milliseconds."""
        self._floors.update(newest)

    def set_sources(self, windows: Mapping[str, float | None]) -> None:
        """Make sources known, each with its window in seconds, or None to switch deduplication off."""
        for name, window in windows.items():
            source = self._sources.setdefault(name, _Source(self._floors.get(name, 0)))
            source.window = window or None  # within no time at all nothing comes twice

    def judge_by(self, judge: Judge) -> None:
        """Whom to ask where events say the same and are signed otherwise."""
        self._judge = judge

    def window(self, source: str) -> float | None:
        """A source's window in seconds; None where it does not deduplicate."""
        found = self._sources.get(source)
        return None if found is None else found.window

    @asynccontextmanager
    async def admit(self, batches: Sequence[Batch]) -> AsyncIterator[Admission]:
        """Publish a request under this; without `Admission.published` before the end it counts as failed.

        Raises `QueueError` for a source nobody made known, or when the search failed, and `QueueFull` where
        too many wait for one.
        """
        source = self._sources.get(batches[0].source)
        if source is None:
            raise QueueError(f"the queue does not know a source called {batches[0].source}")
        window = source.window
        request = await self._cut(batches, indexed=window is not None)
        if window is None:
            yield self._admission(batches, _numbered(request.pieces), None)
            return
        # No await from here until this one is among the recent: the next request must find it there.
        new = source.recent.is_new([piece.print for piece in request.pieces])
        if not new and (self._line >= _LINE or self._line_bytes >= _LINE_BYTES):
            raise QueueFull("too many requests wait to be compared with earlier ones", retry_after=_LATER)
        flight = _Flight(_hashes(request.pieces))
        alike = [] if new else [each for each in source.flights if not flight.hashes.isdisjoint(each.hashes)]
        admission = None
        try:
            source.flights[flight] = None
            for piece in request.pieces:
                each = piece.print
                source.recent.add(each.oldest, each.newest, len(each.lines), piece.packed, each.made)
            at = batches[0].received_at
            if new:
                left = _numbered(request.pieces)
            else:
                with self._in_line(sum([len(each.body) for each in batches])):
                    for earlier in alike:
                        await earlier.ended.wait()
                    left = await self._unknown(source, request, at, window)
            # Two requests of the same slot are not further apart than the window, so that the server's word
            # for a duplicate can be believed.
            message_id = f"{urlsafe_b64encode(request.digest).decode()}.{int(at // window)}"
            admission = self._admission(batches, left, message_id)
            yield admission
        finally:
            del source.flights[flight]
            # One that failed stays among the recent: it may be stored all the same, or later, and whoever is
            # like it is searched for.
            if admission is not None:
                source.latest.extend(_stored(admission))
            flight.ended.set()

    def foreign(self, meta: Meta) -> None:
        """Another replica stored a batch, or this one found what was stored before it began."""
        source = self._sources.get(meta.source)
        if source is None:
            self._floors[meta.source] = max(meta.newest, self._floors.get(meta.source, 0))
        elif (packed := from_header(meta.hashes)) is not None:
            source.recent.add(meta.oldest, meta.newest, meta.count, packed)
            source.latest.append(Stored(meta.seq, meta.place, meta.received_at, packed))

    def forget_stored(self) -> None:
        """The stream lost what it had acknowledged: only what is there counts from now on."""
        self._search.forget()
        for source in self._sources.values():
            source.latest.clear()
            source.recent.forget()

    async def remember(self, message: Message) -> None:
        """Keep the ids of a batch that is about to be purged until its source's window is over.

        *message* with its payload. Raises `QueueError`: then it must not be purged.
        """
        meta = decode(message)
        window = self.window(meta.source)
        if window is None or meta.hashes is None:
            return
        rest = meta.received_at + window - self._clock.now()
        if rest <= 0 or not intact(meta, message.payload):
            return
        names = await aside(meta.count, partial(_names, message, meta))
        times = (meta.oldest, meta.newest) if meta.newest else None
        gone = Remembered(meta.received_at, [*names.ids, *names.contents], meta.hashes, times)
        await self._bucket.commit([remember(meta.source, meta.place, meta.seq, gone, rest)])

    async def _cut(self, batches: Sequence[Batch], *, indexed: bool) -> Pieces:
        if len(batches) == 1:  # a thread costs more than that
            return cut(batches, self._room, indexed=indexed)
        return await asyncio.to_thread(cut, batches, self._room, indexed=indexed)

    @contextmanager
    def _in_line(self, nbytes: int) -> Iterator[None]:
        self._line += 1
        self._line_bytes += nbytes
        try:
            yield
        finally:
            self._line -= 1
            self._line_bytes -= nbytes

    async def _unknown(self, source: _Source, request: Pieces, at: float, window: float) -> list[Numbered]:
        """The pieces without the events that were accepted within the *window* before they came *at*."""
        checked = self._judge.checks(request.pieces[0].batch.source)
        events = sum([len(piece.print.lines) for piece in request.pieces])
        numbered, names, wanted = await aside(events, partial(_asked, request, checked, at, window))
        found = await self._search.known(wanted, source.latest)
        known = found.names | await self._vouched(found, names)
        return await aside(events, partial(_left, numbered, names, known))

    async def _vouched(self, found: Found, names: Sequence[Names]) -> AbstractSet[str]:
        """What events without a known id say, as far as a stored event that is signed says it, too."""
        pairs = chain.from_iterable([zip(each.ids, each.contents, strict=True) for each in names])
        open_ = {content for event_id, content in pairs if event_id not in found.names}
        if not found.alike or not open_:
            return frozenset()
        copies = [
            (content, line)
            for seq, said in sorted(found.alike.items())
            if not said.isdisjoint(open_)
            for content, line in (await self._search.texts(seq)).items()
            if content in said and content in open_
        ]
        vouched = await vouch(self._judge, found.wanted.source, [line for _, line in copies])
        return {content for content, line in copies if vouched[line]}

    def _admission(
        self, batches: Sequence[Batch], left: Sequence[Numbered], message_id: str | None
    ) -> Admission:
        parts: list[Part] = []
        for piece, numbers in left:
            stamp = Stamp(
                place=piece.place,
                oldest=piece.print.oldest,
                newest=piece.print.newest,
                hashes=to_header(piece.packed) if piece.packed else None,
                ordinals=numbers,
                message_id=None if parts else message_id,  # all of them are stored or none
                replica=self._replica,
            )
            parts.append(Part(piece.batch, stamp))
        return Admission(batches, tuple(parts), self._replica)


def _names(message: Message, meta: Meta) -> Names:
    lines = gzipped.decompress(message.payload).split(b"\n")[:-1]
    return names_of(lines, meta.ordinals, pulled=meta.pulled)


def _numbered(pieces: Sequence[Piece]) -> list[Numbered]:
    """Each piece with the ordinals of its events, counted over the whole request."""
    numbers = ordinals([piece.print for piece in pieces]) if len(pieces) > 1 else None
    return [(piece, numbers[n] if numbers else None) for n, piece in enumerate(pieces)]


def _asked(
    request: Pieces, checked: bool, at: float, window: float
) -> tuple[list[Numbered], list[Names], Wanted]:
    """What to search for, and the names of each piece's events."""
    numbered = _numbered(request.pieces)
    twins: Counter[str] = Counter()
    names = [
        names_of(piece.print.lines, numbers, pulled=piece.batch.pulled, twins=twins)
        for piece, numbers in numbered
    ]
    prints = [piece.print for piece in request.pieces]
    wanted = Wanted(
        source=request.pieces[0].batch.source,
        ids=frozenset(chain.from_iterable([each.ids for each in names])),
        contents=frozenset(chain.from_iterable([each.contents for each in names])),
        checked=checked,
        hashes=frozenset(_hashes(request.pieces)),
        places=frozenset().union(*[places_of(each, singly=request.singly) for each in prints]),
        at=at,
        since=at - window,
    )
    return numbered, names, wanted


def _left(numbered: Sequence[Numbered], names: Sequence[Names], known: AbstractSet[str]) -> list[Numbered]:
    """The pieces without the events that are known."""
    left = []
    for (piece, numbers), (ids, contents) in zip(numbered, names, strict=True):
        pairs = zip(ids, contents, strict=True)
        keep = [i for i, pair in enumerate(pairs) if known.isdisjoint(pair)]
        if keep:
            left.append((piece, numbers) if len(keep) == len(ids) else _pick(piece, ids, keep))
    return left


def _pick(piece: Piece, names: Sequence[str], keep: Sequence[int]) -> Numbered:
    """The piece with only the events at the indices *keep*; twins keep the ordinals they had."""
    hashes = unpack(piece.packed)
    batch = with_lines(piece.batch, [piece.print.lines[i] for i in keep])
    picked = replace(piece, batch=batch, packed=pack([hashes[i] for i in keep]))
    return picked, [ordinal_of(names[i]) for i in keep]


def _hashes(pieces: Sequence[Piece]) -> AbstractSet[int]:
    if len(pieces) == 1:
        return pieces[0].print.hashes
    return frozenset().union(*[piece.print.hashes for piece in pieces])


def _stored(admission: Admission) -> Iterator[Stored]:
    """The messages of a request that was published; they follow each other in the stream."""
    for n, part in enumerate(reversed(admission.parts)):
        packed = from_header(part.stamp.hashes)
        if admission.last is not None and packed is not None:
            yield Stored(admission.last - n, part.stamp.place, part.batch.received_at, packed)
