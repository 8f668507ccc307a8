"""From the bytes of a body to batches."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import gzipped
from relay.ingest.body import BATCH_BYTES, TooLarge, Undecodable, Unpacked, is_large, unpack
from relay.konnect.lines import count_formats, format_of
from relay.model import Batch, Format
from tests.fakes.events import DATA, cef, lines

SAMPLES = sorted(path.name for path in DATA.glob("*.txt") if not path.name.startswith("batch_"))
MIB = 1 << 20


def unpacked(raw: bytes, *, max_decoded: int = 128 * MIB) -> Unpacked:
    return unpack(raw, source="eu", received_at=1.0, max_decoded=max_decoded)


def only_batch(raw: bytes) -> Batch:
    (batch,) = unpacked(raw).batches
    return batch


def lines_of(raw: bytes) -> list[bytes]:
    """The lines of all batches, having checked that each batch agrees with itself."""
    found = []
    for batch in unpacked(raw).batches:
        assert gzipped.decompress(batch.payload) == batch.body
        own = batch.body.split(b"\n")
        assert own.pop() == b""
        assert batch.lines in ([], own)
        assert dict(batch.formats) == Counter(map(format_of, own))
        found += own
    return found


def joined(events: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in events)


@pytest.mark.parametrize("cut", [2, 3, 9, 12, 40, -8, -4, -1])
def test_truncated_gzip_is_undecodable(cut: int) -> None:
    """A gzip body that ends early is refused, however little of it is missing."""
    raw = gzip.compress(joined(lines(20)))

    with pytest.raises(Undecodable):
        unpacked(raw[:cut])


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_an_event(at: int, bit: int) -> None:
    """Damaged gzip is refused, or the damage did not touch the events."""
    events = lines(5)
    raw = bytearray(gzip.compress(joined(events), mtime=0))
    raw[2 + at % (len(raw) - 2)] ^= 1 << bit

    try:
        found = lines_of(bytes(raw))
    except Undecodable:
        return
    assert found == events


def test_bytes_after_the_gzip_are_undecodable() -> None:
    """What follows a complete gzip stream may be lost events: it is not passed over in silence."""
    with pytest.raises(Undecodable):
        unpacked(gzip.compress(joined(lines(1))) + b"garbage")


def test_a_broken_second_member_is_undecodable() -> None:
    """A body of several gzip members is taken whole or not at all."""
    second = bytearray(gzip.compress(joined(lines(3))))
    second[-5] ^= 1

    with pytest.raises(Undecodable):
        unpacked(gzip.compress(joined(lines(3))) + second)


def test_a_bomb_is_refused_within_bounded_memory() -> None:
    """A body that swells to 300 MiB is refused without being held decompressed."""
    raw = gzip.compress(bytes(300 * MIB), 9)

    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            unpacked(raw, max_decoded=8 * MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 * MIB + 4 * BATCH_BYTES


def test_an_unreasonable_ratio_is_refused_below_the_size_limit() -> None:
    """No audit log compresses a thousandfold: such a body is refused long before `max_decoded_body`."""
    raw = gzip.compress(bytes(64 * MIB), 9)

    with pytest.raises(TooLarge):
        unpacked(raw, max_decoded=1024 * MIB)


@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_the_size_limit_is_exact(encode: type[bytes]) -> None:
    """A body of exactly `max_decoded_body` bytes is accepted, one byte more is not."""
    body = joined(lines(100))

    assert unpacked(encode(body), max_decoded=len(body)).nbytes == len(body)
    with pytest.raises(TooLarge):
        unpacked(encode(body), max_decoded=len(body) - 1)


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n", b" \t\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_body_without_lines_makes_no_batch(body: bytes, encode: type[bytes]) -> None:
    """Nothing but blank lines is nothing to store."""
    assert unpacked(encode(body)).batches == ()


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "shape",
    [
        b"%s\n".__mod__,
        b"%s".__mod__,
        lambda body: body.replace(b"\n", b"\r\n") + b"\r\n",
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: b"\n\n" + body.replace(b"\n", b"\n \n\n") + b"\n\n",
    ],
    ids=["as is", "no last newline", "crlf", "bom", "blank lines"],
)
def test_every_sample_keeps_its_lines(name: str, encode: type[bytes], shape: type[bytes]) -> None:
    """However lines are ended or spaced, each event is kept byte for byte."""
    body = (DATA / name).read_bytes().rstrip(b"\n")

    assert lines_of(encode(shape(body))) == body.split(b"\n")


def test_gzip_is_kept_as_it_came() -> None:
    """Where nothing had to be removed, the sender's own gzip is what is stored."""
    raw = gzip.compress(joined(lines(100)), 6)

    assert only_batch(raw).payload is raw


@pytest.mark.parametrize(
    "body",
    [b"\xef\xbb\xbf%s\n", b"%s", b"%s\r\n", b"\n%s\n"],
    ids=["bom", "no last newline", "crlf", "blank"],
)
def test_gzip_is_made_anew_where_something_changed(body: bytes) -> None:
    """What is stored always decompresses to exactly the batch's lines."""
    batch = only_batch(gzip.compress(body % cef(1)))

    assert gzipped.decompress(batch.payload) == batch.body == cef(1) + b"\n"


def test_several_members_become_one() -> None:
    """Members in a row are one body, and stored as one member: readers take its size from the trailer."""
    raw = gzip.compress(joined(lines(3))) + gzip.compress(joined(lines(3, first=3))) + bytes(512)

    batch = only_batch(raw)

    assert batch.lines == [] or batch.lines == lines(6)
    assert batch.body == joined(lines(6))
    assert int.from_bytes(batch.payload[-4:], "little") == len(batch.body)


def test_bytes_inside_a_line_are_never_touched() -> None:
    """Carriage returns, tabs, spaces and invalid UTF-8 within a line belong to the event."""
    event = b"  \xff\xfe a\rb\t\x00 "

    assert lines_of(gzip.compress(event + b"\n" + event)) == [event, event]


def test_a_large_body_is_cut_at_line_ends() -> None:
    """Batches stay within a MiB, and together they are the body."""
    rng = random.Random(1)
    events = [cef(n) + b" sig=" + rng.randbytes(300).hex().encode() for n in range(8_000)]

    result = unpacked(gzip.compress(joined(events), 1))

    assert lines_of(gzip.compress(joined(events), 1)) == events
    assert len(result.batches) > 5
    assert max(len(batch.body) for batch in result.batches) <= BATCH_BYTES
    assert sum(batch.count for batch in result.batches) == len(events)


@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_very_long_line_stays_whole(encode: type[bytes]) -> None:
    """A line longer than a batch is one event all the same."""
    rng = random.Random(2)
    long = rng.randbytes(3 * MIB // 2).hex().encode()

    assert lines_of(encode(joined([cef(1), long, cef(2)]))) == [cef(1), long, cef(2)]


@given(
    st.lists(
        st.one_of(
            st.sampled_from([cef(1), b'{"act":"GET"}', b'{"event":{"act":"GET"}}', b"", b" ", b"neither"]),
            st.binary(max_size=100).filter(lambda line: b"\n" not in line),
            st.integers(30, 90).map(lambda n: b"x" * n + b"CEF:0|KongInc|"),
        ),
        max_size=12,
    )
)
def test_formats_are_counted_by_line(batch: list[bytes]) -> None:
    """Counting the lines of a batch at once gives what looking at each line gives."""
    assert dict(count_formats(batch)) == Counter(map(format_of, batch))


def test_an_unknown_format_is_accepted() -> None:
    """An audit log is never refused for its looks."""
    assert only_batch(b"neither CEF nor JSON\n").formats == ((Format.UNKNOWN, 1),)


def test_large_bodies_are_recognised() -> None:
    """Unpacking leaves the event loop when there is much to read or, by the sender's word, much to write."""
    assert not is_large(b"")
    assert not is_large(gzip.compress(joined(lines(100))))
    assert is_large(bytes(100_000))
    assert is_large(gzip.compress(bytes(MIB)))


def test_a_sample_with_blank_lines_and_carriage_returns() -> None:
    """What is left of it are its records."""
    raw = (DATA / "batch_crlf_blank_lines.cef.txt").read_bytes()

    (batch,) = unpacked(raw).batches

    records = [line.strip() for line in raw.splitlines() if line.strip()]
    assert batch.lines == records
    assert len(records) < len(raw.splitlines())
