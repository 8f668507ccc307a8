"""What the log adds up to: the number of the next event, and the totals of what was accepted.

A pure fold over the log's headers in order, so every replica comes to the same figures. A snapshot in the
state bucket saves a new replica the way from the beginning, and survives what is purged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pydantic import TypeAdapter, ValidationError

from relay.errors import QueueError
from relay.model import Format
from relay.queue.jetstream.message import Meta
from relay.queue.jetstream.record import Mark

KEY: Final = "ledger"
VERSION: Final = 1


@dataclass(slots=True)
class SourceTotals:
    """One source's part of the books."""

    accepted: dict[Format, int] = field(default_factory=dict)
    duplicates: int = 0
    last_received: float = 0.0  # seconds since the epoch; 0: it sent nothing yet; pulls do not count
    newest: int = 0  # milliseconds; the newest believable event time


@dataclass(slots=True)
class Ledger:
    """Everything up to message *seq*."""

    seq: int = 0
    number: int = 1  # of the next event
    first: Mark = Mark(1, 1)  # noqa: RUF009 - frozen; where what is retained begins
    sources: dict[str, SourceTotals] = field(default_factory=dict)
    v: int = VERSION

    def fold(self, meta: Meta) -> int:
        """Take in the next message; the number of its first event."""
        number = self.number
        self.seq = meta.seq
        self.number = meta.after(number)
        if not meta.count and not meta.duplicates:
            return number
        totals = self.sources.get(meta.source)
        if totals is None:
            totals = self.sources[meta.source] = SourceTotals()
        for name, events in meta.formats:
            totals.accepted[name] = totals.accepted.get(name, 0) + events
        totals.duplicates += meta.duplicates
        if meta.formats and not meta.pulled:
            totals.last_received = max(totals.last_received, meta.received_at)
        totals.newest = max(totals.newest, meta.newest)
        return number


_LEDGER: Final = TypeAdapter(Ledger)


def dump(ledger: Ledger) -> bytes:
    return _LEDGER.dump_json(ledger)


def load(data: bytes) -> Ledger:
    """Raises `QueueError`."""
    try:
        ledger = _LEDGER.validate_json(data)
    except ValidationError as error:
        raise QueueError("the ledger in the state bucket cannot be read") from error
    if ledger.v > VERSION:
        raise QueueError(f"the ledger was written by a newer relay (version {ledger.v})")
    return ledger
