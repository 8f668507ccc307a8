"""What a replica that delivers to a destination has counted and not stored yet.

Counts are differences, so that others may change the account meanwhile; watermarks and dead letters go with
them in one commit, which proves that the lease is still ours. Owns these differences, not the readers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from relay.model import Hold, HoldReason, Reason, RetryState
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.bucket import Change
from relay.queue.jetstream.letters import joined
from relay.queue.jetstream.record import Account, LeaseLost, Mark
from relay.queue.ranges import Tally

_LETTERS_A_COMMIT: Final = 500  # the server takes 1,000 messages in a batch


@dataclass(slots=True)
class _Counts:
    """Differences to the stored account."""

    delivered: int = 0
    delivered_bytes: int = 0
    filtered: int = 0
    replayed: int = 0
    dead: Counter[Reason] = field(default_factory=Counter)

    def __sub__(self, other: _Counts) -> _Counts:
        return _Counts(
            self.delivered - other.delivered,
            self.delivered_bytes - other.delivered_bytes,
            self.filtered - other.filtered,
            self.replayed - other.replayed,
            self.dead - other.dead,
        )


@dataclass(frozen=True, slots=True)
class _Taken:
    """What one commit stores."""

    counts: _Counts
    letters: tuple[Change, ...]
    places: dict[int, tuple[Mark, RetryState]]
    hold: tuple[Hold | None, Hold | None] | None


class Holding:
    """The books of one destination between two commits. *fence* raises `LeaseLost`."""

    def __init__(
        self,
        name: str,
        accounts: Accounts,
        *,
        fence: Callable[[Account], None],
        stored: Callable[[int, Mark], Awaitable[None]],
    ) -> None:
        self._name = name
        self._accounts = accounts
        self._fence = fence
        self._stored = stored  # called for each reader with the watermark that is stored now
        self._confirmed: dict[int, Mark] = {}
        self.drop()

    def drop(self) -> None:
        """Forget everything: another replica does it again."""
        self._counts = _Counts()
        self._range: tuple[Change, int] | None = None  # the last one stored, and what was discarded then
        self._letters: list[Change] = []
        self._places: dict[int, tuple[Mark, RetryState]] = {}
        self._hold: tuple[Hold | None, Hold | None] | None = None  # before and after

    def book(self, tally: Tally, letters: Sequence[Change]) -> None:
        """A range of events that were owed is settled."""
        counts = self._counts
        counts.delivered += tally.delivered
        counts.delivered_bytes += tally.delivered_bytes
        counts.filtered += tally.filtered
        counts.dead.update([letter.reason for letter in tally.dead])
        counts.dead[Reason.CORRUPT] += tally.lost
        self._letters += letters

    def book_replayed(self, delivered: int) -> None:
        self._counts.replayed += delivered

    def expired(self, events: int, letter: Change) -> None:
        """Events were given up to make room."""
        self._counts.dead[Reason.EXPIRED] += events
        discarded = self._accounts[self._name].discarded
        if self._range is not None and self._range[1] != discarded:
            self._range = None  # it may be among what an operator discarded
        found = joined(self._range[0] if self._range else None, [letter])
        self._range = (found[-1], discarded)
        self._letters += found

    def place(self, reader: int, mark: Mark, retry: RetryState) -> None:
        """Where a reader stands now."""
        self._places[reader] = (mark, retry)

    @property
    def hold(self) -> Hold | None:
        """The hold in force: what was set here last, or what is stored."""
        return self._accounts[self._name].hold if self._hold is None else self._hold[1]

    @hold.setter
    def hold(self, hold: Hold | None) -> None:
        before = self._accounts[self._name].hold if self._hold is None else self._hold[0]
        self._hold = (before, hold)

    def account(self) -> Account:
        """The account with what is not stored yet."""
        return _apply(self._accounts[self._name], self._take())

    async def store(self) -> None:
        """Store everything. Raises `LeaseLost` and forgets it all, or `QueueError` and keeps it."""
        taken: _Taken | None = None

        def mutation(account: Account) -> Account:
            nonlocal taken
            self._fence(account)
            taken = self._take()
            return _apply(account, taken)

        some: tuple[Change, ...] = ()

        def ahead(account: Account) -> Account:
            nonlocal some
            self._fence(account)
            some = tuple(self._letters[:_LETTERS_A_COMMIT])
            return replace(account, ahead=account.ahead or self._accounts.revision(self._name))

        def stored_ahead() -> None:
            del self._letters[: len(some)]

        def letters() -> Sequence[Change]:
            return taken.letters if taken else ()

        def done() -> None:
            if taken is not None:
                self._subtract(taken)

        try:
            while len(self._letters) > _LETTERS_A_COMMIT:
                # More than one commit can hold: these are stored first and counted with the last ones. Were
                # we to die in between, whoever takes over deletes them again (`letters.clean`).
                await self._accounts.update(self._name, ahead, letters=lambda: some, done=stored_ahead)
            await self._accounts.update(self._name, mutation, letters=letters, done=done)
        except LeaseLost:
            self.drop()
            raise
        confirmed, self._confirmed = self._confirmed, {}
        for reader, mark in confirmed.items():
            await self._stored(reader, mark)

    def _take(self) -> _Taken:
        counts = replace(self._counts, dead=self._counts.dead.copy())
        return _Taken(counts, tuple(self._letters), dict(self._places), self._hold)

    def _subtract(self, taken: _Taken) -> None:
        self._counts = self._counts - taken.counts
        del self._letters[: len(taken.letters)]
        for reader, place in taken.places.items():
            if self._places.get(reader) == place:
                del self._places[reader]
            self._confirmed[reader] = place[0]
        if self._hold == taken.hold:
            self._hold = None


def _apply(account: Account, taken: _Taken) -> Account:
    counts = taken.counts
    by_reason = dict(account.dead_by_reason)
    for reason, events in counts.dead.items():
        if events:
            by_reason[reason] = by_reason.get(reason, 0) + events
    readers = []
    for reader in account.readers:
        if (place := taken.places.get(reader.id)) is not None:
            reader = replace(reader, mark=place[0], retry=place[1])
        readers.append(reader)
    return replace(
        account,
        delivered=account.delivered + counts.delivered,
        delivered_bytes=account.delivered_bytes + counts.delivered_bytes,
        filtered=account.filtered + counts.filtered,
        replayed=account.replayed + counts.replayed,
        dead=account.dead + counts.dead.total(),
        dead_by_reason=by_reason,
        readers=tuple(readers),
        hold=_held(account.hold, taken.hold),
        ahead=0,
    )


def _held(stored: Hold | None, change: tuple[Hold | None, Hold | None] | None) -> Hold | None:
    if change is None:
        return stored
    before, after = change
    # An operator's word, given to another replica meanwhile, stands against what this one concluded itself.
    overruled = stored != before and (after is None or after.reason is not HoldReason.OPERATOR)
    return stored if overruled else after
