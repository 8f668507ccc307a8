"""The log in order, by its headers alone: which message ends where, in sequences and in event numbers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from relay.errors import QueueError
from relay.queue.jetstream.by_sequence import get_next, last_sequence
from relay.queue.jetstream.fetch import PAYLOAD_BYTES, scan
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import Meta, NotABatch, decode
from relay.queue.jetstream.pausing import ATTEMPTS, pause
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
    """Everything that the stream's leader has at this moment, from the message of *start* on, in order.

    Any server may answer a scan, also one that lags: what it lacks is asked for again. Raises `QueueError`.
    """
    ends = await last_sequence(link, stream, known=0)
    seq, number = start.seq, start.number - start.offset
    for _ in range(ATTEMPTS):
        async with aclosing(scan(link, stream, start=seq, headers_only=True)) as messages:
            async for message in messages:
                try:
                    meta = decode(message)
                except NotABatch:
                    meta = None
                end = Mark(message.seq + 1, meta.after(number) if meta else number)
                nbytes = int(message.headers.get(PAYLOAD_BYTES, 0))
                yield Step(message.seq, number, end, nbytes, meta)
                seq, number = end.seq, end.number
        if seq > ends:
            return
        following = await get_next(link, stream, seq)
        if following is None or following.seq > ends:
            return
        await pause()
    raise QueueError("NATS: the servers that answer lag behind the stream's leader")
