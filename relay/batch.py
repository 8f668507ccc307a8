"""Stored batches and the chunks cut from them: what readers give and destinations take.

A batch is given as it was received, or as one destination wants it written (`RewrittenBatch`). A chunk refers
to runs of events inside stored batches. Nothing is copied, decoded or hashed before someone asks for it, and
what was decoded once is shared by every destination that reads the same batch: a destination that only wants
lines never touches a single event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from relay import gzipped
from relay.formats.rewriting import Rewriting, Written
from relay.konnect.lines import event_ids, format_of
from relay.konnect.signatures import SignatureResult
from relay.model import Event, Position, Reason, Unfit

_UNREADABLE = Unfit(
    Reason.UNCONVERTIBLE, "the line cannot be read, so the fields that `redact` names cannot be taken out"
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check of a batch's signatures found."""

    results: Sequence[SignatureResult]  # of each event
    unfit: Mapping[int, Unfit] = field(default_factory=dict)  # events that are kept back for it


class StoredBatch:
    """A batch as the queue holds it. Decoded forms are made on first use and kept."""

    __slots__ = (
        "_body",
        "_ids",
        "_lines",
        "checked",
        "count",
        "ordinals",
        "payload",
        "pulled",
        "received_at",
        "sequence",
        "source",
    )

    def __init__(
        self,
        *,
        sequence: int,
        source: str,
        received_at: float,
        count: int,
        payload: bytes,
        ordinals: Sequence[int] | None = None,
        pulled: bool = False,
        body: bytes | None = None,
        ids: list[str] | None = None,
    ) -> None:
        self.sequence = sequence
        self.source = source
        self.received_at = received_at  # seconds since the epoch
        self.count = count  # events
        self.payload = payload  # gzip
        self.ordinals = ordinals
        self.pulled = pulled  # see `Batch`
        self._body = body
        self._lines: list[bytes] | None = None
        self._ids = ids
        # Set once, before any destination sees the batch; None where its source is not checked.
        self.checked: Checked | None = None

    def __repr__(self) -> str:
        return f"<StoredBatch {self.sequence} {self.source} {self.count} events>"

    @property
    def body(self) -> bytes:
        """Every line, each ended by one newline."""
        if self._body is None:
            self._body = gzipped.decompress(self.payload)
        return self._body

    @property
    def nbytes(self) -> int:
        """Length of `body`, without decoding it: the gzip trailer tells (RFC 1952, ISIZE).

        Short where a sender's gzip has several members; then only the last one is counted, until
        the body is decoded.
        """
        if self._body is None:
            return int.from_bytes(self.payload[-4:], "little")
        return len(self._body)

    @property
    def held(self) -> int:
        """Bytes of what was received that this keeps in memory once it is decoded."""
        return self.nbytes

    def shell(self) -> StoredBatch:
        """The same batch without its events: all that is left to know of one nobody wants anything of."""
        return StoredBatch(
            sequence=self.sequence,
            source=self.source,
            received_at=self.received_at,
            count=self.count,
            payload=b"",
            pulled=self.pulled,
        )

    @property
    def lines(self) -> list[bytes]:
        """The lines without their ends."""
        if self._lines is None:
            # Whole before anyone sees it: conversions read batches in threads of their own.
            *lines, _ = self.body.split(b"\n")  # behind the last newline is nothing
            self._lines = lines
        return self._lines

    @property
    def ids(self) -> list[str]:
        """The event ids, in the order of the lines."""
        if self._ids is None:
            self._ids = event_ids(self.lines, self.ordinals, pulled=self.pulled)
        return self._ids

    def line(self, index: int) -> bytes:
        """One line, where not all of them are wanted."""
        return self.lines[index]

    def event(self, index: int) -> Event:
        """The event as a destination gets it."""
        line = self.lines[index]
        return Event(
            self.ids[index],
            line,
            format_of(line),
            self.source,
            self.received_at,
            signature=None if self.checked is None else self.checked.results[index],
        )

    def original(self, index: int) -> Event:
        """The event as it was received."""
        return self.event(index)

    def unread(self, indices: Iterable[int]) -> int:
        """How many of these had to be read for the destination and could not be."""
        del indices
        return 0

    def unfit(self, indices: Iterable[int]) -> Mapping[int, Unfit]:
        """Which of these must not go out, and why: a bad signature, or no way to the form that is needed."""
        if self.checked is None or not self.checked.unfit:
            return {}
        found = self.checked.unfit
        return {index: found[index] for index in indices if index in found}


class RewrittenBatch(StoredBatch):
    """A batch as one destination wants it written. Each event is written on first use and kept."""

    __slots__ = ("_written", "batch", "rewriting")

    def __init__(self, batch: StoredBatch, rewriting: Rewriting) -> None:
        super().__init__(
            sequence=batch.sequence,
            source=batch.source,
            received_at=batch.received_at,
            count=batch.count,
            payload=b"",  # what is stored is not what goes out
            pulled=batch.pulled,
        )
        self.batch = batch
        self.rewriting = rewriting
        self._written: list[Written | None] = [None] * batch.count

    @property
    def body(self) -> bytes:
        if self._body is None:
            self._body = b"".join([line + b"\n" for line in self.lines])
        return self._body

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.lines)) + self.count

    @property
    def held(self) -> int:
        return self.batch.held

    @property
    def lines(self) -> list[bytes]:
        if self._lines is None:
            self._lines = [self.written(index).line for index in range(self.count)]
        return self._lines

    @property
    def ids(self) -> list[str]:
        return self.batch.ids

    def written(self, index: int) -> Written:
        """May be called by several threads: they come to the same result."""
        found = self._written[index]
        if found is None:
            found = self._written[index] = self.rewriting.write(self.batch.event(index))
        return found

    def line(self, index: int) -> bytes:
        return self.written(index).line

    def event(self, index: int) -> Event:
        it = self.written(index)
        checked = self.batch.checked
        return Event(
            self.ids[index],
            it.line,
            it.format,
            self.source,
            self.received_at,
            it.received,
            None if checked is None else checked.results[index],
        )

    def original(self, index: int) -> Event:
        return self.batch.event(index)

    def unread(self, indices: Iterable[int]) -> int:
        return sum([not self.written(index).read for index in indices])

    def unfit(self, indices: Iterable[int]) -> Mapping[int, Unfit]:
        indices = list(indices)
        own = {index: _UNREADABLE for index in indices if not self.written(index).fit}
        return {**own, **self.batch.unfit(indices)}


@dataclass(frozen=True, slots=True)
class Slice:
    """Some events of one batch, in order: a `range`, or a tuple of indices where a filter left holes."""

    batch: StoredBatch
    indices: range | tuple[int, ...]

    @classmethod
    def whole(cls, batch: StoredBatch) -> Slice:
        return cls(batch, range(batch.count))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def is_whole(self) -> bool:
        return len(self.indices) == self.batch.count

    @property
    def body(self) -> bytes:
        """The lines of this slice, each ended by one newline."""
        if self.is_whole:
            return self.batch.body
        line = self.batch.line
        return b"".join([line(i) + b"\n" for i in self.indices])

    def cut(self, at: int) -> tuple[Slice, Slice]:
        return Slice(self.batch, self.indices[:at]), Slice(self.batch, self.indices[at:])


@dataclass(frozen=True, slots=True)
class Chunk:
    """The events of one request to a destination, in log order. Never empty when sent."""

    slices: tuple[Slice, ...]

    def __len__(self) -> int:
        """Number of events."""
        return sum(map(len, self.slices))

    @property
    def first(self) -> Position:
        """Where the first event stands."""
        head = self.slices[0]
        return Position(head.batch.sequence, head.indices[0])

    @property
    def nbytes(self) -> int:
        """Uncompressed size of the lines with one newline each."""
        return sum(len(piece.body) for piece in self.slices)

    @property
    def body(self) -> bytes:
        """All lines, each ended by one newline."""
        if len(self.slices) == 1:
            return self.slices[0].body
        return b"".join([piece.body for piece in self.slices])

    @property
    def oldest_received_at(self) -> float:
        """Arrival of the event that waited longest, seconds since the epoch."""
        return min(piece.batch.received_at for piece in self.slices)

    def gzip_members(self) -> bytes | None:
        """The stored gzip of all lines as they are, or None where some batch is not sent whole and as
        received.

        Several members in a row are one valid gzip stream (RFC 1952 section 2.2), but not every
        receiver reads past the first; a destination type has to opt in.
        """
        if all(piece.is_whole and piece.batch.payload for piece in self.slices):
            return b"".join([piece.batch.payload for piece in self.slices])
        return None

    def lines(self) -> Iterator[bytes]:
        for piece in self.slices:
            if piece.is_whole:
                yield from piece.batch.lines
            else:
                yield from map(piece.batch.line, piece.indices)

    def events(self) -> Iterator[Event]:
        for piece in self.slices:
            for i in piece.indices:
                yield piece.batch.event(i)

    def cut(self, at: int) -> tuple[Chunk, Chunk]:
        """Split before the event with index *at*; both parts keep their order."""
        head: list[Slice] = []
        for n, piece in enumerate(self.slices):
            if at < len(piece):
                left, right = piece.cut(at)
                if left.indices:
                    head.append(left)
                return Chunk(tuple(head)), Chunk((right, *self.slices[n + 1 :]))
            head.append(piece)
            at -= len(piece)
        return Chunk(tuple(head)), Chunk(())

    def pick(self, wanted: Sequence[int]) -> Chunk:
        """The events with these indices (ascending) as a chunk of their own."""
        slices: list[Slice] = []
        start = 0
        pending = iter(wanted)
        index = next(pending, None)
        for piece in self.slices:
            stop = start + len(piece)
            taken = []
            while index is not None and index < stop:
                taken.append(piece.indices[index - start])
                index = next(pending, None)
            if len(taken) == len(piece):
                slices.append(piece)
            elif taken:
                slices.append(Slice(piece.batch, tuple(taken)))
            start = stop
        return Chunk(tuple(slices))
