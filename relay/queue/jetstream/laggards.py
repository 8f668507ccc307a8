"""Who gives way when room is short: the destinations furthest behind, as long as another one is up to date.

Every replica comes to the same conclusion from the stored accounts; each destination gives up its events
where its lease is held. Owns the conclusion and nothing else; purges nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from relay.clock import Clock
from relay.model import ReaderKind, Reason
from relay.observe.logs import Log as Logger
from relay.queue.jetstream import letters
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.bucket import Change
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.log import Log
from relay.queue.jetstream.record import Account, Mark, ReaderRecord
from relay.queue.jetstream.space import Space
from relay.queue.jetstream.walk import walk

_UP_TO_DATE: Final = 0.05  # a destination that lacks less than this share of the stored events
_MOST_BATCHES: Final = 20_000  # given up in one round
_OWED: Final = (ReaderKind.LIVE, ReaderKind.BACKFILL)
DETAIL: Final = "released to make room; this destination was furthest behind"


class Laggards:
    """*expire* gives up a destination's events before a mark; 0 where that is another replica's to do."""

    def __init__(
        self,
        link: Link,
        stream: str,
        accounts: Accounts,
        log: Log,
        space: Space,
        *,
        expire: Callable[[str, Mark], Awaitable[int]],
        logger: Logger,
    ) -> None:
        self._link = link
        self._stream = stream
        self._accounts = accounts
        self._log = log
        self._space = space
        self._expire = expire
        self._logger = logger

    async def release(self) -> None:
        """One round, after `Space.measure` and, on the janitor, `give_back`. Raises `QueueError`."""
        if not self._space.limits.release_laggards or not self._space.short():
            return
        ledger = self._log.ledger
        stored = ledger.number - ledger.first.number
        backlogs = {name: self._backlog(self._accounts[name]) for name in self._accounts}
        laggards = [name for name, backlog in backlogs.items() if backlog > stored * _UP_TO_DATE]
        if not laggards or len(laggards) == len(backlogs):
            return  # everyone is behind: refuse instead
        furthest, behind = min(self._owing(), key=lambda each: each[1].mark.number)
        # What nobody is owed and the ids of what is gone go first; that is the janitor's. It also keeps us
        # from giving up more while what was given up is still to be purged.
        if furthest not in laggards or not await self._space.exhausted(behind.mark):
            return
        to = await self._far_enough(behind.mark)
        await self._space.note_given_up(to.number)
        for name in laggards:
            if any(each == name and reader.mark.number < to.number for each, reader in self._owing()):
                events = await self._expire(name, to)
                if events:
                    self._logger.warning("queue.released", destination=name, events=events, detail=DETAIL)

    def _owing(self) -> Iterator[tuple[str, ReaderRecord]]:
        """Readers that have something before them, with their destinations."""
        for name in self._accounts:
            for reader in self._accounts[name].readers:
                if reader.kind in _OWED and self._owes(reader):
                    yield name, reader

    def _owes(self, reader: ReaderRecord) -> int:
        """Events from its watermark on."""
        stop = self._log.ledger.number if reader.stop is None else reader.stop.number
        return max(0, stop - reader.mark.number)

    def _backlog(self, account: Account) -> int:
        return sum(self._owes(reader) for reader in account.readers if reader.kind in _OWED)

    async def _far_enough(self, start: Mark) -> Mark:
        """From *start* as far as makes enough room."""
        needed = self._space.lacking()
        to = start
        batches = 0
        async with aclosing(walk(self._link, self._stream, start)) as steps:
            async for step in steps:
                if needed <= 0 or batches == _MOST_BATCHES:
                    break
                to = step.end
                needed -= step.nbytes
                batches += 1
        return to


async def expire_idle(
    accounts: Accounts, name: str, to: Mark, *, alive: Callable[[str], bool], clock: Clock
) -> int:
    """Give up the events before *to* of a destination nobody delivers to; how many were owed.

    A lease is taken from the dead with it: would its holder wake up, it could not set the watermark back.
    Raises `QueueError`.
    """
    given_up = 0
    notes: list[Change] = []

    def mutation(account: Account) -> Account:
        nonlocal given_up
        given_up = 0
        notes.clear()
        if account.lease is not None and alive(account.lease.replica):
            return account
        for reader in account.readers:
            if reader.kind not in _OWED:
                continue
            end = to if reader.stop is None or to.number < reader.stop.number else reader.stop
            events = end.number - reader.mark.number
            if events <= 0:
                continue
            given_up += events
            notes.append(
                letters.range_change(name, Reason.EXPIRED, reader.mark.number, events, clock.now(), DETAIL)
            )
            account = account.with_reader(replace(reader, mark=end))
        if not given_up:
            return account
        expired = account.dead_by_reason.get(Reason.EXPIRED, 0) + given_up
        return replace(
            account,
            lease=None,
            dead=account.dead + given_up,
            dead_by_reason={**account.dead_by_reason, Reason.EXPIRED: expired},
        )

    await accounts.update(name, mutation, letters=lambda: tuple(notes))
    return given_up
