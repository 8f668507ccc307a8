"""Places and hashes: whoever looks for an event comes to where it was stored."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.konnect.lines import event_ids
from relay.model import Batch
from relay.queue.dedup.fingerprint import event_hashes, fingerprint
from relay.queue.jetstream import index
from relay.queue.jetstream.message import HASHES
from relay.queue.jetstream.pieces import Piece, cut
from tests.fakes.events import NOW, batch, cef, lines, restamped

ROOM = 1 << 20
NOW_MS = int(NOW * 1000)
UNTIMED = b"not an audit log at all %d"


def timed(number: int, at: int) -> bytes:
    """An event that happened at *at*, in milliseconds."""
    return cef(number).replace(b"rt=%d" % NOW_MS, b"rt=%013d" % at)


@pytest.mark.parametrize(
    ("oldest", "newest", "place"),
    [
        (0, 0, "13.0"),
        (8191, 8191, "13.0"),
        (8192, 16383, "13.1"),
        (8191, 8192, "16.0"),  # on both sides of a border: the next level that holds both
        (65535, 65536, "19.0"),
        ((1 << 43) - 1, 1 << 43, "46.0"),
        (0, 9_999_999_999_999, "46.0"),  # the widest that thirteen digits allow
    ],
)
def test_a_batch_takes_the_smallest_span_that_holds_it(oldest: int, newest: int, place: str) -> None:
    """Spans are aligned, so that they follow from the times alone."""
    request = batch([timed(1, oldest), timed(2, newest)])

    assert index.place_of(fingerprint(request)) == place


def test_an_event_has_one_place_on_each_level() -> None:
    """Few subjects to look under, however many batches there are."""
    places = index.places_of(fingerprint(batch([cef(1)])), singly=True)

    assert places == {f"{level}.{NOW_MS >> level}" for level in range(13, 47, 3)}


def test_events_side_by_side_share_their_places() -> None:
    """A hundred events of one second do not cost a hundred times the subjects."""
    assert len(index.places_of(fingerprint(batch(lines(100))), singly=True)) <= 13


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """Lines with all sorts of times; few enough different ones that batches overlap."""
    number = draw(st.integers(0, 3))
    near = st.integers(-20, 20).map(lambda n: NOW_MS + 4096 * n)
    far = st.sampled_from([0, 1, (1 << 40) - 1, 1 << 40, NOW_MS - 86_400_000, NOW_MS + 3_600_000, 10**13 - 1])
    time = draw(st.one_of(near, near, far, st.none()))
    if time is None:
        return UNTIMED % number
    line = timed(number, time)
    return line + b" padding=" + b"x" * 200 if draw(st.booleans()) else line


def found(stored: list[Piece], request: Batch) -> set[str]:
    """What a search by places and hashes comes to, opening what both let through."""
    wanted = cut([request], ROOM, indexed=True)
    places = set().union(*[index.places_of(piece.print, singly=wanted.singly) for piece in wanted.pieces])
    hashes = set().union(*[piece.print.each_hash() for piece in wanted.pieces])
    ids = set(event_ids(request.lines))
    return {
        name
        for piece in stored
        if piece.place in places and not hashes.isdisjoint(index.unpack(piece.packed))
        for name in ids.intersection(event_ids(piece.batch.lines))
    }


@given(
    st.lists(st.lists(events(), min_size=1, max_size=6, unique=True), min_size=1, max_size=8),
    st.lists(events(), min_size=1, max_size=6, unique=True),
    st.sampled_from([0.0, 7200.0, 86400.0 * 400]),
)
def test_a_search_finds_what_comparing_everything_finds(
    batches: list[list[bytes]], request: list[bytes], later: float
) -> None:
    """Whatever the times, the mixture and the boundaries; even once what lay in the future has happened."""
    stored = [piece for each in batches for piece in cut([batch(each)], ROOM, indexed=True).pieces]
    known = {name for each in batches for name in event_ids(each)}
    asked = batch([restamped(line) if b"CEF" in line else line for line in request], at=NOW + later)

    assert found(stored, asked) == known & set(event_ids(asked.lines))


def test_many_events_without_a_time_are_found_as_a_whole() -> None:
    """Such a batch is no audit log; its retry is recognised, and costs no message for each line."""
    many = batch([UNTIMED % n for n in range(65)])
    pieces = cut([many], ROOM, indexed=True).pieces

    assert len(pieces) == 1
    assert found(list(pieces), many) == set(event_ids(many.lines))


def test_many_events_without_a_time_do_not_hide_the_others() -> None:
    """The events that have a time are found by it."""
    mixed = batch([cef(1), *[UNTIMED % n for n in range(65)]])

    assert found(list(cut([mixed], ROOM, indexed=True).pieces), batch([cef(1)])) == set(event_ids([cef(1)]))


def test_hashes_are_the_same_everywhere() -> None:
    """CRC-32 from the time to where a signature begins, which every process computes alike."""
    long = cef(1) + b" padding=" + b"x" * 200

    assert list(event_hashes([long])) == [zlib.crc32(long[long.index(b"rt=") + 3 : -97])]


@pytest.mark.parametrize("tail", [b"", b" padding=" + b"x" * 200], ids=["short", "long"])
def test_a_new_header_time_changes_no_hash(tail: bytes) -> None:
    """A replay may stamp events anew: short lines are hashed without the header."""
    line = cef(1) + tail
    short = line[:40] + line[line.index(b"CEF:") : line.index(b"CEF:") + 80] + tail

    for each in (line, short):
        before, after = (list(event_hashes([x])) for x in (each, restamped(each)))
        assert before == after


def test_hashes_survive_the_header() -> None:
    """What was packed is unpacked, in the same order."""
    hashes = [0, 1, 0xFFFFFFFF, 0x01020304]

    packed = index.from_header(index.to_header(index.pack(hashes)))

    assert packed is not None
    assert list(index.unpack(packed)) == hashes


@pytest.mark.parametrize("value", [None, "", "AAA", "AAAAAAA=", "not base64!"])
def test_hashes_that_cannot_be_read_are_unknown(value: str | None) -> None:
    """Another program may write anything; no hash is not the same as no event."""
    assert index.from_header(value) is None, HASHES
