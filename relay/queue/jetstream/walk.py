"""The log in order: which message ends where, in sequences and in event numbers, by headers alone; and whole
batches by their time of arrival, for who looks at the log beside its readers."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from relay.batch import StoredBatch
from relay.queue.jetstream.fetch import PAYLOAD_BYTES, scan
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import Meta, NotABatch, decode, intact, stored
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


async def received(
    link: Link, stream: str, begin: Mark, start: float, end: float
) -> AsyncGenerator[StoredBatch, None]:
    """The intact batches received in [start, end) from the message of *begin* on. Raises `QueueError`."""
    # Sixteen bytes a message: counting on while payloads are read would go wrong where some are purged.
    seqs, numbers = array("q"), array("q")
    async with aclosing(walk(link, stream, begin)) as steps:
        async for step in steps:
            if step.meta is not None and step.meta.count and start <= step.meta.received_at < end:
                seqs.append(step.seq)
                numbers.append(step.number)
    if not seqs:
        return
    async with aclosing(scan(link, stream, start=seqs[0])) as messages:
        async for message in messages:
            if message.seq > seqs[-1]:
                return
            at = bisect_left(seqs, message.seq)
            if seqs[at] != message.seq:
                continue
            meta = decode(message)
            if intact(meta, message.payload):
                yield stored(meta, numbers[at], message.payload)
