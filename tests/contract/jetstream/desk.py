"""A replica's desk for dead letters: the state bucket and the accounts, without a log and without a watch.

one, two = await desks.add(), await desks.add()
await one.open("siem", settled=10)         # an account whose live reader stands before event 10
await one.bury("siem", 1, 2, 3)            # letters and books in one commit, as a reader does it
await two.look()                           # what a watch would have brought by now
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import nats
from nats.aio.client import Client

from relay.batch import StoredBatch
from relay.model import (
    DeadLetter,
    Event,
    Format,
    Position,
    ReaderKind,
    Reason,
    Response,
    Settlement,
)
from relay.queue.base import DeadLetterFilter, Reader, StoredDeadLetter
from relay.queue.jetstream.accounts import PREFIX as ACCOUNTS
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.bucket import Bucket, Change
from relay.queue.jetstream.deadletters import Letters
from relay.queue.jetstream.letters import change_of, range_change, redrive_of
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.record import Account, LeaseLost, LeaseRecord, Mark, ReaderRecord
from relay.queue.jetstream.redrive import RedriveReader
from tests.contract.jetstream.replicas import STATE
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, cef
from tests.fakes.nats import NatsServer, TcpProxy
from tests.fakes.process import until

LIMIT = 30.0  # real seconds anything may take
EVERYTHING = DeadLetterFilter()


def letter(
    number: int,
    *,
    reason: Reason = Reason.REJECTED,
    detail: str = "refused",
    excerpt: bytes = b"bad",
    line: bytes | None = None,
) -> DeadLetter:
    """A dead letter of event *number*."""
    event = Event(f"{number:032x}", cef(number) if line is None else line, Format.CEF, "eu", NOW - 60)
    return DeadLetter(Position(number), event, reason, Response(detail, 400, excerpt, attempt=2))


class Wire(TcpProxy):
    """Between a desk and the server."""

    swallow_commit = False  # pass the next commit on, but nothing that comes back from then on
    _deaf = False

    def heal(self) -> None:
        self.swallow_commit = self._deaf = False
        super().heal()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back = writer.get_extra_info("sockname")[1] == self.port
        while data := await reader.read(1 << 16):
            if self.swallow_commit and not back and b"Nats-Batch-Commit" in data:
                self._deaf = True
            if not (back and self._deaf):
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError


class Desk:
    """One replica."""

    def __init__(self, desks: Desks, name: str, client: Client, link: Link, wire: Wire) -> None:
        self.name = name
        self.client = client
        self.wire = wire
        self.bucket = Bucket(link, desks.prefix)
        self.accounts = Accounts(self.bucket, name, self._changed)
        self.letters = Letters(self.bucket, self.accounts)
        self.lost = False
        self.clock = desks.clock
        self._readers: dict[str, RedriveReader] = {}

    def _changed(self, name: str) -> None:
        if name in self._readers and name in self.accounts:
            record = self.accounts[name].reader(self._readers[name].id)
            if record is not None:
                self._readers[name].follow(record)

    async def cut_off(self) -> None:
        """From one moment to the next NATS cannot be reached."""
        # Connections are refused. Were they accepted and closed, as by `TcpProxy.cut`, the client would leave
        # a socket open with each attempt.
        await self.wire.close()
        await until(lambda: not self.client.is_connected, LIMIT, f"{self.name} noticing it is cut off")

    async def come_back(self) -> None:
        await self.wire.start()
        await until(lambda: self.client.is_connected, LIMIT, f"{self.name} connecting again")

    async def look(self) -> None:
        """See all accounts as they are now."""
        async for entry in self.bucket.entries(ACCOUNTS):
            self.accounts.seen(entry)

    # -- accounts ----------------------------------------------------------------------------

    async def open(self, name: str, *, settled: int = 1_000_000) -> None:
        """Make an account that this replica delivers to; the first event not settled has number *settled*."""
        await self.accounts.create(name, partial(_account, name, settled, self.name))

    def check(self, account: Account) -> None:
        if self.lost or account.lease is None or account.lease.replica != self.name:
            raise LeaseLost(f"{self.name} does not deliver to {account.name}")

    async def take_lease(self, name: str) -> None:
        def mutation(account: Account) -> Account:
            epoch = account.epoch + 1
            return replace(account, lease=LeaseRecord(self.name, epoch), epoch=epoch)

        await self.accounts.update(name, mutation)

    def books(self, name: str) -> tuple[int, int, int, int]:
        """Delivered, filtered, dead and discarded."""
        account = self.accounts[name]
        return account.delivered, account.filtered, account.dead, account.discarded

    def left(self, name: str) -> int:
        reader = redrive_of(self.accounts[name])
        return 0 if reader is None else reader.left

    # -- letters -----------------------------------------------------------------------------

    async def bury(self, name: str, *letters: DeadLetter | int) -> None:
        """Store and count letters; plain numbers stand for refused events."""
        some = [letter(each) if isinstance(each, int) else each for each in letters]
        for at in range(0, len(some), 900):
            part = some[at : at + 900]
            changes = [change_of(name, each, each.position.sequence, self.clock.now()) for each in part]
            await self._count(name, changes, len(changes))

    async def lose(self, name: str, number: int, count: int, reason: Reason = Reason.EXPIRED) -> None:
        """Store and count a range."""
        change = range_change(name, reason, number, count, self.clock.now(), "released")
        await self._count(name, [change], count)

    async def _count(self, name: str, changes: Sequence[Change], events: int) -> None:
        def mutation(account: Account) -> Account:
            return replace(account, dead=account.dead + events)

        await self.accounts.update(name, mutation, letters=lambda: changes)

    async def store_ahead(self, name: str, *letters: DeadLetter) -> None:
        """What a replica leaves behind that dies before it could count the letters."""
        changes = [change_of(name, each, each.position.sequence, self.clock.now()) for each in letters]
        revision = self.accounts.revision(name)
        await self.accounts.update(
            name,
            lambda account: replace(account, ahead=account.ahead or revision),
            letters=lambda: changes,
        )

    async def delete_by_hand(self, found: StoredDeadLetter) -> None:
        """As `nats kv del` does."""
        await self.bucket.delete(f"dead.{found.destination}.{found.position.sequence}")

    async def all(self, which: DeadLetterFilter = EVERYTHING) -> list[StoredDeadLetter]:
        return list(await self.letters.find(which, limit=100_000))

    async def numbers(self, which: DeadLetterFilter = EVERYTHING) -> list[int]:
        return [found.position.sequence for found in await self.all(which)]

    # -- redriving ---------------------------------------------------------------------------

    def reader(self, name: str) -> RedriveReader:
        """The destination's redrive reader, which must be there."""
        record = redrive_of(self.accounts[name])
        assert record is not None

        async def remove(reader: Reader) -> None:
            await self.accounts.update(name, lambda account: account.without_reader(reader.id))

        reader = RedriveReader(
            name,
            record,
            bucket=self.bucket,
            accounts=self.accounts,
            check=self.check,
            clock=self.clock,
            remove=remove,
        )
        self._readers[name] = reader
        return reader


def settlement(
    batches: Sequence[StoredBatch], *, filtered: int = 0, refused: Sequence[DeadLetter] = ()
) -> Settlement:
    """The fate of letters that were read: all delivered but those that are *filtered* or *refused*."""
    dead = {each.position.sequence for each in refused}
    gone = [each for each in batches if each.sequence not in dead]
    delivered = gone[: len(gone) - filtered]
    return Settlement(
        Position(batches[0].sequence),
        Position(batches[-1].sequence, 1),
        delivered=len(delivered),
        delivered_bytes=sum([len(each.body) for each in delivered]),
        filtered=filtered,
        dead=tuple(refused),
    )


def refusal(batch: StoredBatch, reason: Reason = Reason.TOO_LARGE) -> DeadLetter:
    """What a destination says that still will not take a letter."""
    return DeadLetter(Position(batch.sequence), batch.event(0), reason, Response("too big", 413))


def _account(name: str, settled: int, replica: str, live: int) -> Account:
    reader = ReaderRecord(live, ReaderKind.LIVE, Mark(settled, settled))
    return Account(name, 1, (reader,), lease=LeaseRecord(replica, 1), epoch=1)


class Desks:
    """All desks are at one state bucket of their own."""

    def __init__(self, server: NatsServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.clock = FakeClock(NOW)
        self._desks: list[Desk] = []

    async def __aenter__(self) -> Self:
        await self.server.api(
            f"STREAM.CREATE.KV_{self.prefix}",
            {"name": f"KV_{self.prefix}", "subjects": [f"$KV.{self.prefix}.>"], **STATE},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for desk in self._desks:
            await desk.client.close()
            await desk.wire.close()
        await self.server.api(f"STREAM.DELETE.KV_{self.prefix}")

    async def add(self) -> Desk:
        wire = Wire(self.server.port)
        await wire.start()
        client = await nats.connect(
            wire.url, max_reconnect_attempts=-1, reconnect_time_wait=0.01, error_cb=_ignore
        )
        desk = Desk(self, f"desk-{len(self._desks) + 1}", client, await Link.open(client), wire)
        self._desks.append(desk)
        return desk


async def _ignore(_: Exception) -> None: ...
