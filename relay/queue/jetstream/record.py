"""The account of one destination as it is stored: books, readers, hold and lease in one record.

Values and their form as JSON, nothing else. One record, so that one conditional write moves a watermark
and the books together and proves that the writer still has the lease.

A relay of a later version may add fields with defaults, which an earlier one drops when it writes; where
that would do harm it raises `VERSION`, and earlier ones then leave the record alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import TypeAdapter, ValidationError

from relay.errors import QueueError
from relay.model import Hold, ReaderKind, Reason, RetryState

VERSION: Final = 1


class LeaseLost(QueueError):
    """Another replica may deliver to this destination by now; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the log: event *offset* of message *seq*, which is event *number* of all."""

    seq: int
    number: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class LetterRule:
    """Which of a destination's dead letters a redrive takes: those stored up to revision *until*."""

    until: int
    reason: Reason | None = None
    since: float | None = None
    revisions: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReaderRecord:
    """A reader. Its id is the revision of the record it was made from, so it is unique in the cluster."""

    id: int
    kind: ReaderKind
    mark: Mark
    stop: Mark | None = None  # exclusive; None: it follows the log
    total: int | None = None
    rate: float | None = None
    retry: RetryState = field(default_factory=RetryState)
    rules: tuple[LetterRule, ...] = ()  # of a redrive
    left: int = 0  # dead letters a redrive still has before it


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """Who delivers."""

    replica: str
    epoch: int  # grows with every change of hands


@dataclass(frozen=True, slots=True)
class Account:
    """Everything stored of one destination."""

    name: str
    start: int  # number of the first event it is owed
    readers: tuple[ReaderRecord, ...]  # the live one first
    backfilled: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    filtered: int = 0
    dead: int = 0
    discarded: int = 0
    replayed: int = 0
    dead_by_reason: dict[Reason, int] = field(default_factory=dict)
    hold: Hold | None = None
    lease: LeaseRecord | None = None
    epoch: int = 0  # of the last lease
    ahead: int = 0  # dead letters stored after this revision may not be counted yet; 0: all are
    # The number of the last change each replica made: tells a writer whose acknowledgement got lost
    # whether its change was stored.
    changes: dict[str, int] = field(default_factory=dict)
    v: int = VERSION

    def reader(self, number: int) -> ReaderRecord | None:
        for each in self.readers:
            if each.id == number:
                return each
        return None

    def with_reader(self, changed: ReaderRecord) -> Account:
        """The reader with this id replaced, or added behind the others."""
        readers = tuple(changed if each.id == changed.id else each for each in self.readers)
        if self.reader(changed.id) is None:
            readers = (*readers, changed)
        return replace(self, readers=readers)

    def without_reader(self, number: int) -> Account:
        return replace(self, readers=tuple(each for each in self.readers if each.id != number))


_ACCOUNT: Final = TypeAdapter(Account)


def dump(account: Account) -> bytes:
    return _ACCOUNT.dump_json(account)


def load(data: bytes) -> Account:
    """Raises `QueueError`."""
    try:
        account = _ACCOUNT.validate_json(data)
    except ValidationError as error:
        raise QueueError("an account in the state bucket cannot be read") from error
    if account.v > VERSION:
        raise QueueError(f"the account of {account.name} was written by a newer relay (version {account.v})")
    return account
