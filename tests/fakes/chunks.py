"""Chunks as a reader would cut them, made from lines."""

from __future__ import annotations

from pathlib import Path

from relay import gzipped
from relay.batch import Chunk, Slice, StoredBatch

DATA = Path(__file__).parent.parent / "data"
RECEIVED_AT = 1_750_280_500.25  # seconds since the epoch


def sample(name: str) -> list[bytes]:
    """The lines of a file in tests/data, e.g. `cef`."""
    return (DATA / f"{name}.txt").read_bytes().splitlines()


def batch_of(lines: list[bytes], *, sequence: int = 1) -> StoredBatch:
    return StoredBatch(
        sequence=sequence,
        source="konnect-us",
        received_at=RECEIVED_AT,
        count=len(lines),
        payload=gzipped.compress(b"".join(line + b"\n" for line in lines)),
    )


def chunk_of(*batches: list[bytes]) -> Chunk:
    """One chunk of whole batches, each given by its lines."""
    return Chunk(tuple(Slice.whole(batch_of(lines, sequence=n)) for n, lines in enumerate(batches, 1)))
