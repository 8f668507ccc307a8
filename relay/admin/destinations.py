"""What the admin API says of destinations: state, books, and what is being sent beside the live events.

Pure but for what the queue has in memory: nothing here waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from relay.admin.control import ConfiguredDestination, RelayControl
from relay.admin.times import rfc3339, rfc3339_or_none
from relay.model import Books, DestinationState, HoldReason, ReaderKind, Replica, Sighting
from relay.observe.ledger import oldest_owed, state_of
from relay.observe.replicas import holder
from relay.queue.base import Queue, ReaderInfo

WebhookStatus = Literal["active", "inactive", "unconfigured"]


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
    state: DestinationState | None  # None: in no process's configuration, as far as is known here
    replica: str | None  # who delivers now; None while nobody does
    webhook_enabled: bool
    webhook_status: WebhookStatus  # inactive: held, paused, or its last attempt failed
    last_attempt_at: str | None  # since that replica started
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


def destination_statuses(control: RelayControl, now: float) -> tuple[DestinationStatus, ...]:
    """The configured destinations in their order, then those only the queue remembers.

    None in a process that does not see delivery: the books it would show are another process's to keep.
    """
    if not control.queue.sees_delivery:
        return ()
    replicas = control.replicas()
    configured = {destination.name: destination for destination in control.destinations()}
    names = dict.fromkeys((*configured, *control.queue.destinations()))
    return tuple(
        _destination_status(control.queue, name, configured.get(name), holder(replicas, name), now)
        for name in names
    )


def reader_statuses(infos: Sequence[ReaderInfo]) -> tuple[ReaderStatus, ...]:
    """The readers over a bounded range; the live ones are their destinations' own backlog."""
    return tuple(
        ReaderStatus(info.id, info.destination, info.kind, info.backlog, info.total, info.rate)
        for info in infos
        if info.kind is not ReaderKind.LIVE
    )


def _destination_status(
    queue: Queue, name: str, configured: ConfiguredDestination | None, replica: Replica | None, now: float
) -> DestinationStatus:
    known = name in queue.destinations()
    books = queue.books(name) if known else Books(0, 0, 0, 0, 0, 0, 0)
    readers = queue.readers(name) if known else ()
    hold = queue.hold(name) if known else None
    retry = readers[0].retry if readers else None
    oldest = oldest_owed(readers)
    state = state_of(hold, readers) if configured or replica else None
    seen = replica.destinations[name] if replica else Sighting()
    return DestinationStatus(
        name=name,
        type=configured.type if configured else None,
        state=state,
        replica=replica.id if replica else None,
        webhook_enabled=configured is not None and (hold is None or hold.reason is not HoldReason.OPERATOR),
        webhook_status=_destination_webhook(configured, state),
        last_attempt_at=rfc3339_or_none(seen.at),
        last_response_code=seen.code,
        last_response_message=seen.detail if seen.at is not None else None,
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


def _destination_webhook(
    configured: ConfiguredDestination | None, state: DestinationState | None
) -> WebhookStatus:
    if configured is None:
        return "unconfigured"
    return "active" if state is DestinationState.ACTIVE else "inactive"
