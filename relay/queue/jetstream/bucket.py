"""The state bucket: small records, each with a revision, changed one at a time or several at once.

A NATS key-value bucket that `nats kv` reads as well (ADR-8), but written by atomic batches (ADR-50): a
record and the dead letters it counts are stored together or not at all. Owns the form of keys and
revisions, not the meaning of values.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from relay.errors import QueueError
from relay.queue.jetstream.by_sequence import Message, get, get_last, get_next
from relay.queue.jetstream.fetch import scan
from relay.queue.jetstream.link import WRONG_LAST_SEQUENCE, ApiError, Link, Outgoing

MOST_CHANGES: Final = 1_000  # of one commit: the server's limit on a batch
_OPERATION: Final = "KV-Operation"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_MARKER_SECONDS: Final = 60  # how long a deleted key is remembered, for those who watch


class Stale(QueueError):
    """Somebody else changed the record meanwhile; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's present value."""

    key: str
    value: bytes
    revision: int  # grows with every change in the bucket
    deleted: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A new value of a key; None deletes it."""

    key: str
    value: bytes | None
    revision: int | None = None  # only if the key still has this one; 0: only if it does not exist
    ttl: float | None = None  # seconds until the value goes by itself, at least 1
    headers: Mapping[str, str] = field(default_factory=dict)


class Bucket:
    """See the module."""

    def __init__(self, link: Link, name: str) -> None:
        self.stream = f"KV_{name}"
        self.subject = f"$KV.{name}."
        self._link = link

    async def get(self, key: str) -> Entry | None:
        """The value as the stream's leader has it; None where there is none. Raises `QueueError`."""
        message = await get_last(self._link, self.stream, self.subject + key)
        if message is None:
            return None
        entry = self.entry(message)
        return None if entry.deleted else entry

    async def revision(self, key: str) -> int:
        """Of the key's last change, its deletion as well while that is remembered; 0 where there is none."""
        message = await get_last(self._link, self.stream, self.subject + key)
        return 0 if message is None else message.seq

    async def put(
        self, key: str, value: bytes, *, revision: int | None = None, ttl: float | None = None
    ) -> int:
        """Store a value; its revision. Raises `Stale` or `QueueError`."""
        return await self.commit([Change(key, value, revision, ttl)])

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Raises `Stale` or `QueueError`."""
        await self.commit([Change(key, None, revision)])

    async def commit(self, changes: Sequence[Change]) -> int:
        """Make all changes or none; the revision of the last one. Raises `Stale` or `QueueError`."""
        messages = [self._message(change) for change in changes]
        try:
            if len(messages) == 1:
                return (await self._link.publish(messages[0])).seq
            return (await self._link.publish_together(messages)).seq
        except ApiError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise Stale from error
            raise

    async def at(self, revision: int) -> Entry | None:
        """The value stored as *revision*, as the leader has it; None unless it is a key's present one."""
        message = await get(self._link, self.stream, revision)
        if message is None:
            return None
        entry = self.entry(message)
        return None if entry.deleted else entry

    async def entries(
        self, prefix: str, *, start: int = 1, headers_only: bool = False
    ) -> AsyncGenerator[Entry, None]:
        """Present values of all keys that begin with the tokens *prefix*, by revision from *start* on."""
        subject = f"{self.subject}{prefix}.>"
        while True:
            scanned = scan(self._link, self.stream, start=start, filters=[subject], headers_only=headers_only)
            async with aclosing(scanned):
                async for message in scanned:
                    start = message.seq + 1
                    if not (entry := self.entry(message)).deleted:
                        yield entry
            # Any server may have answered, also one that lacks the newest: the leader has the last word.
            following = await get_next(self._link, self.stream, start, subject)
            if following is None:
                return
            start = following.seq + 1
            if not (entry := self.entry(following)).deleted:
                yield entry

    async def purge(self, prefix: str) -> None:
        """Drop all keys that begin with the tokens *prefix* without a trace. Raises `QueueError`."""
        await self._link.api(f"STREAM.PURGE.{self.stream}", {"filter": f"{self.subject}{prefix}.>"})

    async def count(self, keys: str) -> int:
        """How many keys there are like this one, which may hold wildcards. Raises `QueueError`."""
        # Asked for a page behind the last one, the server tells the total and lists nothing.
        asked = {"subjects_filter": self.subject + keys, "offset": 1 << 30}
        return int((await self._link.api(f"STREAM.INFO.{self.stream}", asked)).get("total", 0))

    def entry(self, message: Message) -> Entry:
        # Markers are written by us and `nats kv` as `KV-Operation`, by the server's own expiry as
        # `Nats-Marker-Reason` (ADR-43).
        deleted = _OPERATION in message.headers or "Nats-Marker-Reason" in message.headers
        return Entry(
            message.subject.removeprefix(self.subject), message.payload, message.seq, deleted, message.headers
        )

    def _message(self, change: Change) -> Outgoing:
        headers = dict(change.headers)
        ttl = change.ttl
        if change.value is None:
            headers[_OPERATION] = "DEL"
            ttl = _MARKER_SECONDS
        if change.revision is not None:
            headers[_EXPECTED] = str(change.revision)
        if ttl is not None:
            headers["Nats-TTL"] = f"{max(1, round(ttl))}s"
        return Outgoing(self.subject + change.key, change.value or b"", headers)
