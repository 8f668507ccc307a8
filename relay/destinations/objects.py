"""`s3`, `gcs` and `azure_blob`: chunks as compressed objects in a bucket, each written once.

Owns what an object holds, the condition that it is not there yet, and the memory of chunks whose fate is
unknown. Names are `object_key`'s, requests `object_store`'s, verdicts `object_answer`'s.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from relay import gzipped
from relay.batch import Chunk
from relay.clock import Clock
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    ProbeReport,
    Transient,
)
from relay.destinations.object_answer import Refusal, judge, no_answer_within, permission_only
from relay.destinations.object_config import ObjectStoreConfig
from relay.destinations.object_key import content_type, object_key, partition_time
from relay.model import Event, Position, Response

if TYPE_CHECKING:
    from relay.destinations.object_store import ObjectStore

_REMEMBERED: Final = 64  # chunks of unknown fate; as many as there can be requests in the air


class ObjectDestination:
    """Writes to one bucket or container."""

    event_overhead = 0

    def __init__(self, config: ObjectStoreConfig, *, clock: Clock) -> None:
        self._config = config
        self._store: ObjectStore | None = None
        self._conditional = True  # until the store says that it knows no conditions
        self._in_doubt: OrderedDict[Position, int] = OrderedDict()  # first event to number of events

    def __repr__(self) -> str:
        return f"<ObjectDestination {self._config.name}>"

    def part(self, event: Event) -> bytes:
        return event.line

    async def open(self) -> None:
        self._store = await asyncio.to_thread(_store, self._config)

    async def send(self, chunk: Chunk) -> Outcome:
        """Write one object of the chunk, or of the part of it whose fate is unknown.

        After a time-out the object may be there. Events that came meanwhile would make another one of the
        same chunk, so the old one is written again as it was, and the store says whether it has it.
        """
        first, count = chunk.first, len(chunk)
        part = self._in_doubt.get(first, count)
        if part < count:
            chunk = chunk.cut(part)[0]
        self._doubt(first, len(chunk))
        outcome = await self._write(chunk)
        if not isinstance(outcome, Transient):
            self._in_doubt.pop(first, None)
        if isinstance(outcome, Delivered) and len(chunk) < count:
            return Partial(outcome.response, tuple(range(len(chunk))), ())
        return outcome

    async def probe(self) -> ProbeReport:
        """List a folder without objects, which proves the address and, where it is allowed, the credentials.

        Whether objects may be written is shown by the first one only: anything else would leave something.
        """
        try:
            async with asyncio.timeout(self._config.timeout):
                found = await self._opened.list_nothing()
        except TimeoutError:
            return ProbeReport(ok=False, detail=no_answer_within(self._config.timeout))
        if found is None:
            return ProbeReport(ok=True, detail="can be listed; whether it can be written to was not tried")
        if not isinstance(found, Refusal):
            return ProbeReport(ok=False, detail=found.response.detail)
        if permission_only(found):
            # What the smallest sensible policy looks like: it allows to write and nothing else.
            return ProbeReport(
                ok=True,
                detail="reachable, and it knows our credentials; they may not list, so neither the bucket "
                "nor the right to write to it is proven",
            )
        return ProbeReport(ok=False, detail=judge(found).response.detail)

    async def close(self) -> None:
        self._store = None  # its connections go with it

    @property
    def _opened(self) -> ObjectStore:
        if self._store is None:
            raise RuntimeError("request before open")
        return self._store

    def _doubt(self, first: Position, count: int) -> None:
        self._in_doubt[first] = count
        self._in_doubt.move_to_end(first)
        if len(self._in_doubt) > _REMEMBERED:
            self._in_doubt.popitem(last=False)

    async def _write(self, chunk: Chunk) -> Outcome:
        body = chunk.body
        kind = content_type(chunk, body)
        at = partition_time(next(chunk.events()))
        try:
            async with asyncio.timeout(self._config.timeout):
                digest, data = await asyncio.to_thread(_packed, body)
                del body  # while the object travels, only its compressed form is kept
                key = object_key(self._config.prefix, at, digest)
                answer = await self._put(key, data, kind, digest)
        except TimeoutError:
            return Transient(Response(no_answer_within(self._config.timeout)))
        if answer is None:
            return Delivered(Response(f"{len(data)} bytes stored as {key}", 200))
        return judge(answer) if isinstance(answer, Refusal) else answer

    async def _put(
        self, key: str, data: bytes, kind: str, digest: str
    ) -> Refusal | Transient | Misconfigured | None:
        """Write under a condition; plainly, for good, where the store does not know any.

        That is no worse than it sounds: what is then written over is the same object.
        """
        store = self._opened
        if self._conditional:
            answer = await store.put(key, data, content_type=kind, create=True, about=digest)
            if not isinstance(answer, Refusal) or not answer.knows_no_conditions:
                return answer
            self._conditional = False
        return await store.put(key, data, content_type=kind, create=False, about=digest)


def _packed(body: bytes) -> tuple[str, bytes]:
    """The SHA-256 of *body* in hex, and its gzip. Both let go of the interpreter lock."""
    return sha256(body).hexdigest(), gzipped.compress(body)


def _store(config: ObjectStoreConfig) -> ObjectStore:
    # obstore takes 5 MB of memory that a relay without such a destination can spare.
    from relay.destinations.object_store import ObjectStore

    return ObjectStore(config)
