"""Who delivers to which destination: one replica at a time, and no replica more than its share.

A lease is a field of the destination's account, so it is taken, kept and given back by the same conditional
writes as everything else there: two replicas cannot both succeed. Owns the taking, the watching over what is
held, and the sharing out; whether a replica is dead is `members`' affair, what a holder does `roster`'s.

    waiting ──take──▶ preparing ──▶ held ──release──▶ settling ──▶ given back
                          │           │ lost                          ▲
                          └───────────┴───────────────────────────────┘
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from relay.clock import Clock
from relay.errors import NotFound, QueueError
from relay.observe.logs import Log
from relay.queue.base import Lease
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.members import Members
from relay.queue.jetstream.record import Account, LeaseLost, LeaseRecord

_TICK_SECONDS: Final = 1.0  # together with TRUST_SECONDS well below LEASE_TTL
_KEEP_SECONDS: Final = 10.0  # a lease is not handed on before, or it would go round in circles
_PATIENCE_SECONDS: Final = 3.0  # a replica with fewer destinations may go first for so long
_RETRY_SECONDS: Final = 1.0  # doubled with each failure to prepare in a row, up to
_LONGEST_RETRY: Final = 30.0
_RELEASE_SECONDS: Final = 2.0  # of real time, for storing and again for giving back: a stop must end in time

Step = Callable[[str], Awaitable[None]]


class _Beaten(Exception):
    """Another replica was faster."""


@dataclass(slots=True, eq=False)
class _Held:
    """A lease in our name. Implements `relay.queue.base.Lease`."""

    name: str
    record: LeaseRecord
    since: float  # by the monotonic clock
    give_back: Callable[[_Held], Awaitable[None]]
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    releasing: bool = False

    async def release(self) -> None:
        await self.give_back(self)


class Leases:
    """This replica's leases.

    *prepare* makes a destination ready to be read before its lease is handed out, *settle* stores what its
    holder has counted and lets go of it; both may raise `QueueError`. *unable* tells why this replica cannot
    deliver to anybody at present, or None: whoever can takes over at once.
    """

    def __init__(
        self,
        accounts: Accounts,
        members: Members,
        *,
        prepare: Step,
        settle: Step,
        unable: Callable[[], str | None],
        clock: Clock,
        log: Log,
    ) -> None:
        self._accounts = accounts
        self._members = members
        self._prepare = prepare
        self._settle = settle
        self._unable = unable
        self._clock = clock
        self._log = log
        self._held: dict[str, _Held] = {}
        self._waiting: set[str] = set()
        self._failures: Counter[str] = Counter()  # to prepare, in a row
        self._changed = asyncio.Event()
        self._closed = False

    # -- having ------------------------------------------------------------------------------

    async def lease(self, name: str) -> Lease:
        """Wait until this replica is the one that delivers to *name*. One caller per destination."""
        self._waiting.add(name)
        free_since: float | None = None
        try:
            await self._tell()
            while True:
                changed = self._changed
                if self._takeable(name):
                    now = self._clock.monotonic()
                    free_since = now if free_since is None else free_since
                    if self._is_next(name) or now - free_since >= _PATIENCE_SECONDS:
                        held = await self._take(name)
                        if held is not None:
                            return held
                else:
                    free_since = None
                await changed.wait()
        finally:
            self._waiting.discard(name)

    def fence(self, account: Account) -> None:
        """Raises `LeaseLost` unless *account* says that this replica has its lease.

        Part of every change that only the holder may make.
        """
        held = self._held.get(account.name)
        if held is None or account.lease != held.record:
            raise LeaseLost(f"another replica delivers to {account.name}")

    async def run(self) -> None:
        """Watch over the leases without end."""
        async with asyncio.TaskGroup() as group:
            # Apart from each other, because the first must not wait for an answer that does not come.
            group.create_task(self._watch_over())
            group.create_task(self._clear_up())

    async def _watch_over(self) -> None:
        while True:
            await self._clock.sleep(_TICK_SECONDS)
            self._share_out()
            self.wake()
            self._members.wants = self._wants()

    async def _clear_up(self) -> None:
        """Give back what is in our name by mistake, where an acknowledgement or a caller went missing."""
        while True:
            changed = self._changed
            stored = {name: self._accounts[name].lease for name in self._accounts}
            for name, record in stored.items():
                if record is None or record.replica != self._members.id:
                    continue
                if name not in self._held and name not in self._waiting:
                    await self._clear(name, record)
            await changed.wait()

    def wake(self) -> None:
        """An account or a member changed, or time has passed."""
        self._review()
        self._changed.set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        """Take no more, and give everything back. Whoever waits is cancelled by its caller."""
        self._closed = True
        await asyncio.gather(*[held.release() for held in list(self._held.values())])

    # -- losing ------------------------------------------------------------------------------

    def _review(self) -> None:
        """Notice what is ours no longer, or may soon not be. Waits for nothing."""
        trusted, unable = self._members.trusted(), self._unable()
        for name, held in list(self._held.items()):
            if held.releasing:
                continue
            if name not in self._accounts or self._accounts[name].lease != held.record:
                del self._held[name]
                self._lose(held, "another replica has taken it, or the destination was forgotten")
            elif not trusted:
                self._lose(held, "our heartbeats fail, so the others may take us for dead")
            elif unable is not None:
                self._lose(held, unable)

    def _lose(self, held: _Held, why: str) -> None:
        if not held.lost.is_set():
            held.lost.set()
            self._log.warning("lease.lost", destination=held.name, epoch=held.record.epoch, detail=why)

    def _share_out(self) -> None:
        """Let go of one destination for a replica that has at least two fewer; its worker then releases it.

        Whoever has most begins, and gives one at a time, so that several do not all give to the same.
        """
        if any(held.lost.is_set() or held.wanted.is_set() for held in self._held.values()):
            return
        loads = self._loads()
        mine = (loads[self._members.id], self._members.id)
        now = self._clock.monotonic()
        for name, held in self._held.items():
            others = [(loads[other], other) for other in self._members.wanting(name)]
            if not others or now - held.since < _KEEP_SECONDS:
                continue
            if max(others) < mine and min(others)[0] + 2 <= mine[0]:
                self._log.info("lease.handed_over", destination=name, replica=min(others)[1])
                held.wanted.set()
                return

    # -- taking ------------------------------------------------------------------------------

    def _takeable(self, name: str) -> bool:
        return name in self._accounts and name not in self._held and self._is_free(self._accounts[name])

    def _is_free(self, account: Account) -> bool:
        if self._closed or not self._members.trusted() or self._unable() is not None:
            return False
        lease = account.lease
        # One in our own name that we do not have is left of an attempt whose acknowledgement got lost.
        if lease is None or lease.replica == self._members.id:
            return True
        return not self._members.is_alive(lease.replica, revision=self._accounts.revision(account.name))

    def _is_next(self, name: str) -> bool:
        """Whether nobody else wants it who has fewer."""
        loads = self._loads(leaving_out=name)
        mine = loads[self._members.id]
        return all(loads[other] >= mine for other in self._members.wanting(name))

    def _loads(self, leaving_out: str | None = None) -> Counter[str]:
        """How many destinations each replica delivers to."""
        leases = [self._accounts[name].lease for name in self._accounts if name != leaving_out]
        return Counter(lease.replica for lease in leases if lease is not None)

    async def _take(self, name: str) -> _Held | None:
        before: LeaseRecord | None = None

        def mutation(account: Account) -> Account:
            nonlocal before
            if not self._is_free(account):
                raise _Beaten
            before = account.lease
            epoch = account.epoch + 1
            return replace(account, lease=LeaseRecord(self._members.id, epoch), epoch=epoch)

        try:
            account = await self._accounts.update(name, mutation)
        except (_Beaten, NotFound, QueueError):
            return None  # whatever it was, we go on waiting
        record = LeaseRecord(self._members.id, account.epoch)
        held = _Held(name, record, self._clock.monotonic(), self._give_back)
        self._held[name] = held
        self._log.info(
            "lease.taken",
            destination=name,
            epoch=record.epoch,
            **({} if before is None else {"instead_of": before.replica}),
        )
        try:
            await self._prepare(name)
        except (QueueError, NotFound) as error:
            self._log.warning("lease.unprepared", destination=name, detail=str(error))
            await held.release()
            await self._clock.sleep(min(_LONGEST_RETRY, _RETRY_SECONDS * 2 ** min(self._failures[name], 10)))
            self._failures[name] += 1
            return None
        except BaseException:
            self._held.pop(name, None)  # the caller no longer waits; `_clear_up` gives it back
            raise
        del self._failures[name]
        self._review()
        if held.lost.is_set():  # preparing took too long
            await held.release()
            return None
        return held

    # -- giving back -------------------------------------------------------------------------

    async def _give_back(self, held: _Held) -> None:
        if held.releasing:
            return
        held.releasing = True
        held.lost.set()
        try:
            # Where the lease is lost, the fence keeps this from storing anything.
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._settle(held.name)
        except LeaseLost:
            pass
        except (QueueError, NotFound, TimeoutError) as error:
            detail = str(error) or "NATS did not answer in time"
            self._log.warning("lease.unsettled", destination=held.name, detail=detail)
        if self._held.get(held.name) is not held:
            return
        try:
            # First, so that others that see it free do not wait for us to take it again.
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._tell()
                await self._clear(held.name, held.record)
        except TimeoutError:
            pass  # it runs out by itself
        finally:
            del self._held[held.name]

    async def _clear(self, name: str, record: LeaseRecord) -> None:
        def mutation(account: Account) -> Account:
            return replace(account, lease=None) if account.lease == record else account

        try:
            await self._accounts.update(name, mutation)
        except (NotFound, QueueError):
            return  # there is nothing to give back, or `_clear_up` tries again
        self._log.info("lease.released", destination=name, epoch=record.epoch)

    async def _tell(self) -> None:
        """Tell the others at once what we want."""
        wants = self._wants()
        if wants != self._members.wants:
            self._members.wants = wants
            await self._members.beat()

    def _wants(self) -> frozenset[str]:
        if self._unable() is not None:  # nobody need wait for us, nor hand anything over
            return frozenset()
        kept = {name for name, held in self._held.items() if not held.releasing}
        return frozenset(self._waiting | kept)
