"""Batches as rows: encoding, checksum, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

from relay import gzipped
from relay.batch import StoredBatch
from relay.gzipped import crc32
from relay.model import Batch, Format
from relay.queue.dedup.names import Names, names_of

COLUMNS = "sequence, received_at, source, count, formats, checksum, ordinals, payload, pulled"
MARKS = ",".join("?" * len(COLUMNS.split(",")))


class BatchRow(NamedTuple):
    """A row of `batches`, in the order of COLUMNS."""

    sequence: int
    received_at: float
    source: int
    events: int
    formats: str
    checksum: int
    ordinals: bytes | None
    payload: bytes
    pulled: int

    @property
    def intact(self) -> bool:
        """Whether the row is what was stored. Nothing else of a row that is not may be believed."""
        if not (_is_blob(self.payload) and (self.ordinals is None or _is_blob(self.ordinals))):
            return False
        return self.checksum == _checksum(self[:5], self.ordinals, self.payload, self.pulled)

    def stored(self, source: str) -> StoredBatch:
        return StoredBatch(
            sequence=self.sequence,
            source=source,
            received_at=self.received_at,
            count=self.events,
            payload=self.payload,
            ordinals=self._ordinals(),
            pulled=bool(self.pulled),
        )

    def names(self) -> Names:
        return names_of(self.lines(), self._ordinals(), pulled=bool(self.pulled))

    def lines(self) -> list[bytes]:
        return gzipped.decompress(self.payload).split(b"\n")[:-1]

    def _ordinals(self) -> list[int] | None:
        return None if self.ordinals is None else decode_ordinals(self.ordinals)


def _is_blob(value: object) -> bool:
    """SQLite keeps a type with every value; a flipped bit can change that, too."""
    return isinstance(value, bytes)


def make_row(sequence: int, source: int, batch: Batch, ordinals: list[int] | None) -> BatchRow:
    head = (sequence, batch.received_at, source, batch.count, encode_formats(batch.formats))
    coded = None if ordinals is None else encode_ordinals(ordinals)
    pulled = int(batch.pulled)
    return BatchRow(*head, _checksum(head, coded, batch.payload, pulled), coded, batch.payload, pulled)


def _checksum(head: tuple[Any, ...], ordinals: bytes | None, payload: bytes, pulled: object) -> int:
    """CRC-32 over everything, so that a flipped bit in a count is noticed like one in the payload."""
    if pulled != 0:  # rows of version 2 of the schema, which has no such column, keep their checksum
        head = (*head, pulled)
    return crc32(payload, crc32(ordinals or b"", crc32(repr(head).encode())))


def encode_formats(formats: tuple[tuple[Format, int], ...]) -> str:
    if len(formats) == 1:
        return formats[0][0].value
    return ",".join([f"{name.value}:{n}" for name, n in formats])


def decode_formats(text: str, count: int) -> list[tuple[Format, int]]:
    if ":" not in text:
        return [(Format(text), count)]
    pairs = (part.split(":") for part in text.split(","))
    return [(Format(name), int(n)) for name, n in pairs]


def encode_ordinals(ordinals: list[int]) -> bytes:
    return " ".join(map(str, ordinals)).encode()


def decode_ordinals(data: bytes) -> list[int]:
    return list(map(int, data.split()))
