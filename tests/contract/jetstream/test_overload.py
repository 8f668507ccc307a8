"""More retries than can be compared with what was accepted before: it costs time, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from relay.errors import QueueError, QueueFull
from relay.model import Batch, Format, Receipt
from relay.queue.jetstream import deduplicate, search
from relay.queue.jetstream.index import pack, span, to_header
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import Stamp, encode
from tests.contract.jetstream.relays import Relay, Relays, deliver_all
from tests.fakes.events import NOW, batch, lines
from tests.fakes.nats import NatsServer

SIZE = 100  # events of a request
HASHES = 5_000  # of each batch in the log, 27 kB in its header
STORED = 400  # batches in the log, all of the time of the requests
REQUESTS = 24
LIMIT = 120.0  # real seconds anything may take


class Population:
    """Counts the consumers of a stream, as the server tells of each that comes and goes."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def told(self, message: Msg) -> None:
        about = json.loads(message.data)
        self.now += 1 if about["action"] == "create" else -1
        self.most = max(self.most, self.now)

    @classmethod
    @asynccontextmanager
    async def of(cls, server: NatsServer, stream: str) -> AsyncIterator[Population]:
        population = cls()
        client = await nats.connect(server.url)
        await client.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.*.{stream}.>", cb=population.told)
        await client.flush()
        yield population
        await client.close()


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server that cuts off whoever has a quarter of the usual amount unread."""
    async with NatsServer(tmp_path, settings={"max_pending": 16 << 20}) as server:
        yield server


async def fill(server: NatsServer, prefix: str) -> None:
    """Many large batches at the place where the requests' events are looked for."""
    client = await nats.connect(server.url)
    link = await Link.open(client)
    rng = random.Random(1)
    # As late as the latest of the requests' events, so that none of these is new by its time.
    oldest, newest = int(NOW * 1000), int(NOW * 1000) + REQUESTS * SIZE
    one = replace(batch([b"something else"]), formats=((Format.CEF, HASHES),))
    for _ in range(STORED):
        hashes = to_header(pack([rng.getrandbits(32) for _ in range(HASHES)]))
        stamp = Stamp(span(oldest, newest), oldest, newest, hashes=hashes, replica="earlier")
        await link.publish(encode(prefix, one, stamp, 0))
    await link.close()


class Crowd:
    """Senders that send again whatever is refused, as soon as anything was answered."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._answered = asyncio.Event()
        self.full: list[QueueFull] = []
        self.failed: list[QueueError] = []

    async def send(self, request: Batch) -> Receipt:
        while True:
            answered = self._answered
            try:
                receipt = await self._relay.queue.append([request])
            except QueueFull as error:
                self.full.append(error)
                await answered.wait()
            except QueueError as error:
                self.failed.append(error)
            else:
                self._answered.set()
                self._answered = asyncio.Event()
                return receipt


async def test_an_overload_of_retries_recovers_by_itself(
    impatient: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request comes twice at once: all are accepted, once, by few searches; nothing else suffers."""
    monkeypatch.setattr(deduplicate, "_LINE", 16)
    async with Relays(impatient, "relay") as relays:
        [maker] = await relays.add("maker")
        await maker.close()
        await fill(impatient, "relay")
        [one] = await relays.add("one")
        reader = await one.take()
        requests = [batch(lines(SIZE, first=n * SIZE)) for n in range(REQUESTS)]
        crowd = Crowd(one)
        async with asyncio.timeout(LIMIT), Population.of(impatient, "relay") as population:
            receipts = await asyncio.gather(*[crowd.send(each) for each in [*requests, *requests]])

        assert sum(receipt.accepted for receipt in receipts) == REQUESTS * SIZE
        assert sum(receipt.duplicates for receipt in receipts) == REQUESTS * SIZE
        assert crowd.failed == []
        assert crowd.full
        assert all(error.retry_after >= 1 for error in crowd.full)
        assert 0 < population.most <= search._AT_ONCE
        assert one.queue._link.client.stats["reconnects"] == 0
        await relays.pass_(5)
        assert not one.leases["siem"].lost.is_set()
        assert len(await deliver_all(reader)) == REQUESTS * SIZE


@pytest.mark.parametrize("bound", ["_LINE", "_LINE_BYTES"])
async def test_what_is_new_waits_in_no_line(
    impatient: NatsServer, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Live events are accepted while retries are refused."""
    monkeypatch.setattr(deduplicate, bound, 0)
    async with Relays(impatient, "relay") as relays:
        [one] = await relays.add("one")
        assert Receipt(5, 0) == await one.queue.append([batch(lines(5))])

        with pytest.raises(QueueFull, match="too many requests wait to be compared"):
            await one.queue.append([batch(lines(6))])
        assert Receipt(5, 0) == await one.queue.append([batch(lines(5, first=10))])
