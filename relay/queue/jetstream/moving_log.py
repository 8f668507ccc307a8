"""The batches of a move, out of the stream of events and into it.

Owns how they are numbered and cut. Publishes nothing itself.

Events are numbered by counting. Where messages are missing, a mark behind them tells that the count fell
behind, and it goes on from the mark's number: an event may get a higher number than the one its readers knew
it by, never a lower one, so none of them passes over an event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import Final

from relay.queue.belongings import MovedBatch
from relay.queue.dedup.fingerprint import ordinals
from relay.queue.jetstream.by_sequence import Message, get_next, get_range
from relay.queue.jetstream.index import to_header
from relay.queue.jetstream.link import Link, Outgoing
from relay.queue.jetstream.message import NotABatch, Stamp, decode, encode, intact
from relay.queue.jetstream.pieces import Piece, cut
from relay.queue.jetstream.record import Mark

_PAGE: Final = 500  # messages asked for at a time; the server sends about 4 MB of them


class Count:
    """Puts a count right by *marks*, whose numbers are known."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._ahead = deque(sorted(marks, key=lambda mark: mark.seq))

    def corrected(self, number: int, seq: int | None = None) -> int:
        """The number of message *seq*, or of the next one ever, where it was counted as *number*."""
        while self._ahead and (seq is None or self._ahead[0].seq <= seq):
            mark = self._ahead.popleft()
            number = max(number, mark.number - mark.offset)
        return number


async def batches(
    link: Link, stream: str, first: Mark, marks: Iterable[Mark]
) -> AsyncGenerator[MovedBatch, None]:
    """All of them from *first* on that match their checksum. Raises `QueueError`."""
    count = Count(marks)
    number = first.number
    async with aclosing(messages_from(link, stream, first.seq)) as messages:
        async for message in messages:
            number = count.corrected(number, message.seq)
            try:
                meta = decode(message)
            except NotABatch:
                continue
            if meta.count and intact(meta, message.payload):
                yield MovedBatch(
                    number=number,
                    source=meta.source,
                    received_at=meta.received_at,
                    formats=meta.formats,
                    payload=message.payload,
                    ordinals=meta.ordinals,
                    deduplicated=meta.hashes is not None,
                    pulled=meta.pulled,
                )
            number = meta.after(number)


async def messages_from(link: Link, stream: str, start: int) -> AsyncGenerator[Message, None]:
    """Everything from sequence *start* on, in order, a few megabytes at a time."""
    while True:
        found = await get_range(link, stream, start, _PAGE)
        if not found or found[0].seq > start:  # gone, or not there yet: the leader knows
            following = await get_next(link, stream, start)
            if following is None:
                return
            found, start = [following], following.seq
        for message in found:
            if message.seq > start:
                break
            yield message
            start += 1


def encoded(stream: str, item: MovedBatch, room: int) -> list[Outgoing]:
    """A batch as the messages it would be, had it come in here: at most *room* bytes of gzip in each."""
    pieces = cut([item.batch()], room, indexed=item.deduplicated).pieces
    return [
        encode(stream, piece.batch, _stamp(piece, numbers), 0)
        for piece, numbers in zip(pieces, _ordinals(item, pieces), strict=True)
    ]


def _stamp(piece: Piece, numbers: Sequence[int] | None) -> Stamp:
    return Stamp(
        place=piece.place,
        oldest=piece.print.oldest,
        newest=piece.print.newest,
        hashes=to_header(piece.packed) if piece.packed else None,
        ordinals=numbers,
    )


def _ordinals(item: MovedBatch, pieces: Sequence[Piece]) -> Sequence[Sequence[int] | None]:
    """Those of each piece; None where counting within it gives the same."""
    if item.ordinals is None:
        counted = ordinals([piece.print for piece in pieces]) if len(pieces) > 1 else None
        return counted or [None] * len(pieces)
    ends = accumulate([len(piece.print.lines) for piece in pieces])
    return [
        item.ordinals[end - len(piece.print.lines) : end] for piece, end in zip(pieces, ends, strict=True)
    ]
