"""What was received in a span of time, read past every reader: for comparing, never for delivering."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from relay.batch import StoredBatch
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import decode, intact, stored
from relay.queue.jetstream.moving_log import messages_from
from relay.queue.jetstream.record import Mark
from relay.queue.jetstream.walk import walk


async def received(
    link: Link, stream: str, first: Mark, start: float, end: float
) -> AsyncGenerator[StoredBatch, None]:
    """Intact batches from *first* on that were received in [start, end). Raises `QueueError`."""
    numbers: dict[int, int] = {}  # of a batch's first event, by the message's sequence
    async with aclosing(walk(link, stream, first)) as steps:
        async for step in steps:
            if step.meta is not None and step.meta.count and start <= step.meta.received_at < end:
                numbers[step.seq] = step.number
    if not numbers:
        return
    last = max(numbers)
    async with aclosing(messages_from(link, stream, min(numbers))) as messages:
        async for message in messages:
            if message.seq > last:
                return
            if message.seq in numbers and intact(meta := decode(message), message.payload):
                yield stored(meta, numbers[message.seq], message.payload)
