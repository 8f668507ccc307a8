"""Ids of batches that left the log while deduplication still needs them, in the state bucket.

    seen.<source>.<place>.<seq>    one batch; goes by itself when its source's window is over

Owns the form of key and value, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from relay.queue.jetstream.bucket import Change, Entry
from relay.queue.jetstream.message import HASHES, token

PREFIX: Final = "seen"
_RECEIVED_AT: Final = "Relay-Received-At"
_TIMES: Final = "Relay-Times"
_ID_BYTES: Final = 16
_ENTRY_BYTES: Final = 20  # the id, and four bytes of its ordinal, the lowest first


@dataclass(frozen=True, slots=True)
class Remembered:
    """A batch that is gone."""

    received_at: float  # seconds since the epoch
    ids: Sequence[str]  # event ids
    hashes: str | None  # header value, as it was on the batch; None: not known
    times: tuple[int, int] | None = None  # milliseconds; believable event times lie between these


def key_of(source: str, place: str, seq: int | str) -> str:
    """*seq* is that of the batch's message, `m1-0` and so on for one moved here, or `*` in a filter."""
    return f"{PREFIX}.{token(source)}.{place}.{seq}"


def remember(source: str, place: str, seq: int | str, batch: Remembered, ttl: float) -> Change:
    """What to store. *ttl* in seconds: the rest of the source's window."""
    headers = {_RECEIVED_AT: repr(batch.received_at)}
    if batch.hashes:
        headers[HASHES] = batch.hashes
    if batch.times:
        headers[_TIMES] = "{} {}".format(*batch.times)
    value = b"".join(map(_packed, batch.ids))
    return Change(key_of(source, place, seq), value, ttl=ttl, headers=headers)


def recall(entry: Entry) -> Remembered:
    """Raises `ValueError` or `KeyError` for what is no such entry."""
    value = entry.value
    ids = [_unpacked(value[at : at + _ENTRY_BYTES]) for at in range(0, len(value), _ENTRY_BYTES)]
    return Remembered(
        float(entry.headers[_RECEIVED_AT]), ids, entry.headers.get(HASHES), _times(entry.headers.get(_TIMES))
    )


def _times(header: str | None) -> tuple[int, int] | None:
    if header is None:
        return None
    oldest, newest = header.split()
    return int(oldest), int(newest)


def _packed(event_id: str) -> bytes:
    digest, _, ordinal = event_id.partition("-")
    return bytes.fromhex(digest) + int(ordinal or 0).to_bytes(4, "little")


def _unpacked(packed: bytes) -> str:
    ordinal = int.from_bytes(packed[_ID_BYTES:], "little")
    digest = packed[:_ID_BYTES].hex()
    return f"{digest}-{ordinal}" if ordinal else digest
