"""A replica as far as room goes: it accepts batches, knows accounts, and keeps house. Nobody delivers.

async with House.open(server, "relay-1", max_bytes=1 << 20) as house:
    await house.destination("splunk")
    await house.accept(10)                    # ten batches of ten events
    await house.settle("splunk", batches=4)   # as if it had been delivered
    await house.round()                       # what upkeep does on the janitor
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from relay.errors import QueueFull
from relay.model import Batch, ReaderKind
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.by_sequence import Message
from relay.queue.jetstream.laggards import Laggards, expire_idle
from relay.queue.jetstream.log import Log
from relay.queue.jetstream.message import Stamp, decode, encode
from relay.queue.jetstream.record import Account, LeaseRecord, Mark, ReaderRecord
from relay.queue.jetstream.space import Limits, Space
from tests.contract.jetstream.streams import LIMIT, Site
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines
from tests.fakes.nats import NatsServer
from tests.fakes.process import until

EVENTS = 10  # of a batch
WEEK = 7 * 86400.0


class House:
    """See the module."""

    def __init__(self, site: Site, name: str, clock: FakeClock, limits: Limits) -> None:
        self.site = site
        self.name = name
        self.clock = clock
        self.window: float | None = None  # deduplication, of every source
        self.remembered: list[int] = []  # sequences
        self.alive: set[str] = set()  # replicas whose leases are to be respected
        self.accounts = Accounts(site.bucket, name, lambda _: None)
        self.log = Log(
            site.link,
            site.prefix,
            site.bucket,
            foreign=lambda _: None,
            lost=lambda _: None,
            replica=name,
            clock=clock,
            log=site.log,
        )
        self.space = Space(
            site.link,
            site.prefix,
            site.bucket,
            self.accounts,
            self.log,
            limits,
            clock=clock,
            window=lambda _: self.window,
            remember=self._remember,
        )
        self.laggards = Laggards(
            site.link,
            site.prefix,
            self.accounts,
            self.log,
            self.space,
            expire=self._expire,
            logger=site.log,
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        server: NatsServer,
        prefix: str,
        name: str = "one",
        *,
        clock: FakeClock | None = None,
        max_bytes: int = 1 << 30,
        retention: float = WEEK,
        release_laggards: bool = True,
        follows: bool = True,
        watches: bool = True,
    ) -> AsyncIterator[House]:
        """One that does not follow, or watch, is one whose news of the log, or of the accounts, is late."""
        limits = Limits(max_bytes, retention, release_laggards)
        async with Site.open(server, prefix) as site:
            house = cls(site, name, clock or FakeClock(NOW), limits)
            await house.log.load()
            if watches:
                await site.watch(destination=house.accounts.seen, ledger=house.log.seen)
            if follows:
                site.run(house.log.run())
                async with asyncio.timeout(LIMIT):
                    await house.log.caught_up.wait()
            await house.space.measure()
            yield house

    # -- intake ------------------------------------------------------------------------------

    async def accept(self, batches: int = 1, *, nbytes: int = 0, source: str = "eu") -> None:
        """Batches of ten events and at least so many bytes. Raises `QueueFull`."""
        for _ in range(batches):
            events = lines(EVENTS, first=self.log.ledger.number)
            if nbytes:
                events[0] += random.Random(self.log.ledger.number).randbytes(nbytes).hex().encode()
            await self._append(batch(events, source=source, at=self.clock.now()))

    async def _append(self, one: Batch) -> None:
        message = encode(self.site.prefix, one, Stamp("13.1", replica=self.name), 0)
        self.space.admit(len(message.payload))
        try:
            seq = (await self.site.link.publish(message)).seq
        except QueueFull:
            self.space.refused()
            raise
        self.space.appended(len(message.payload))
        meta = decode(Message(seq, message.subject, message.headers, message.payload))
        self.log.published(meta, message.payload, one.body)

    async def fill(self, *, nbytes: int = 8_000) -> int:
        """Accept until there is no room; how many batches it were."""
        for number in range(1_000):
            try:
                await self.accept(nbytes=nbytes)
            except QueueFull:
                return number
        raise AssertionError("there is no limit")

    def accepts(self) -> bool:
        return self.space.accepting

    # -- destinations ------------------------------------------------------------------------

    async def destination(self, name: str, *, lease: str | None = None, **reader: Any) -> None:
        """Owed everything from now on; *reader* adds another one of some kind."""
        at = Mark(self.log.ledger.seq + 1, self.log.ledger.number)
        readers: tuple[ReaderRecord, ...] = (ReaderRecord(1, ReaderKind.LIVE, at),)
        if reader:
            readers = (*readers, ReaderRecord(2, **reader))
        held = None if lease is None else LeaseRecord(lease, 1)
        await self.accounts.create(name, lambda _: Account(name, at.number, readers, lease=held))

    async def settle(self, name: str, *, batches: int | None = None, reader: int = 1) -> None:
        """So many batches more are delivered, or everything."""

        def mutation(account: Account) -> Account:
            record = account.reader(reader)
            assert record is not None
            events = self.log.ledger.number - record.mark.number
            passed = self.log.ledger.seq + 1 - record.mark.seq
            if batches is not None:
                events, passed = batches * EVENTS, batches
            mark = Mark(record.mark.seq + passed, record.mark.number + events)
            return replace(
                account.with_reader(replace(record, mark=mark)), delivered=account.delivered + events
            )

        await self.accounts.update(name, mutation)

    def mark(self, name: str, reader: int = 1) -> Mark:
        record = self.accounts[name].reader(reader)
        assert record is not None
        return record.mark

    async def knows(self, name: str, mark: Mark) -> None:
        await until(
            lambda: name in self.accounts and self.mark(name) == mark, LIMIT, f"{name} being at {mark}"
        )

    # -- house-keeping -----------------------------------------------------------------------

    async def round(self, *, janitor: bool = True) -> None:
        """What upkeep does each second."""
        await self.space.measure()
        if janitor:
            await self.log.store()
            await self.space.give_back()
        await self.laggards.release()

    async def _remember(self, message: Message) -> None:
        assert message.payload
        self.remembered.append(message.seq)
        await self.site.bucket.put(f"seen.eu.13.1.{message.seq}", bytes(200), ttl=3600)

    async def _expire(self, name: str, to: Mark) -> int:
        expire = partial(expire_idle, alive=self.alive.__contains__, clock=self.clock)
        return await expire(self.accounts, name, to)

    async def sequences(self) -> list[int]:
        """Of the messages that are there."""
        info = await self.site.link.api(f"STREAM.INFO.{self.site.prefix}")
        state = info["state"]
        return list(range(state["first_seq"], state["last_seq"] + 1))
