"""The figures that live in the queue, read when someone looks instead of counted twice.

Turns the queue's books into samples, so that `accepted = delivered + filtered + dead letters +
backlog` holds in the metrics after a restart too. Owns no state and never writes; the Protocols
say how little of the queue it needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from relay.model import (
    Backlog,
    Books,
    DestinationState,
    Format,
    Gap,
    Hold,
    HoldReason,
    ReaderKind,
    Reason,
    Replica,
    RetryState,
)
from relay.observe import catalog
from relay.observe.catalog import Family

KONNECT_RETENTION: Final = 7 * 86400.0  # seconds; docs/konnect.md section 5, "Retention"
RETENTION_SLACK: Final = 60.0
"""Seconds at its far end: clocks differ, a job starts a little later, and a window that begins too early is
refused as a whole."""
_RESTART: Final = 60.0
"""Seconds of down time that are the usual update: no deadline to page anyone for where nobody recovers it."""
_NOTHING_OWED: Final = Books(0, 0, 0, 0, 0, 0, 0)
_OWED: Final = (ReaderKind.LIVE, ReaderKind.BACKFILL)  # the readers that make up the backlog


class LedgerReader(Protocol):
    """What is read of a reader."""

    @property
    def kind(self) -> ReaderKind: ...
    @property
    def retry(self) -> RetryState: ...
    def backlog(self) -> Backlog: ...


class LedgerStats(Protocol):
    """What is read of the queue's own figures."""

    @property
    def bytes(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def disk_free_bytes(self) -> int | None: ...
    @property
    def batches(self) -> int: ...


class Ledger(Protocol):
    """What is read of the queue. `relay.queue.base.Queue` is one."""

    @property
    def sees_delivery(self) -> bool: ...
    def accepted(self) -> Mapping[tuple[str, Format], int]: ...
    def duplicates(self) -> Mapping[str, int]: ...
    def last_received(self) -> Mapping[str, float]: ...
    def destinations(self) -> Sequence[str]: ...
    def books(self, destination: str) -> Books: ...
    def readers(self, destination: str) -> Sequence[LedgerReader]: ...
    def hold(self, destination: str) -> Hold | None: ...
    def replicas(self) -> Sequence[Replica]: ...
    def stats(self) -> LedgerStats: ...
    async def gaps(self, *, include_closed: bool = False) -> Sequence[Gap]: ...
    async def flush(self) -> None: ...


class Sample(NamedTuple):
    """One series at one moment."""

    family: Family
    labels: tuple[str, ...]
    value: float


def samples(
    ledger: Ledger,
    gaps: Sequence[Gap],
    *,
    sources: Sequence[str],
    destinations: Sequence[str],
    recovered: Collection[str],
    now: float,
    started_at: float,
) -> Iterator[Sample]:
    """Everything the queue knows, for what is configured and for what it remembers beyond that.

    A destination taken out of the configuration keeps its backlog until someone forgets it, so it
    stays visible. A process that does not see another one settle says nothing of destinations. Gaps count as
    lost only for *recovered* sources, whose gaps the relay is to close. Never awaits: all samples are of one
    moment.
    """
    yield Sample(catalog.REPLICAS, (), len(ledger.replicas()))
    yield from _of_queue(ledger.stats())
    yield from _of_sources(ledger, gaps, sources, recovered, now, started_at)
    if not ledger.sees_delivery:
        return
    known = ledger.destinations()
    for name in destinations:
        yield from _state_of(ledger, name, attached=name in known)
    for name in dict.fromkeys((*destinations, *known)):
        yield from _of_destination(ledger, name, now, attached=name in known)


def _of_queue(stats: LedgerStats) -> Iterator[Sample]:
    yield Sample(catalog.QUEUE_BYTES, (), stats.bytes)
    yield Sample(catalog.QUEUE_MAX_BYTES, (), stats.max_bytes)
    if stats.disk_free_bytes is not None:
        yield Sample(catalog.QUEUE_DISK_FREE, (), stats.disk_free_bytes)
    yield Sample(catalog.QUEUE_BATCHES, (), stats.batches)


def _of_sources(
    ledger: Ledger,
    gaps: Sequence[Gap],
    configured: Sequence[str],
    recovered: Collection[str],
    now: float,
    started_at: float,
) -> Iterator[Sample]:
    accepted, duplicates, last = ledger.accepted(), ledger.duplicates(), ledger.last_received()
    for source in dict.fromkeys((*configured, *(name for name, _ in accepted))):
        for form in Format:
            yield Sample(catalog.INGEST_EVENTS, (source, form), accepted.get((source, form), 0))
        yield Sample(catalog.INGEST_DUPLICATES, (source,), duplicates.get(source, 0))
        # The wall clock may have been set back since the event came; an age is never negative.
        yield Sample(catalog.SOURCE_AGE, (source,), max(0.0, now - last.get(source, started_at)))
        ours = source in recovered
        opened = [gap for gap in gaps if gap.source == source and gap.closed_at is None]
        starts = [gap.start for gap in opened if ours or not _is_restart(gap)]
        left = min(starts, default=now) + KONNECT_RETENTION - now
        yield Sample(catalog.GAPS_OPEN, (source,), len(opened))
        yield Sample(catalog.GAP_DEADLINE, (source,), max(0.0, left))
        lost = sum(gap.source == source and gap.lost_until is not None for gap in gaps)
        yield Sample(catalog.GAPS_LOST, (source,), lost if ours else 0)


def _is_restart(gap: Gap) -> bool:
    return gap.cause == "downtime" and gap.end - gap.start <= _RESTART


def _state_of(ledger: Ledger, name: str, *, attached: bool) -> Iterator[Sample]:
    state = DestinationState.ACTIVE
    if attached:
        state = state_of(ledger.hold(name), ledger.readers(name))
    for each in DestinationState:
        yield Sample(catalog.STATE, (name, each), each is state)


def _of_destination(ledger: Ledger, name: str, now: float, *, attached: bool) -> Iterator[Sample]:
    books = ledger.books(name) if attached else _NOTHING_OWED
    oldest = oldest_owed(ledger.readers(name)) if attached else None
    of = (name,)
    yield Sample(catalog.OWED, of, books.owed)
    yield Sample(catalog.DELIVERED, of, books.delivered)
    yield Sample(catalog.FILTERED, of, books.filtered)
    yield Sample(catalog.DISCARDED, of, books.discarded)
    yield Sample(catalog.REPLAYED, of, books.replayed)
    yield Sample(catalog.DEAD_LETTERS, of, books.dead - books.discarded)
    for reason in Reason:
        yield Sample(catalog.DEAD_LETTERED, (name, reason), books.dead_by_reason.get(reason, 0))
    yield Sample(catalog.BACKLOG, of, max(0, books.backlog))
    yield Sample(catalog.OLDEST_AGE, of, 0.0 if oldest is None else max(0.0, now - oldest))


def state_of(hold: Hold | None, readers: Sequence[LedgerReader]) -> DestinationState:
    """What a destination is doing.

    Follows from what is stored, so that every replica says the same, whoever delivers.
    """
    if hold is not None:
        paused = hold.reason is HoldReason.OPERATOR
        return DestinationState.PAUSED if paused else DestinationState.HELD
    retrying = any(reader.retry.attempts for reader in readers)
    return DestinationState.RETRYING if retrying else DestinationState.ACTIVE


def oldest_owed(readers: Sequence[LedgerReader]) -> float | None:
    """Arrival of the oldest event a destination still owes, seconds since the epoch; None if none."""
    times = [reader.backlog().oldest_received_at for reader in readers if reader.kind in _OWED]
    return min((time for time in times if time is not None), default=None)
