"""The keys of two sides on disk, in parts small enough to be compared in memory one after the other.

A key lands in the part that the hash of its time and trace says, so both sides' copies of an event meet in
one, also where they do not agree on a resource's name. Owns the temporary files and their form: blocks of
gzip'd lines, each with its length in front.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson

from relay import gzipped
from relay.konnect.peek import EventType
from relay.recovery.keys import Key

PARTS: Final = 256
_BLOCK: Final = 64 * 1024  # bytes of a part that are in memory before they are written
_LENGTH: Final = struct.Struct(">I")


class Entry:
    """One key: how often Konnect has it, and the fates of each time it was accepted."""

    __slots__ = ("accepted", "pulled")

    def __init__(self) -> None:
        self.pulled = 0
        self.accepted: list[bytes] = []  # one letter for each destination


class Spool:
    """Fill it with `pulled` and `accepted`, then go through `parts`, once."""

    def __init__(self, folder: Path, parts: int = PARTS) -> None:
        """*folder* has to be empty, and the caller's to delete."""
        self._paths = [folder / f"{number:03d}" for number in range(parts)]
        self._buffers = [bytearray() for _ in range(parts)]

    def pulled(self, key: Key) -> None:
        self._add(b"", key)

    def accepted(self, key: Key, fates: bytes) -> None:
        """*fates* are letters; a part's lines are told apart by them."""
        self._add(fates + b"!", key)

    def _add(self, head: bytes, key: Key) -> None:
        text = orjson.dumps(tuple(key))
        number = gzipped.crc32(f"{key.at} {key.trace_id}".encode()) % len(self._paths)
        buffer = self._buffers[number]
        buffer += head + text + b"\n"
        if len(buffer) >= _BLOCK:
            self._write(number)

    def _write(self, number: int) -> None:
        block = gzipped.compress(bytes(self._buffers[number]))
        self._buffers[number].clear()
        with self._paths[number].open("ab") as file:
            file.write(_LENGTH.pack(len(block)) + block)

    def parts(self) -> Iterator[dict[bytes, Entry]]:
        """Each part's keys, as `key_of` reads them. What was read is deleted."""
        for number, path in enumerate(self._paths):
            self._write(number)
            found: dict[bytes, Entry] = {}
            for line in _lines(path):
                head, bang, rest = line.partition(b"!") if line[:1] != b"[" else (b"", b"", line)
                entry = found.get(rest)
                if entry is None:
                    entry = found[rest] = Entry()
                if bang:
                    entry.accepted.append(head)
                else:
                    entry.pulled += 1
            path.unlink()
            yield found


def key_of(text: bytes) -> Key:
    """A part's key."""
    kind, *rest = orjson.loads(text)
    return Key(EventType(kind), *rest)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while length := file.read(_LENGTH.size):
            yield from gzipped.decompress(file.read(*_LENGTH.unpack(length))).splitlines()
