"""What `/api/v1/status` and `konnect-relay status` say: one document, made of values only.

Joins what the process has seen lately with what the queue knows for good. Holds no event content
and no secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from relay import __version__
from relay.admin.control import DestinationLive, RelayControl, SourceLive
from relay.admin.times import rfc3339, rfc3339_or_none
from relay.model import Books, DestinationState, Format, Gap, HoldReason, ReaderKind
from relay.observe.ledger import oldest_owed
from relay.queue.base import Queue, ReaderInfo

WebhookStatus = Literal["active", "inactive", "unconfigured"]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source. The first four after `path` are named as Konnect names them for a webhook."""

    name: str
    path: str | None  # None: in the books, no longer in the configuration
    webhook_enabled: bool
    webhook_status: WebhookStatus  # inactive: we refused its last request
    last_attempt_at: str | None  # since the relay started
    last_response_code: int | None
    last_event_at: str | None
    accepted: int
    duplicates: int
    open_gaps: int


@dataclass(frozen=True, slots=True)
class HoldStatus:
    """An open circuit."""

    reason: HoldReason
    since: str
    detail: str


@dataclass(frozen=True, slots=True)
class ReaderStatus:
    """A range being sent beside the live events: a replay, a redrive or a back-fill."""

    id: int
    destination: str
    kind: ReaderKind
    backlog: int
    total: int | None
    rate: float | None  # events per second at most


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """A destination: `owed = delivered + filtered + dead_letters + discarded + backlog`."""

    name: str
    type: str | None  # None: the queue still owes it events, but it is not in the configuration
    state: DestinationState | None
    webhook_enabled: bool
    webhook_status: WebhookStatus  # inactive: held, paused, or its last attempt failed
    last_attempt_at: str | None  # since the relay started
    last_response_code: int | None
    last_response_message: str | None
    hold: HoldStatus | None
    failed_attempts: int  # at the events that are next in line
    next_attempt_at: str | None  # set while a retry is due
    backlog: int
    oldest_event_at: str | None  # arrival of the oldest event in the backlog
    oldest_event_age_seconds: float
    owed: int
    delivered: int
    filtered: int
    dead_letters: int
    discarded: int
    replayed: int
    readers: tuple[ReaderStatus, ...]


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The queue's own figures."""

    accepting: bool
    bytes: int
    max_bytes: int
    disk_free_bytes: int
    batches: int
    events: int
    oldest_event_at: str | None
    corrupt_batches: int
    quarantined_bodies: int


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """Everything at one moment."""

    version: str
    role: str
    started_at: str
    time: str
    queue: QueueStatus
    sources: tuple[SourceStatus, ...]
    destinations: tuple[DestinationStatus, ...]
    open_gaps: int


async def relay_status(control: RelayControl, now: float) -> RelayStatus:
    """The whole document. Raises `QueueError` when the queue cannot be read."""
    gaps = await control.queue.gaps()
    return RelayStatus(
        version=__version__,
        role=control.role,
        started_at=rfc3339(control.started_at),
        time=rfc3339(now),
        queue=_queue_status(control.queue),
        sources=_source_statuses(control, gaps),
        destinations=destination_statuses(control, now),
        open_gaps=len(gaps),
    )


def destination_statuses(control: RelayControl, now: float) -> tuple[DestinationStatus, ...]:
    """The configured destinations in their order, then those only the queue remembers.

    None in a process that only accepts: the books it would show are another process's to keep.
    """
    if control.role == "ingest":
        return ()
    live = {destination.name: destination for destination in control.destinations()}
    names = dict.fromkeys((*live, *control.queue.destinations()))
    return tuple(_destination_status(control.queue, name, live.get(name), now) for name in names)


def reader_statuses(infos: Sequence[ReaderInfo]) -> tuple[ReaderStatus, ...]:
    """The readers over a bounded range; the live ones are their destinations' own backlog."""
    return tuple(
        ReaderStatus(info.id, info.destination, info.kind, info.backlog, info.total, info.rate)
        for info in infos
        if info.kind is not ReaderKind.LIVE
    )


def _queue_status(queue: Queue) -> QueueStatus:
    stats = queue.stats()
    return QueueStatus(
        accepting=stats.accepting,
        bytes=stats.bytes,
        max_bytes=stats.max_bytes,
        disk_free_bytes=stats.disk_free_bytes,
        batches=stats.batches,
        events=stats.events,
        oldest_event_at=rfc3339_or_none(stats.oldest_received_at),
        corrupt_batches=stats.corrupt_batches,
        quarantined_bodies=stats.quarantined_bodies,
    )


def _source_statuses(control: RelayControl, gaps: Sequence[Gap]) -> tuple[SourceStatus, ...]:
    queue = control.queue
    accepted, duplicates, last = queue.accepted(), queue.duplicates(), queue.last_received()
    live = {source.name: source for source in control.sources()}
    return tuple(
        SourceStatus(
            name=name,
            path=seen.path if seen else None,
            webhook_enabled=seen is not None,
            webhook_status=_source_webhook(seen),
            last_attempt_at=rfc3339_or_none(seen.last_attempt_at if seen else None),
            last_response_code=seen.last_response_code if seen else None,
            last_event_at=rfc3339_or_none(last.get(name)),
            accepted=sum(accepted.get((name, form), 0) for form in Format),
            duplicates=duplicates.get(name, 0),
            open_gaps=sum(gap.source == name for gap in gaps),
        )
        for name in dict.fromkeys((*live, *(source for source, _ in accepted)))
        for seen in (live.get(name),)
    )


def _source_webhook(seen: SourceLive | None) -> WebhookStatus:
    if seen is None:
        return "unconfigured"
    code = seen.last_response_code
    return "active" if code is None or 200 <= code < 300 else "inactive"


def _destination_status(
    queue: Queue, name: str, seen: DestinationLive | None, now: float
) -> DestinationStatus:
    known = name in queue.destinations()
    books = queue.books(name) if known else Books(0, 0, 0, 0, 0, 0, 0)
    readers = queue.readers(name) if known else ()
    hold = queue.hold(name) if known else None
    retry = readers[0].retry if readers else None
    oldest = oldest_owed(readers)
    state = seen.state if seen else None
    response = seen.last_response if seen else None
    return DestinationStatus(
        name=name,
        type=seen.type if seen else None,
        state=state,
        webhook_enabled=seen is not None and (hold is None or hold.reason is not HoldReason.OPERATOR),
        webhook_status=_destination_webhook(seen, held=hold is not None),
        last_attempt_at=rfc3339_or_none(seen.last_attempt_at if seen else None),
        last_response_code=response.status if response else None,
        last_response_message=response.detail if response else None,
        hold=HoldStatus(hold.reason, rfc3339(hold.since), hold.detail) if hold else None,
        failed_attempts=retry.attempts if retry else 0,
        next_attempt_at=rfc3339(retry.next_at)
        if retry and retry.attempts and state is DestinationState.RETRYING
        else None,
        backlog=books.backlog,
        oldest_event_at=rfc3339_or_none(oldest),
        oldest_event_age_seconds=0.0 if oldest is None else max(0.0, now - oldest),
        owed=books.owed,
        delivered=books.delivered,
        filtered=books.filtered,
        dead_letters=books.dead - books.discarded,
        discarded=books.discarded,
        replayed=books.replayed,
        readers=reader_statuses([info for info in queue.reader_infos() if info.destination == name]),
    )


def _destination_webhook(seen: DestinationLive | None, *, held: bool) -> WebhookStatus:
    if seen is None:
        return "unconfigured"
    return "inactive" if held or seen.state not in (DestinationState.ACTIVE, None) else "active"
