"""Sending dead letters again: the reader over those a destination's redrive rules take.

A delivered letter is deleted, a refused one stored anew with the new answer; books and letters change in
one commit, at once, which also proves that the lease is still ours. Never decides which letters are taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from relay import gzipped
from relay.batch import StoredBatch
from relay.clock import Clock
from relay.errors import QueueError
from relay.model import Backlog, DeadLetter, Position, ReaderKind, RetryState, Settlement
from relay.queue.base import Reader, StoredDeadLetter
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.bucket import Bucket, Change
from relay.queue.jetstream.deadletters import MOST_LETTERS, Moved, few, search, with_lines
from relay.queue.jetstream.letters import change_of, counted, key_of, marked
from relay.queue.jetstream.record import Account, LeaseLost, LetterRule, ReaderRecord

STORE_AGAIN: Final = 1.0  # seconds between attempts to store what became of letters while NATS refuses
_READ_BYTES: Final = 1 << 20
_READ_LETTERS: Final = 1_000


@dataclass(slots=True)
class _Fates:
    """What became of some letters, and of how many events in them; one commit."""

    letters: list[StoredDeadLetter]
    refused: dict[int, DeadLetter]  # by the id of the letter
    filtered: int
    delivered_bytes: int
    stored: bool = False

    @property
    def gone(self) -> int:
        return sum([letter.id not in self.refused for letter in self.letters])

    def keep(self, present: Collection[int]) -> None:
        """Others were deleted by hand or settled before: nothing is booked for them."""
        for letter in [letter for letter in self.letters if letter.id not in present]:
            self.letters.remove(letter)
            if letter.event is not None and letter.id not in self.refused:
                self.delivered_bytes = max(0, self.delivered_bytes - len(letter.event.line) - 1)

    def apply(self, account: Account, reader: ReaderRecord) -> Account:
        filtered = min(self.filtered, self.gone)
        return replace(
            account.with_reader(replace(reader, left=reader.left - len(self.letters))),
            dead=account.dead - self.gone,
            delivered=account.delivered + self.gone - filtered,
            delivered_bytes=account.delivered_bytes + self.delivered_bytes,
            filtered=account.filtered + filtered,
        )

    def changes(self, now: float) -> list[Change]:
        return [self._change(letter, now) for letter in self.letters]

    def _change(self, letter: StoredDeadLetter, now: float) -> Change:
        refusal = self.refused.get(letter.id)
        if refusal is None:
            return Change(key_of(letter), None, letter.id)
        response = replace(refusal.response, attempt=letter.attempts + refusal.response.attempt)
        number = letter.position.sequence
        change = change_of(letter.destination, replace(refusal, response=response), number, now)
        return replace(change, revision=letter.id)


class RedriveReader:
    """Gives out marked letters, oldest first, each as a batch of one. See `relay.queue.base.Reader`.

    *check* raises `LeaseLost` unless an account says that this replica has its lease.
    """

    kind = ReaderKind.REDRIVE
    rate: float | None = None

    def __init__(
        self,
        name: str,
        record: ReaderRecord,
        *,
        bucket: Bucket,
        accounts: Accounts,
        check: Callable[[Account], None],
        clock: Clock,
        remove: Callable[[Reader], Awaitable[None]],
    ) -> None:
        self.id = record.id
        self.retry = record.retry
        self._name = name
        self._record = record
        self._bucket = bucket
        self._accounts = accounts
        self._check = check
        self._clock = clock
        self._remove = remove
        self._next = 1  # the least id a letter that was not read yet may have
        self._in_flight: dict[int, StoredDeadLetter] = {}  # read and not settled

    def __repr__(self) -> str:
        return f"<RedriveReader {self._name} {self._record.left} left>"

    def follow(self, record: ReaderRecord) -> None:
        """The account changed."""
        if record.rules != self._record.rules:
            self._next = 1  # a new rule may take letters that were passed over
        self.retry = record.retry
        self._record = record

    # -- where it stands ---------------------------------------------------------------------

    @property
    def total(self) -> int | None:
        return self._record.total

    @property
    def watermark(self) -> Position:
        return Position(0)

    @property
    def finished(self) -> bool:
        return self._record.left <= 0

    def backlog(self) -> Backlog:
        return Backlog(max(0, self._record.left), None)

    def unread(self) -> bool:
        return self._record.left > len(self._in_flight)

    # -- reading -----------------------------------------------------------------------------

    async def read(self, max_events: int) -> Sequence[tuple[StoredBatch, int]]:
        rules = self._record.rules
        found: list[StoredDeadLetter] = []
        more = True
        while more and not found:
            found, more = await self._marked(rules, min(max_events, _READ_LETTERS))
        if not found:
            await self._correct(rules)
        self._in_flight |= {letter.id: letter for letter in found}
        return [(_batch(letter), 0) for letter in found]

    async def _marked(self, rules: tuple[LetterRule, ...], most: int) -> tuple[list[StoredDeadLetter], bool]:
        """The next letters the *rules* take, and whether more may follow."""
        # Where rules pass over letters, only the lines of those they take are read.
        narrow = any(rule.reason is not None or rule.since is not None for rule in rules)
        ids = [number for rule in rules for number in rule.revisions or ()]
        listed = all(rule.revisions is not None for rule in rules)
        letters = search(
            self._bucket, self._name, start=self._next, ids=ids if listed else None, lines=not narrow
        )
        found: list[StoredDeadLetter] = []
        following = self._next
        size = 0
        async with aclosing(letters):
            async for letter in letters:
                following = letter.id + 1
                if letter.id in self._in_flight or not self._takes(rules, letter):
                    continue
                found.append(letter)
                size += len(letter.event.line) if letter.event else 0
                if len(found) >= most or size >= _READ_BYTES:
                    break
        if narrow:
            found, page = await with_lines(self._bucket, found), found
        else:
            page = found
        # With other rules by now, what was passed over may be taken: it is read from the start again.
        if self._record.rules == rules:
            self._next = following
        return found, len(page) >= most or size >= _READ_BYTES

    def _takes(self, rules: tuple[LetterRule, ...], letter: StoredDeadLetter) -> bool:
        return marked(rules, letter) and counted(self._accounts[self._name], letter)

    async def _correct(self, rules: tuple[LetterRule, ...]) -> None:
        """Nothing else is there, whatever was counted: somebody deleted letters by hand."""

        def mutation(account: Account) -> Account:
            self._check(account)
            reader = account.reader(self.id)
            if reader is None or reader.rules != rules:
                return account
            return account.with_reader(replace(reader, left=len(self._in_flight)))

        await self._accounts.update(self._name, mutation)

    def rewind(self) -> None:
        self._in_flight.clear()
        self._next = 1

    # -- settling ----------------------------------------------------------------------------

    async def settle(self, settlement: Settlement) -> None:
        """Delete what was delivered or is filtered by now, keep what was refused again. At once.

        Raises `LeaseLost`; tries again while NATS refuses.
        """
        first, last = settlement.start.sequence, settlement.end.sequence
        if settlement.end.offset == 0:
            last -= 1
        # Never the whole range: letters in between may have been marked after this chunk was read.
        letters = [letter for number, letter in self._in_flight.items() if first <= number <= last]
        refused = {letter.position.sequence: letter for letter in settlement.dead}
        filtered, nbytes = settlement.filtered, settlement.delivered_bytes
        for at in range(0, len(letters), MOST_LETTERS):
            fates = _Fates(letters[at : at + MOST_LETTERS], refused, filtered, nbytes)
            filtered, nbytes = max(0, filtered - fates.gone), 0
            await self._store(fates)
        for letter in letters:
            self._in_flight.pop(letter.id, None)

    async def _store(self, fates: _Fates) -> None:
        # Never send again what was delivered because NATS was away.
        while fates.letters and not fates.stored:
            try:
                await self._commit(fates)
            except LeaseLost:
                raise
            except QueueError:
                await self._clock.sleep(STORE_AGAIN)
                # Cut off from NATS, this is all there is to tell that the lease ran out.
                self._check(self._accounts[self._name])

    async def _commit(self, fates: _Fates) -> None:
        def mutation(account: Account) -> Account:
            self._check(account)
            reader = account.reader(self.id)
            if reader is None:
                raise LeaseLost(f"a redrive to {self._name} was ended by another replica")
            # It turned out by now that the last attempt was stored, although nobody said so then.
            return account if fates.stored else fates.apply(account, reader)

        def letters() -> Sequence[Change]:
            return () if fates.stored else fates.changes(self._clock.now())

        def done() -> None:
            fates.stored = True

        try:
            await self._accounts.update(self._name, few(mutation), letters=letters, done=done)
        except Moved:
            present = await asyncio.gather(*[self._bucket.at(letter.id) for letter in fates.letters])
            fates.keep({entry.revision for entry in present if entry is not None})

    async def retry_later(self, state: RetryState) -> None:
        def mutation(account: Account) -> Account:
            self._check(account)
            reader = account.reader(self.id)
            return account if reader is None else account.with_reader(replace(reader, retry=state))

        self.retry = state
        await self._accounts.update(self._name, mutation)

    async def finish(self) -> None:
        await self._remove(self)


def _batch(letter: StoredDeadLetter) -> StoredBatch:
    event = letter.event
    assert event is not None  # noqa: S101 - rules take no ranges
    body = event.line + b"\n"
    return StoredBatch(
        sequence=letter.id,
        source=event.source,
        received_at=event.received_at,
        count=1,
        payload=gzipped.compress(body),
        body=body,
        ids=[event.id],
    )
