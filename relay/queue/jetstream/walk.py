"""The log in order, by its headers alone: which message ends where, in sequences and in event numbers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from relay.queue.jetstream.fetch import PAYLOAD_BYTES, scan
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import Meta, NotABatch, decode
from relay.queue.jetstream.record import Mark


@dataclass(frozen=True, slots=True)
class Step:
    """A message that is passed."""

    seq: int
    number: int  # of its first event
    end: Mark  # behind it
    nbytes: int  # of its payload
    meta: Meta | None  # None: somebody else's, without events


async def walk(link: Link, stream: str, start: Mark) -> AsyncGenerator[Step, None]:
    """Everything that is there at present from the message of *start* on. Raises `QueueError`."""
    number = start.number - start.offset
    async with aclosing(scan(link, stream, start=start.seq, headers_only=True)) as messages:
        async for message in messages:
            try:
                meta = decode(message)
            except NotABatch:
                meta = None
            end = Mark(message.seq + 1, meta.after(number) if meta else number)
            yield Step(message.seq, number, end, int(message.headers.get(PAYLOAD_BYTES, 0)), meta)
            number = end.number
