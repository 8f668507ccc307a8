"""The yardstick of the cluster: a NATS client that publishes into a stream, and does nothing else.

`python -m tests.benchmarks.publishing URL library|link`. Prints one JSON document. `library` is the client's
own `publish_async`, `link` is how the relay publishes; both under uvloop, with as many messages in flight
and headers as long as those of the relay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from random import Random

import nats
import uvloop
from nats.aio.client import Client

from relay.queue.jetstream.link import MESSAGE_ID, Link, Outgoing
from relay.queue.jetstream.message import BATCH, HASHES

_STREAM = "yardstick"
_SUBJECT = f"{_STREAM}.events.bench.13.1"
_ABOUT = '{"v":1,"at":1790000000.123456,"formats":{"cef":100},"crc":4000000000,"by":"01234567","times":[1,2]}'
_HASH_CHARACTERS = 5.34  # base64 of four bytes, for each event of a batch

Send = Callable[[Outgoing], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Published:
    """What a run did."""

    messages: int
    seconds: float
    cpu: float  # seconds of the client's process

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds


async def run(url: str, kind: str, *, replicas: int, messages: int, size: int, flight: int) -> Published:
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream(publish_async_max_pending=flight)
        await jetstream.add_stream(
            name=_STREAM, subjects=[f"{_STREAM}.events.>"], num_replicas=replicas, max_bytes=1 << 32
        )
        payload = Random(1).randbytes(size)
        hashes = "x" * round(100 * _HASH_CHARACTERS)
        outgoing = [
            Outgoing(_SUBJECT, payload, {BATCH: _ABOUT, HASHES: hashes, MESSAGE_ID: f"{n:032}"})
            for n in range(messages)
        ]
        publish = _library if kind == "library" else _link
        started, cpu = time.monotonic(), time.process_time()
        await publish(client, outgoing, flight)
        result = Published(messages, time.monotonic() - started, time.process_time() - cpu)
        await jetstream.delete_stream(_STREAM)
    finally:
        await client.close()
    return result


async def _library(client: Client, outgoing: list[Outgoing], flight: int) -> None:
    jetstream = client.jetstream(publish_async_max_pending=flight)
    futures = [
        await jetstream.publish_async(
            message.subject, message.payload, headers=dict(message.headers), wait_stall=30
        )
        for message in outgoing
    ]
    await asyncio.gather(*futures)


async def _link(client: Client, outgoing: list[Outgoing], flight: int) -> None:
    link = await Link.open(client)
    waiting = iter(outgoing)

    async def sender() -> None:
        for message in waiting:
            await link.publish(message)

    async with asyncio.TaskGroup() as group:
        for _ in range(flight):
            group.create_task(sender())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("kind", choices=["library", "link"])
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=8_700, help="bytes of the payload")
    parser.add_argument("--flight", type=int, default=64, help="messages on their way at a time")
    given = parser.parse_args()
    result = uvloop.run(
        run(
            given.url,
            given.kind,
            replicas=given.replicas,
            messages=given.messages,
            size=given.size,
            flight=given.flight,
        )
    )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
