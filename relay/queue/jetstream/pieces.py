"""A request as the messages it becomes: its batches, cut where one message could not hold or show them.

- An event without a time, or one from the future, becomes a message of its own. A message has one place,
  and no span of time could hold such an event together with the others.
- A message has so many events at most that its headers hold a hash of each, and so many bytes that the server
  takes it.

None of this concerns what Konnect sends. Pure; owns no I/O and no judgement of what is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from relay.errors import QueueError
from relay.konnect.times import event_time
from relay.model import Batch
from relay.queue.dedup.fingerprint import Fingerprint, fingerprint
from relay.queue.dedup.parts import with_lines
from relay.queue.jetstream.index import NOWHERE, pack, place_of

MOST_PIECES: Final = 1_000  # the server's limit on what is stored together
# Headers are limited to 64 KiB; hashes and ordinals take at most ten bytes for each event.
MOST_LINES: Final = 4_096
HEADERS: Final = 64 << 10
# More of them in a request are no audit log of Konnect's. They stay in their batches, which still
# finds a retry.
MOST_ALONE: Final = 64
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """What becomes one message."""

    batch: Batch
    print: Fingerprint
    place: str
    packed: bytes  # the hashes of its events; empty where they are not to be found again


@dataclass(frozen=True, slots=True)
class Pieces:
    """What becomes of one request."""

    pieces: tuple[Piece, ...]
    singly: bool  # events without a time are alone in their pieces
    digest: bytes  # the same only for the same bodies that came the same way


def cut(batches: Sequence[Batch], room: int, *, indexed: bool) -> Pieces:
    """Cut a request into pieces of at most *room* bytes of gzip. Raises `QueueError` for very many pieces.

    *indexed*: their events are to be found again.
    """
    prints = [fingerprint(batch) for batch in batches]
    odd = [frozenset() if each.timed else _odd(each) for each in prints]
    singly = sum(map(len, odd)) <= MOST_ALONE
    pieces: list[Piece] = []
    for batch, each, alone in zip(batches, prints, odd, strict=True):
        runs = list(_runs(len(each.lines), alone if singly else frozenset()))
        if len(runs) == 1 and len(batch.payload) <= room:
            pieces.append(_piece(batch, each, indexed))
        else:
            for start, stop in runs:
                pieces.extend(_fitting(with_lines(batch, each.lines[start:stop]), room, indexed))
    if len(pieces) > MOST_PIECES:
        raise QueueError(f"a request of {len(pieces)} pieces cannot be stored at once")
    digest = sha256(batches[0].source.encode())
    for batch in batches:
        if batch.pulled:
            digest.update(b"pulled")
        digest.update(batch.payload)
    return Pieces(tuple(pieces), singly, digest.digest()[:_DIGEST_BYTES])


def _piece(batch: Batch, each: Fingerprint, indexed: bool) -> Piece:
    if not indexed:
        return Piece(batch, each, NOWHERE, b"")
    hashes = list(each.each_hash())
    each.made = set(hashes)
    return Piece(batch, each, place_of(each), pack(hashes))


def _odd(each: Fingerprint) -> AbstractSet[int]:
    """The indices of events whose time is missing or in the future."""
    times = [event_time(key) for key in each.identities]
    return frozenset([i for i, time in enumerate(times) if time is None or time > each.limit])


def _runs(count: int, alone: AbstractSet[int]) -> Iterator[tuple[int, int]]:
    """Spans of lines: those *alone* by themselves, the others in runs of limited length."""
    start = 0
    for stop in [*sorted(alone), count]:
        for at in range(start, stop, MOST_LINES):
            yield at, min(stop, at + MOST_LINES)
        if stop < count:
            yield stop, stop + 1
        start = stop + 1


def _fitting(batch: Batch, room: int, indexed: bool) -> Iterator[Piece]:
    middle = len(batch.lines) // 2
    if (
        len(batch.payload) <= room or not middle
    ):  # a line that is too long by itself is the server's to refuse
        yield _piece(batch, fingerprint(batch), indexed)
    else:
        yield from _fitting(with_lines(batch, batch.lines[:middle]), room, indexed)
        yield from _fitting(with_lines(batch, batch.lines[middle:]), room, indexed)
