"""Who reads: the destinations' readers, as views of their accounts or at work with the lease.

Makes, finds and removes readers, and connects each with its tape and its destination's books. Owns
which destinations this replica holds at present; who may hold them is `leases`' affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from relay.clock import Clock
from relay.errors import NotFound, QueueError
from relay.model import Books, Hold, ReaderKind
from relay.observe.logs import Log as Logger
from relay.queue.base import Reader, ReaderInfo
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.by_sequence import get_next, last_sequence
from relay.queue.jetstream.deadletters import Letters
from relay.queue.jetstream.holding import Holding
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.log import Log
from relay.queue.jetstream.message import NotABatch, decode, token
from relay.queue.jetstream.readers import Keeper, LogReader
from relay.queue.jetstream.record import Account, Mark, ReaderRecord
from relay.queue.jetstream.redrive import RedriveReader
from relay.queue.jetstream.tape import ConsumerSpec, Tape
from relay.queue.jetstream.walk import walk

_OWED: Final = (ReaderKind.LIVE, ReaderKind.BACKFILL)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every reader is connected to."""

    link: Link
    stream: str
    bucket: Bucket
    accounts: Accounts
    log: Log
    letters: Letters
    keeper: Keeper
    clock: Clock
    logger: Logger
    manage: bool  # consumers are ours to make


class Roster:
    """Readers by destination. *fence* raises `LeaseLost` unless an account says that we have its lease."""

    def __init__(self, around: Surroundings, fence: Callable[[Account], None]) -> None:
        self._around = around
        self._fence = fence
        self._readers: dict[str, dict[int, LogReader | RedriveReader]] = {}
        self._holdings: dict[str, Holding] = {}
        self._removed: dict[str, list[LogReader]] = {}  # by another replica, while they are at work here

    # -- following the accounts --------------------------------------------------------------

    def sync(self, name: str) -> None:
        """The account changed: so do its readers."""
        accounts = self._around.accounts
        records = accounts[name].readers if name in accounts else ()
        known = self._readers.setdefault(name, {})
        for number in known.keys() - {record.id for record in records}:
            gone = known.pop(number)
            if isinstance(gone, LogReader) and gone.at_work:
                self._removed.setdefault(name, []).append(gone)
        if not known and not records:
            del self._readers[name]
        for record in records:
            if (reader := known.get(record.id)) is None:
                reader = known[record.id] = self._reader(name, record)
                # One that was added while this replica delivers, by whichever replica was asked to.
                if isinstance(reader, LogReader) and (holding := self._holdings.get(name)) is not None:
                    reader.take_over(record, holding, self._tape(name, record))
            else:
                reader.follow(record)

    def _reader(self, name: str, record: ReaderRecord) -> LogReader | RedriveReader:
        around = self._around
        if record.kind is ReaderKind.REDRIVE:
            return RedriveReader(
                name,
                record,
                bucket=around.bucket,
                accounts=around.accounts,
                check=self._fence,
                clock=around.clock,
                remove=lambda reader: self._remove(name, reader),
            )
        return LogReader(
            name,
            record,
            log=around.log,
            keeper=around.keeper,
            clock=around.clock,
            remove=lambda reader: self._remove(name, reader),
        )

    # -- looking -----------------------------------------------------------------------------

    def readers(self, name: str) -> Sequence[Reader]:
        account = self._around.accounts[name]
        known = self._readers[name]
        return [known[record.id] for record in account.readers]

    def owed_backlog(self, name: str) -> int:
        return sum(reader.backlog().events for reader in self.readers(name) if reader.kind in _OWED)

    def infos(self) -> Sequence[ReaderInfo]:
        return [
            ReaderInfo(reader.id, name, reader.kind, reader.backlog().events, reader.total, reader.rate)
            for name in self._around.accounts
            for reader in self.readers(name)
        ]

    def books(self, name: str) -> Books:
        holding = self._holdings.get(name)
        account = self._around.accounts[name] if holding is None else holding.account()
        # What we follow may come late, above all after a server died. Whoever delivers may then have settled
        # events that we have not seen appended: they were owed all the same.
        settled = [reader.watermark.sequence for reader in self.readers(name)[:1]]
        number = max([self._around.log.ledger.number, *settled])
        return Books(
            owed=number - account.start + account.backfilled,
            delivered=account.delivered,
            filtered=account.filtered,
            dead=account.dead + account.discarded,
            discarded=account.discarded,
            backlog=self.owed_backlog(name),
            replayed=account.replayed,
            dead_by_reason=dict(account.dead_by_reason),
        )

    def log_readers(self, name: str) -> list[LogReader]:
        return [reader for reader in self._readers.get(name, {}).values() if isinstance(reader, LogReader)]

    def marks(self) -> Sequence[Mark]:
        """How far readers have come, as it is stored."""
        accounts = self._around.accounts
        records = [record for name in accounts for record in accounts[name].readers]
        return [record.mark for record in records if record.kind is not ReaderKind.REDRIVE]

    def held(self) -> Sequence[str]:
        """The destinations this replica delivers to."""
        return list(self._holdings)

    # -- holds -------------------------------------------------------------------------------

    def hold(self, name: str) -> Hold | None:
        holding = self._holdings.get(name)
        return self._around.accounts[name].hold if holding is None else holding.hold

    async def set_hold(self, name: str, hold: Hold | None) -> None:
        holding = self._holdings.get(name)
        if holding is not None:
            holding.hold = hold
            await holding.store()
            return
        await self._around.accounts.update(name, lambda account: replace(account, hold=hold))

    # -- the lease ---------------------------------------------------------------------------

    async def prepare(self, name: str) -> None:
        """This replica has the lease: get everything ready to read. Raises `QueueError`."""
        around = self._around
        self.sync(name)
        await around.letters.clean(name)
        records = around.accounts[name].readers
        reached = max([each.mark.seq for each in records if each.kind is not ReaderKind.REDRIVE], default=1)
        last = await last_sequence(around.link, around.stream, known=reached - 1)
        account = around.accounts[name]

        async def stored(number: int, mark: Mark) -> None:
            reader = self._readers.get(name, {}).get(number)
            if isinstance(reader, LogReader):
                await reader.progress_stored(mark)

        holding = Holding(name, around.accounts, fence=self._fence, stored=stored)
        # From now on `sync` takes over readers that are added meanwhile.
        self._holdings[name] = holding
        for record in account.readers:
            # Behind the end lies what the cluster lost: it is missed when everything else is read.
            if record.mark.seq > last:
                record = replace(record, mark=Mark(last + 1, record.mark.number))
            reader = self._readers[name][record.id]
            if isinstance(reader, LogReader):
                tape = self._tape(name, record)
                await tape.open()
                reader.take_over(record, holding, tape)

    def cut(self, last: int) -> None:
        """The stream lost everything behind *last*; what is held here goes on from there."""
        for name in self.held():
            for reader in self.log_readers(name):
                reader.cut(last)

    def _tape(self, name: str, record: ReaderRecord) -> Tape:
        around = self._around
        consumer = None
        if record.kind is ReaderKind.LIVE:
            # Named like its destination, for those who look at NATS.
            consumer = ConsumerSpec(token(name), record.mark.seq, around.manage)
        return Tape(around.link, around.stream, consumer, log=around.logger)

    async def settle(self, name: str) -> None:
        """The lease is given up: store what is counted, and let go."""
        if (holding := self._holdings.get(name)) is not None:
            try:
                await holding.store()
            finally:
                await self.let_go(name)

    async def let_go(self, name: str) -> None:
        """The lease is gone."""
        self._holdings.pop(name, None)
        for reader in [*self.log_readers(name), *self._removed.pop(name, ())]:
            await reader.let_go()
        self.sync(name)

    async def store(self, name: str) -> None:
        """Store what is counted. Raises `QueueError`."""
        if (holding := self._holdings.get(name)) is not None:
            await holding.store()

    # -- coming and going --------------------------------------------------------------------

    async def attach(self, name: str, start: Literal["now", "earliest"]) -> Sequence[Reader]:
        accounts, ledger = self._around.accounts, self._around.log.ledger
        if name not in accounts:
            await self._around.letters.forget(name)
            fill = await accounts.serial()

            def first(live: int) -> Account:
                now = Mark(ledger.seq + 1, ledger.number)
                readers: tuple[ReaderRecord, ...] = (ReaderRecord(live, ReaderKind.LIVE, now),)
                past = ledger.number - ledger.first.number if start == "earliest" else 0
                if past:
                    back = ReaderRecord(fill, ReaderKind.BACKFILL, ledger.first, stop=now, total=past)
                    readers = (*readers, back)
                return Account(name, ledger.number, readers, backfilled=past)

            await accounts.create(name, first)
        self.sync(name)
        return self.readers(name)

    async def replay(self, name: str, start: float, end: float, rate: float | None) -> ReaderInfo:
        around = self._around
        _ = around.accounts[name]
        first: Mark | None = None
        stop = Mark(0, 0)
        async with aclosing(walk(around.link, around.stream, around.log.ledger.first)) as steps:
            async for step in steps:
                if step.meta is not None and step.meta.count and start <= step.meta.received_at < end:
                    first = first or Mark(step.seq, step.number)
                    stop = step.end
        if first is None:
            raise NotFound("no events received in this range are retained")
        total = stop.number - first.number
        record = ReaderRecord(
            await around.accounts.serial(), ReaderKind.REPLAY, first, stop=stop, total=total, rate=rate
        )
        await around.accounts.update(name, lambda account: account.with_reader(record))
        return ReaderInfo(record.id, name, record.kind, total, total, rate)

    async def forget(self, name: str) -> None:
        around = self._around
        _ = around.accounts[name]
        # First, so that nobody counts another letter; what is left of them `attach` would clear up.
        await around.accounts.remove(name)
        await around.letters.forget(name)
        await self.let_go(name)
        if around.manage:
            with suppress(QueueError):  # it is gone, or goes unused
                await around.link.api(f"CONSUMER.DELETE.{around.stream}.{token(name)}")

    async def _remove(self, name: str, reader: Reader) -> None:
        """Drop a bounded reader that is through, unless it was given more to do."""
        if self._around.accounts[name].reader(reader.id) is None:
            return
        await self.store(name)

        def mutation(account: Account) -> Account:
            self._fence(account)
            now = account.reader(reader.id)
            return account if now is None or now.left else account.without_reader(reader.id)

        await self._around.accounts.update(name, mutation)
        if isinstance(reader, LogReader):
            await reader.let_go()

    async def expire(self, name: str, to: Mark) -> int:
        """Give up what is owed before *to*, of a destination this replica holds; how many events."""
        given_up = sum(reader.expire(to) for reader in self.log_readers(name) if reader.at_work)
        await self.store(name)
        return given_up

    async def refresh_hints(self) -> None:
        """Find the age of backlogs nobody reads here at present, for the metrics."""
        for name in self._around.accounts:
            for reader in self.log_readers(name):
                backlog = reader.backlog()
                if backlog.events and backlog.oldest_received_at is None:
                    reader.oldest_hint = await self._received_at(reader.mark.seq)

    async def _received_at(self, seq: int) -> float | None:
        """Arrival of the first batch at or after *seq*."""
        message = await get_next(self._around.link, self._around.stream, seq)
        try:
            return None if message is None else decode(message).received_at
        except NotABatch:
            return None

    async def tend(self) -> None:
        """Once in a while: keep consumers in step with the readers."""
        for name in self.held():
            for reader in self.log_readers(name):
                await reader.tend()
