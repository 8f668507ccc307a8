"""Quarantine: bytes nobody could understand, kept for a person to look at, within a bounded space.

    quarantine.body-<time>.<part>     a request body, gzip'd
    quarantine.batch-<seq>.<part>     a batch as it is in the stream, also gzip by its intention

Parts, so that each fits a message; they are put together in order. Part 0 tells in its header of the whole
and is stored last: an entry without it does not count. Owns the form of entries and the bound on their space,
never judges what is put aside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from relay import gzipped
from relay.clock import Clock
from relay.queue.jetstream.bucket import Bucket, Change, Stale
from relay.queue.jetstream.fetch import PAYLOAD_BYTES, scan
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import Meta

PREFIX: Final = "quarantine"
HEADER: Final = "Relay-Quarantine"
_BYTES: Final = 64 << 20  # the oldest make room for new ones
_SLACK: Final = _BYTES // 8  # room is made for so much at once, and looked for after so much
_PART: Final = 3 / 4  # of what a message holds; the rest is for subject and headers
_PARTS_A_COMMIT: Final = 500  # the server takes 1,000 messages in a batch


@dataclass(frozen=True, slots=True)
class _Part:
    entry: str
    revision: int
    nbytes: int


class Quarantine:
    """Undecodable request bodies, and batches that fail their checksum, of all replicas."""

    def __init__(self, link: Link, bucket: Bucket, clock: Clock) -> None:
        self.entries = 0  # of all replicas when last counted, and kept by this one since
        self._link = link
        self._bucket = bucket
        self._clock = clock
        self._room = 0  # bytes that may be stored before somebody has to look what is there
        self._making_room = asyncio.Lock()

    async def count(self) -> None:
        """Learn how many entries all replicas have put aside. Raises `QueueError`."""
        self.entries = await self._bucket.count(f"{PREFIX}.*.0")

    async def keep_body(self, source: str, body: bytes, cause: str) -> None:
        """Keep a request body. Raises `QueueError`."""
        payload = await asyncio.to_thread(gzipped.compress, body)
        about = {"source": source, "cause": cause, "bytes": len(body)}
        number = int(self._clock.now() * 1e6)
        while not await self._keep(f"body-{number}", payload, about):
            number += 1  # another request of the same microsecond

    async def keep_batch(self, meta: Meta, payload: bytes) -> bool:
        """Keep a batch as it is in the stream; False if it is there already. Raises `QueueError`."""
        about = {
            "source": meta.source,
            "cause": "checksum",
            "bytes": len(payload),
            "seq": meta.seq,
            "count": meta.count,
            "received_at": meta.received_at,
        }
        return await self._keep(f"batch-{meta.seq}", payload, about)

    async def _keep(self, entry: str, payload: bytes, about: dict[str, object]) -> bool:
        about |= {"created_at": self._clock.now()}
        changes = changes_of(entry, payload, about, self._link.max_payload)
        if await self._bucket.get(changes[-1].key) is not None:
            return False
        await self._make_room(len(payload))
        try:
            for at in range(0, len(changes), _PARTS_A_COMMIT):
                await self._bucket.commit(changes[at : at + _PARTS_A_COMMIT])
        except Stale:
            return False  # another replica was faster
        self.entries += 1
        return True

    async def _make_room(self, nbytes: int) -> None:
        """Delete the oldest entries if the bound might be exceeded."""
        async with self._making_room:
            if nbytes > self._room:
                parts = await self._parts()
                room = _BYTES - sum(part.nbytes for part in parts)
                if room < nbytes:
                    before, freed = _oldest(parts, max(nbytes, _SLACK) - room)
                    await self._link.api(
                        f"STREAM.PURGE.{self._bucket.stream}",
                        {"filter": f"{self._bucket.subject}{PREFIX}.>", "seq": before},
                    )
                    room += freed
                # What other replicas store meanwhile is not seen: look again soon enough.
                self._room = min(room, max(nbytes, _SLACK))
            self._room -= nbytes

    async def _parts(self) -> list[_Part]:
        """Every part there is, oldest first."""
        filters = [f"{self._bucket.subject}{PREFIX}.>"]
        return [
            _Part(message.subject.rpartition(".")[0], message.seq, int(message.headers[PAYLOAD_BYTES]))
            async for message in scan(self._link, self._bucket.stream, filters=filters, headers_only=True)
        ]


def changes_of(entry: str, payload: bytes, about: Mapping[str, object], max_payload: int) -> list[Change]:
    """An entry that must not be there yet, part 0 last."""
    size = int(max_payload * _PART)
    parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    told = {HEADER: orjson.dumps({**about, "parts": len(parts)}).decode()}
    first = Change(f"{PREFIX}.{entry}.0", parts[0], revision=0, headers=told)
    others = [Change(f"{PREFIX}.{entry}.{n}", part, revision=0) for n, part in enumerate(parts[1:], 1)]
    return [*others, first]


def _oldest(parts: Sequence[_Part], needed: int) -> tuple[int, int]:
    """The revision before which lie whole entries of at least *needed* bytes, or all of them; their bytes."""
    freed = 0
    entry = ""
    for part in parts:
        if freed >= needed and part.entry != entry:
            return part.revision, freed
        freed += part.nbytes
        entry = part.entry
    return (parts[-1].revision + 1 if parts else 0), freed
