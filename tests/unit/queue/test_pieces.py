"""A request becomes messages that the server takes and that can be found again."""

from __future__ import annotations

import os

import pytest

from relay.errors import QueueError
from relay.model import Batch, Format
from relay.queue.jetstream import pieces
from relay.queue.jetstream.index import NOWHERE
from relay.queue.jetstream.pieces import cut
from tests.fakes.events import NOW, batch, cef, lines

ROOM = 1 << 20


def bodies(batches: list[Batch], room: int = ROOM) -> list[bytes]:
    return [piece.batch.body for piece in cut(batches, room, indexed=True).pieces]


def test_what_konnect_sends_stays_as_it_is() -> None:
    """The batch is not copied, not even its gzip."""
    request = batch(lines(100))

    (piece,) = cut([request], ROOM, indexed=True).pieces

    assert piece.batch is request


@pytest.mark.parametrize("place", [0, 3, 6])
def test_an_event_without_a_time_becomes_a_message_of_its_own(place: int) -> None:
    """Order is kept, and every piece knows its formats."""
    request = lines(6)
    request.insert(place, b"odd")

    found = cut([batch(request)], ROOM, indexed=True).pieces

    assert b"".join(piece.batch.body for piece in found) == batch(request).body
    assert [piece.batch.body for piece in found if piece.batch.format is Format.UNKNOWN] == [b"odd\n"]
    assert sum(piece.batch.count for piece in found) == 7


def test_an_event_from_the_future_does_not_widen_the_others_span() -> None:
    """It stands alone where its own time says."""
    request = [cef(1), cef(2, at=NOW + 86400), cef(3)]

    assert [line + b"\n" for line in request] == bodies([batch(request)])


def test_a_message_has_a_limited_number_of_events() -> None:
    """Headers hold a hash for each, and have a limit of their own."""
    found = bodies([batch(lines(pieces.MOST_LINES + 1))])

    assert [each.count(b"\n") for each in found] == [pieces.MOST_LINES, 1]


def test_a_message_is_no_larger_than_the_server_takes() -> None:
    """Lines that compress badly are cut by bytes, down to one line."""
    request = batch([cef(n) + b" noise=" + os.urandom(500).hex().encode() for n in range(40)])

    found = cut([request], 4_000, indexed=True).pieces

    assert b"".join(piece.batch.body for piece in found) == request.body
    assert max(len(piece.batch.payload) for piece in found) <= 4_000
    assert len(cut([request], 1, indexed=True).pieces) == 40


def test_a_request_that_cannot_be_stored_at_once_is_refused() -> None:
    """The server stores a thousand messages together, not more."""
    request = [batch([b"%d" % n for n in range(50)], at=NOW) for _ in range(30)]

    with pytest.raises(QueueError, match="1500 pieces"):
        cut(request, 1, indexed=True)


def test_the_same_bodies_have_the_same_digest() -> None:
    """Another source or another line makes another one."""
    digests = [
        cut(request, ROOM, indexed=True).digest
        for request in (
            [batch([cef(1)])],
            [batch([cef(1)], at=NOW + 5)],
            [batch([cef(1)], source="us")],
            [batch([cef(2)])],
        )
    ]

    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_what_is_not_to_be_found_has_no_place() -> None:
    """A source that does not deduplicate pays for no hashes."""
    (piece,) = cut([batch(lines(3))], ROOM, indexed=False).pieces

    assert (piece.place, piece.packed) == (NOWHERE, b"")
