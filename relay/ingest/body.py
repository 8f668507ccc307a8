"""From the bytes of a request's body to batches. Pure: no I/O, no clock, safe in any thread.

Owns what counts as a line and what is kept of the sender's gzip. Never trusts a header about the
encoding: the docs, old captures and proxies disagree on it (docs/konnect.md section 1), the first two
bytes do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Final, Protocol, cast

from isal import igzip, isal_zlib

from relay import gzipped
from relay.errors import RelayError
from relay.konnect.lines import count_formats
from relay.model import Batch, Format

BATCH_BYTES = 1 << 20  # a larger body is cut into batches of at most this, so that no reader holds more

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 31  # zlib's window bits for "a gzip header and trailer"
_BOM = b"\xef\xbb\xbf"
_MIN_READ = 64 * 1024

# gzip of audit logs reaches 5:1, at most some 40:1 unsigned; deflate itself ends at 1032:1. A body
# that swells more than this is no log, and small ones may do as they like.
_MAX_RATIO = 200
_ANY_RATIO_BELOW = 4 * BATCH_BYTES

_LARGE_RAW = 32 * 1024
_LARGE_DECODED = 256 * 1024

# What reading broken gzip raises. isal's own stubs call its exception class an instance.
_BROKEN: Final = (cast("type[Exception]", isal_zlib.IsalError), OSError, EOFError)


class TooLarge(RelayError):
    """The request body is over the size limit."""


class Undecodable(RelayError):
    """The request body is not valid gzip."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a body held."""

    batches: tuple[Batch, ...]  # none where it held no line
    nbytes: int  # after decompression, as sent


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def is_large(raw: bytes) -> bool:
    """Whether unpacking takes long enough to do it outside the event loop.

    A guess by the size and the sender's word for the decoded size (RFC 1952, ISIZE).
    """
    if len(raw) > _LARGE_RAW:
        return True
    return raw[:2] == _GZIP_MAGIC and int.from_bytes(raw[-4:], "little") > _LARGE_DECODED


def unpack(raw: bytes, *, source: str, received_at: float, max_decoded: int) -> Unpacked:
    """Decode a body, split it into lines and make batches of them.

    Blank lines, a byte order mark, carriage returns at line ends and a missing last newline are
    tidied up. Where there was none of that, the batch keeps the sender's gzip as it came. Raises
    `TooLarge` beyond *max_decoded* bytes or an unreasonable ratio, and `Undecodable`.
    """
    zipped = raw[:2] == _GZIP_MAGIC
    limit = min(max_decoded, max(_ANY_RATIO_BELOW, _MAX_RATIO * len(raw))) if zipped else max_decoded
    try:
        whole = _single_member(raw) if zipped else raw
        if whole is not None and len(whole) <= min(BATCH_BYTES, limit):
            text = whole.removeprefix(_BOM)
            batch = _batch(text, raw if zipped and text is whole else None, source, received_at)
            return Unpacked((batch,) if batch else (), len(whole))
        return _unpack_large(_gzip_stream(raw) if zipped else BytesIO(raw), limit, source, received_at)
    except _BROKEN as error:
        raise Undecodable(f"the request body is not valid gzip: {error}") from error


def _single_member(raw: bytes) -> bytes | None:
    """The whole text, where it is one gzip member of at most one batch; else None."""
    inflater = isal_zlib.decompressobj(_GZIP)
    text: bytes = inflater.decompress(raw, BATCH_BYTES)
    return text if inflater.eof and not inflater.unused_data else None


def _gzip_stream(raw: bytes) -> _Stream:
    return igzip.IGzipFile(fileobj=BytesIO(raw))  # type: ignore[no-untyped-call]  # isal has no types here


def _unpack_large(stream: _Stream, limit: int, source: str, received_at: float) -> Unpacked:
    batches = []
    nbytes = 0
    for run in _runs_of_lines(stream, limit):
        batch = _batch(run if nbytes else run.removeprefix(_BOM), None, source, received_at)
        nbytes += len(run)
        if batch is not None:
            # Without the split lines, which take as much memory again.
            batches.append(replace(batch, lines=[]))
    return Unpacked(tuple(batches), nbytes)


def _runs_of_lines(stream: _Stream, limit: int) -> Iterator[bytes]:
    """Read *stream* to its end in runs of whole lines of at most `BATCH_BYTES`.

    A line that is longer stays whole. Raises `TooLarge` once *limit* bytes are passed; no more than one
    run beyond it is ever decompressed.
    """
    begun: list[bytes] = []  # pieces of a line whose end has not come yet
    held = total = 0
    while piece := stream.read(max(BATCH_BYTES - held, _MIN_READ)):
        total += len(piece)
        if total > limit:
            raise TooLarge(f"the request body is more than {limit} bytes after decompression")
        ended, newline, rest = piece.rpartition(b"\n")
        if newline:
            yield b"".join((*begun, ended, newline))
            begun, held = [rest], len(rest)
        else:
            begun.append(piece)
            held += len(piece)
    if held:
        yield b"".join(begun)


def _batch(text: bytes, payload: bytes | None, source: str, received_at: float) -> Batch | None:
    """One batch of the lines of *text*; *payload* is its gzip, if there is one already."""
    lines = text.split(b"\n")
    unended = lines.pop()
    formats = count_formats(lines)
    # A blank line has no known format, so that lines of known formats need no closer look.
    if unended or b"\r" in text or any(form is Format.UNKNOWN for form, _ in formats):
        tidy = _tidied([*lines, unended])
        if not tidy:
            return None
        if unended or tidy != lines:
            lines, formats = tidy, count_formats(tidy)
            text, payload = b"\n".join([*tidy, b""]), None
    if not lines:
        return None
    return Batch(source, received_at, formats, text, payload or gzipped.compress(text), lines)


def _tidied(lines: list[bytes]) -> list[bytes]:
    """The lines without the carriage returns of CRLF line ends, and without blank ones."""
    stripped = [line.removesuffix(b"\r") for line in lines]
    return [line for line in stripped if line.strip()]
