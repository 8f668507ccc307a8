"""gzip through ISA-L: three times faster than zlib at the same size for this kind of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from isal import isal_zlib

_GZIP = 31  # zlib's window bits for "a gzip header and trailer"


def compress(data: bytes) -> bytes:
    """One gzip member. The same input always gives the same bytes (no time stamp)."""
    return isal_zlib.compress(data, 1, _GZIP)


def crc32(data: bytes, start: int = 0) -> int:
    """The CRC-32 of gzip and zlib, ten times as fast."""
    return isal_zlib.crc32(data, start)


def crc32_each(parts: Iterable[bytes]) -> Iterator[int]:
    """The CRC-32 of each part, made as they are asked for."""
    return map(isal_zlib.crc32, parts)


def decompress(data: bytes) -> bytes:
    """All members of *data*, which must be our own or already checked: nothing bounds the size.

    Raises `ValueError` when the data ends early and `isal_zlib.IsalError` when it is broken.
    """
    parts = []
    while data:
        inflater = isal_zlib.decompressobj(_GZIP)
        parts.append(inflater.decompress(data))
        if not inflater.eof:
            raise ValueError("incomplete gzip data")
        data = inflater.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)
