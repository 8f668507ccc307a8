"""All destinations' accounts as this replica knows them, and the only way to change one.

A change is a function from the account as it is to the account as it should be, applied again when
somebody else was faster. So a replica that delivers may count, while another adds a replay. Owns revisions
and the doubt about changes whose acknowledgement got lost; never decides what changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from relay.errors import NotFound, QueueError
from relay.queue.jetstream.bucket import Bucket, Change, Entry, Stale
from relay.queue.jetstream.message import token
from relay.queue.jetstream.record import Account, dump, load

PREFIX: Final = "destination"
_REMEMBERED_WRITERS: Final = 16

Mutation = Callable[[Account], Account]


@dataclass(slots=True)
class _Known:
    account: Account
    revision: int


@dataclass(frozen=True, slots=True, eq=False)
class _Doubt:
    """A change that may or may not be stored, on the condition of a revision; no answer came yet."""

    number: int
    revision: int
    done: Callable[[], None]


def _nothing() -> None: ...


class Accounts:
    """By destination name. *replica* is this process's id."""

    def __init__(self, bucket: Bucket, replica: str, changed: Callable[[str], None]) -> None:
        self._bucket = bucket
        self._replica = replica
        self._changed = changed  # called with a name when its account is another one than before
        self._known: dict[str, _Known] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._doubts: dict[str, list[_Doubt]] = {}
        self._number = 0

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._known))

    def __getitem__(self, name: str) -> Account:
        """Raises `NotFound`."""
        if (known := self._known.get(name)) is None:
            raise NotFound(f"the queue knows no destination called {name}")
        return known.account

    def revision(self, name: str) -> int:
        return self._known[name].revision

    def seen(self, entry: Entry) -> None:
        """The watch saw a value, which may be older than what is known here."""
        if entry.deleted:
            for name, known in list(self._known.items()):
                if _key(name) == entry.key and known.revision < entry.revision:
                    del self._known[name]
                    self._changed(name)
            return
        account = load(entry.value)
        if account.name not in self or self.revision(account.name) < entry.revision:
            self._take(account, entry.revision)

    def _take(self, account: Account, revision: int) -> None:
        known = self._known.get(account.name)
        if known is None or known.revision <= revision:
            self._known[account.name] = _Known(account, revision)
        self._resolve(account, revision)
        self._changed(account.name)

    def _resolve(self, account: Account, revision: int) -> None:
        """Find out which change in doubt was stored: of those on the same condition one at most."""
        doubts = self._doubts.get(account.name, [])
        if any(doubt.revision >= revision for doubt in doubts):
            return  # nothing was stored yet; it may still be on its way
        self._doubts.pop(account.name, None)
        for doubt in doubts:
            if doubt.number == account.changes.get(self._replica):
                doubt.done()

    async def create(self, name: str, first: Callable[[int], Account]) -> Account:
        """Make an account unless it is there; *first* gets a number no reader has yet."""
        async with self._lock(name):
            while True:
                # Not 0 where an account of this name was deleted a moment ago.
                before = await self._bucket.revision(_key(name))
                await self._reload(name)
                if name in self._known:
                    return self._known[name].account
                reserved = await self._bucket.put("serial", b"")
                account = first(reserved)
                try:
                    revision = await self._bucket.put(_key(name), dump(account), revision=before)
                except Stale:
                    continue
                self._take(account, revision)
                return account

    async def serial(self) -> int:
        """A number no reader has: the revision of a key nobody reads."""
        return await self._bucket.put("serial", b"")

    async def update(
        self,
        name: str,
        mutation: Mutation,
        *,
        letters: Callable[[], Sequence[Change]] = tuple,
        done: Callable[[], None] = _nothing,
    ) -> Account:
        """Change an account, together with dead letters; *done* runs once, when the change is stored.

        Where the acknowledgement is late or lost, that is when the account is seen again. Raises
        `NotFound`, whatever *mutation* raises, or `QueueError`.
        """
        async with self._lock(name):
            if name in self._doubts:
                await self._reload(name)
            while True:
                known = self._known.get(name)
                if known is None:
                    raise NotFound(f"the queue knows no destination called {name}")
                wanted = mutation(known.account)
                changes = list(letters())
                if wanted == known.account and not changes:
                    done()
                    return wanted
                self._number += 1
                number = self._number
                wanted = replace(wanted, changes=self._writers(known.account, number))
                record = Change(_key(name), dump(wanted), revision=known.revision)
                # Before it is sent: the watch may show it as stored while the answer is still on its way, and
                # until then the caller would count again what is in the account already.
                doubt = _Doubt(number, known.revision, done)
                self._doubts.setdefault(name, []).append(doubt)
                try:
                    revision = await self._bucket.commit([*changes, record])
                except Stale:
                    await self._reload(name)
                    # One of the letters may have changed instead: whoever makes conditions on them copes.
                    conditions = any(change.revision is not None for change in changes)
                    if not conditions and name in self and self.revision(name) == known.revision:
                        # A server that no longer leads answered, or one that has just begun to.
                        raise QueueError("the state bucket contradicts itself at this moment") from None
                    continue
                # What else was in doubt was on the same condition, so it cannot be stored any more.
                if doubt in self._doubts.pop(name, ()):
                    done()
                self._take(wanted, revision)
                return wanted

    async def check(self) -> None:
        """Let go of accounts that are gone, where the watch could not tell. Raises `QueueError`."""
        for name in self:
            async with self._lock(name):
                if name in self and await self._bucket.get(_key(name)) is None:
                    del self._known[name]
                    self._changed(name)

    def forget_all(self) -> None:
        """The bucket has lost changes: everything is seen anew.

        Which accounts that concerns cannot be told by their revisions. Other replicas may have written since,
        and the numbers of what was lost were given once more.
        """
        for name in self:
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Whoever holds it has counted on what is not stored any more, so it has to lose the lease."""
        del self._known[name]
        self._doubts.pop(name, None)
        self._changed(name)

    async def remove(self, name: str) -> None:
        """Delete an account. Raises `NotFound` or `QueueError`."""
        async with self._lock(name):
            if name not in self._known:
                raise NotFound(f"the queue knows no destination called {name}")
            await self._bucket.delete(_key(name))
            self._known.pop(name, None)
            self._doubts.pop(name, None)
            self._changed(name)

    async def _reload(self, name: str) -> None:
        """Read the account anew. The leader's word counts, also for an earlier revision than was known here:
        a cluster that lost power may have forgotten changes it had acknowledged.
        """
        entry = await self._bucket.get(_key(name))
        if entry is None:
            if self._known.pop(name, None) is not None:
                self._changed(name)
            return
        known = self._known.get(name)
        if known is not None and known.revision > entry.revision:
            self._forget(name)
        self._take(load(entry.value), entry.revision)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _writers(self, account: Account, number: int) -> dict[str, int]:
        writers = {each: n for each, n in account.changes.items() if each != self._replica}
        while len(writers) >= _REMEMBERED_WRITERS:
            del writers[next(iter(writers))]  # the one that wrote longest ago
        return {**writers, self._replica: number}


def _key(name: str) -> str:
    return f"{PREFIX}.{token(name)}"
