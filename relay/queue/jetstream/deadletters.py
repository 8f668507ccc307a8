"""Dead letters: looking at them, deleting them, marking them for a redrive.

They lie in the same stream as their destination's account on purpose: both change in one commit, so books
and letters never disagree. With one exception: a replica that buries more at once than a commit can hold
stores letters ahead of their account. Such a letter stands for an event that some reader has not settled
yet; it is not counted, so nobody discards or redrives it, and should its writer die, the next one to
deliver deletes it (`clean`), because it will bury the event itself.

A letter nobody here can read, by a later version or somebody else's hand, is passed over: it stays in the
books and in the bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from relay.model import ReaderKind
from relay.queue.base import DeadLetterFilter, StoredDeadLetter
from relay.queue.jetstream.accounts import Accounts, Mutation
from relay.queue.jetstream.bucket import Bucket, Change, Entry
from relay.queue.jetstream.letters import (
    PREFIX,
    NotALetter,
    counted,
    key_of,
    marked,
    prefix,
    redrive_of,
    rules_of,
    stored,
)
from relay.queue.jetstream.pausing import pause
from relay.queue.jetstream.record import Account, LeaseLost, LetterRule, Mark, ReaderRecord

MOST_LETTERS: Final = 900  # of one commit, which may hold `bucket.MOST_CHANGES`, the account among them
_TRIES: Final = 3


class Moved(Exception):
    """The account, and with it the letters perhaps, changed after the letters were looked at."""


def few(mutation: Mutation) -> Mutation:
    """*mutation* for letters that were looked at before: raises `Moved` where it failed a few times.

    Whether the account changed or one of the letters the server does not tell; the former happens all the
    time and hurts nobody, after the latter the letters have to be looked at again.
    """
    left = _TRIES

    def checked(account: Account) -> Account:
        nonlocal left
        if not left:
            raise Moved
        left -= 1
        return mutation(account)

    return checked


async def search(
    bucket: Bucket,
    destination: str | None,
    *,
    start: int = 1,
    ids: Sequence[int] | None = None,
    lines: bool = True,
) -> AsyncGenerator[StoredDeadLetter, None]:
    """Letters by ascending id from *start* on, with their *lines* or without; of *ids* alone, if given.

    They come without `redriving`. Raises `QueueError`.
    """
    entries = _picked(bucket, ids, start) if ids is not None else None
    if entries is None:
        below = PREFIX if destination is None else prefix(destination)
        entries = bucket.entries(below, start=start, headers_only=not lines)
    async with aclosing(entries):
        async for entry in entries:
            try:
                letter = stored(entry)
            except NotALetter:
                continue
            if destination in (None, letter.destination):
                yield letter


async def _picked(bucket: Bucket, ids: Sequence[int], start: int) -> AsyncGenerator[Entry, None]:
    for number in sorted(set(ids)):
        if number < start:
            continue
        entry = await bucket.at(number)
        if entry is not None and entry.key.startswith(f"{PREFIX}."):
            yield entry


class Letters:
    """The dead letters of all destinations this queue has an account of."""

    def __init__(self, bucket: Bucket, accounts: Accounts) -> None:
        self._bucket = bucket
        self._accounts = accounts

    async def find(
        self, which: DeadLetterFilter, *, after: int = 0, limit: int = 100
    ) -> Sequence[StoredDeadLetter]:
        """By ascending id, those with an id above *after*. Raises `QueueError`."""
        # Lines are most of what letters weigh: where a filter throws letters away, only the others' are read.
        narrow = which.reason is not None or which.since is not None
        found: list[StoredDeadLetter] = []
        while len(found) < limit:
            page = await self._page(which, after, limit - len(found), lines=not narrow)
            full = len(page) == limit - len(found)
            found += await with_lines(self._bucket, page) if narrow else page
            if not full:
                break
            after = page[-1].id
        return [
            replace(letter, redriving=marked(rules_of(self._accounts[letter.destination]), letter))
            for letter in found
            if letter.destination in self._accounts
        ]

    async def _page(
        self,
        which: DeadLetterFilter,
        after: int,
        most: int,
        *,
        lines: bool = False,
        wanted: Callable[[StoredDeadLetter], bool] = lambda letter: True,
    ) -> list[StoredDeadLetter]:
        letters = search(self._bucket, which.destination, start=after + 1, ids=which.ids, lines=lines)
        found: list[StoredDeadLetter] = []
        async with aclosing(letters):
            async for letter in letters:
                # An account may be forgotten with letters left behind it.
                if letter.destination in self._accounts and _matches(which, letter) and wanted(letter):
                    found.append(letter)
                    if len(found) >= most:
                        break
        return found

    async def discard(self, which: DeadLetterFilter) -> int:
        """Delete letters that no redrive has before it; how many events. Raises `QueueError`."""

        def free(account: Account, letter: StoredDeadLetter) -> bool:
            return counted(account, letter) and not marked(rules_of(account), letter)

        def book(account: Account, events: int) -> Account:
            return replace(account, dead=account.dead - events, discarded=account.discarded + events)

        return sum([await self._delete(each, free, book) for each in await self._each(which)])

    async def clean(self, destination: str) -> None:
        """Delete what a replica that died stored ahead of its account. For who was just given the lease.

        Raises `LeaseLost` where the account has changed hands again, or `QueueError`.
        """
        account = self._accounts[destination]
        if not account.ahead:
            return
        lease = account.lease

        def spare(account: Account, letter: StoredDeadLetter) -> bool:
            return not counted(account, letter)

        def check(account: Account, _: int) -> Account:
            if account.lease != lease:
                raise LeaseLost
            return account

        await self._delete(DeadLetterFilter(destination), spare, check, after=account.ahead)

    async def forget(self, destination: str) -> None:
        """Delete all letters of a destination, books or no books. Raises `QueueError`."""
        await self._bucket.purge(prefix(destination))

    async def _delete(
        self,
        which: DeadLetterFilter,
        wanted: Callable[[Account, StoredDeadLetter], bool],
        book: Callable[[Account, int], Account],
        *,
        after: int = 0,
    ) -> int:
        """Delete the letters of one destination that are there now; how many events they stood for."""
        name = which.destination or ""
        until = await self._accounts.serial()
        events = 0
        most = MOST_LETTERS
        while True:
            page = await self._page(
                which,
                after,
                most,
                wanted=lambda letter: letter.id <= until and wanted(self._accounts[name], letter),
            )
            if not page:
                return events
            try:
                events += await self._delete_page(name, page, wanted, book)
            except Moved:
                # The larger a commit, the likelier it is that another one comes first.
                most = max(1, len(page) // 2)
                await pause()
            else:
                most = min(2 * most, MOST_LETTERS)
                after = page[-1].id

    async def _delete_page(
        self,
        name: str,
        page: Sequence[StoredDeadLetter],
        wanted: Callable[[Account, StoredDeadLetter], bool],
        book: Callable[[Account, int], Account],
    ) -> int:
        chosen: list[StoredDeadLetter] = []

        def mutation(account: Account) -> Account:
            chosen[:] = [letter for letter in page if wanted(account, letter)]
            return book(account, sum([letter.count for letter in chosen]))

        await self._accounts.update(
            name,
            few(mutation),
            letters=lambda: [Change(key_of(letter), None, letter.id) for letter in chosen],
        )
        return sum([letter.count for letter in chosen])

    async def redrive(self, which: DeadLetterFilter) -> int:
        """Give letters that have their bytes to their destination's redrive reader; how many.

        The account notes which ones by a rule, so that marking 100,000 letters is one small change.
        Raises `QueueError`.
        """
        return sum([await self._redrive(each) for each in await self._each(which)])

    async def _redrive(self, which: DeadLetterFilter) -> int:
        name = which.destination or ""
        while True:
            until = await self._accounts.serial()
            account = self._accounts[name]
            rules = rules_of(account)
            ids = await self._markable(which, account, until)
            if not ids:
                return 0
            rule = LetterRule(until, which.reason, which.since, None if which.ids is None else tuple(ids))
            try:
                await self._accounts.update(name, _with_rule(rules, rule, len(ids)))
            except Moved:  # another redrive was faster: what it took is not ours to count
                await pause()
            else:
                return len(ids)

    async def _markable(self, which: DeadLetterFilter, account: Account, until: int) -> list[int]:
        rules = rules_of(account)
        letters = search(self._bucket, which.destination, ids=which.ids, lines=False)
        found = []
        async with aclosing(letters):
            async for letter in letters:
                if letter.id > until:
                    break
                if letter.event is None or marked(rules, letter):
                    continue
                if _matches(which, letter) and counted(account, letter):
                    found.append(letter.id)
        return found

    async def _each(self, which: DeadLetterFilter) -> list[DeadLetterFilter]:
        """The filter, for each destination it may concern."""
        if which.destination is not None:
            names = {which.destination}
        elif which.ids is not None:
            letters = await self._page(which, 0, len(which.ids))
            names = {letter.destination for letter in letters}
        else:
            names = set(self._accounts)
        return [replace(which, destination=name) for name in sorted(names) if name in self._accounts]


def _matches(which: DeadLetterFilter, letter: StoredDeadLetter) -> bool:
    return which.reason in (None, letter.reason) and (which.since is None or letter.created_at >= which.since)


def _with_rule(seen: tuple[LetterRule, ...], rule: LetterRule, letters: int) -> Mutation:
    """Add a rule that takes so many *letters*, as long as the rules are those *seen* when they were counted.

    The reader's id, should there be none yet, is the revision the rule goes up to: nothing else has it.
    """

    def mutation(account: Account) -> Account:
        if rules_of(account) != seen:
            raise Moved
        reader = redrive_of(account)
        if reader is None:
            reader = ReaderRecord(rule.until, ReaderKind.REDRIVE, Mark(0, 0), total=0)
        # A rule that takes everything takes what earlier ones took.
        everything = rule.reason is None and rule.since is None and rule.revisions is None
        return account.with_reader(
            replace(
                reader,
                rules=(rule,) if everything else (*reader.rules, rule),
                left=reader.left + letters,
                total=(reader.total or 0) + letters,
            )
        )

    return mutation


async def with_lines(bucket: Bucket, letters: Sequence[StoredDeadLetter]) -> list[StoredDeadLetter]:
    """The same letters with their lines; those that are gone meanwhile are left out."""
    entries = await asyncio.gather(*[bucket.at(letter.id) for letter in letters])
    return [stored(entry) for entry in entries if entry is not None]
