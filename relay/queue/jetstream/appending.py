"""Storing a request: what is new of it, published, acknowledged, entered into the log.

    Space.admit ─▶ Deduplicator.admit ─▶ Link.publish ─ack─▶ Log.published

Owns this order and nothing else. Answers nobody before the acknowledgement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from relay.clock import Clock
from relay.errors import QueueFull
from relay.model import Batch, Receipt
from relay.queue.base import Observer
from relay.queue.jetstream.by_sequence import Message, first_sequence, get
from relay.queue.jetstream.deduplicate import Admission, Deduplicator
from relay.queue.jetstream.link import DUPLICATE_IN_BATCH, MESSAGE_ID, ApiError, Link, Outgoing
from relay.queue.jetstream.log import Log
from relay.queue.jetstream.message import decode
from relay.queue.jetstream.space import Space


class Appending:
    """Into the stream with this name."""

    def __init__(
        self,
        link: Link,
        stream: str,
        dedup: Deduplicator,
        space: Space,
        log: Log,
        *,
        replica: str,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._link = link
        self._stream = stream
        self._dedup = dedup
        self._space = space
        self._log = log
        self._replica = replica
        self._clock = clock
        self._observer = observer

    async def append(self, batches: Sequence[Batch]) -> Receipt:
        """Store what is new of a request, all or nothing. Raises `QueueFull` or `QueueError`."""
        self._space.admit(sum([len(batch.payload) for batch in batches]))
        began = self._clock.monotonic()
        async with self._dedup.admit(batches) as admission:
            try:
                messages, last = await self._publish(admission)
            except QueueFull:
                self._space.refused()
                raise
            admission.published(last)
        self._observer.commit(len(messages), self._clock.monotonic() - began)
        self._space.appended(sum([len(message.payload) for message in messages]))
        self._enter(admission, messages, last)
        return Receipt(admission.accepted, admission.duplicates)

    async def _publish(self, admission: Admission) -> tuple[list[Outgoing], int]:
        """What was stored in the end, and the sequence of the last message."""
        messages = admission.messages(self._stream)
        try:
            if len(messages) > 1:
                return messages, (await self._link.publish_together(messages)).seq
            stored = await self._publish_one(messages[0])
            if stored is not None:
                return stored
        except ApiError as error:
            if error.err_code != DUPLICATE_IN_BATCH:
                raise
        # The same request reached another replica, or this one before its acknowledgement got lost.
        admission.recognised()
        (marker,) = admission.messages(self._stream)
        return [marker], (await self._link.publish(marker)).seq

    async def _publish_one(self, message: Outgoing) -> tuple[list[Outgoing], int] | None:
        """As `_publish`; None where the server knows the message from another request.

        Its word alone is not enough. It remembers ids of messages that are gone, and a leader that was cut
        off may remember some that no quorum stored: the events would be nowhere, and nobody would send them
        again. So the original is looked at, and where it is missing this one is stored under another id.
        """
        before = self._log.head
        while (ack := await self._link.publish(message)).duplicate:
            original = await get(self._link, self._stream, ack.seq)
            if original is not None and original.headers.get(MESSAGE_ID) == message.headers[MESSAGE_ID]:
                if ack.seq > before and decode(original).replica == self._replica:
                    break  # this very message, sent twice for want of an answer
                return None
            if original is None and ack.seq < await first_sequence(self._link, self._stream):
                return None  # whoever was owed it has it
            other = f"{message.headers[MESSAGE_ID]}-{ack.seq}"
            message = replace(message, headers={**message.headers, MESSAGE_ID: other})
        return [message], ack.seq

    def _enter(self, admission: Admission, messages: Sequence[Outgoing], last: int) -> None:
        bodies = [part.batch.body for part in admission.parts] or [b""]
        first = last - len(messages) + 1  # messages that are stored together follow each other
        for seq, (message, body) in enumerate(zip(messages, bodies, strict=True), first):
            meta = decode(Message(seq, message.subject, message.headers, message.payload))
            self._log.published(meta, message.payload, body)
