"""What `/api/v1/status` and `konnect-relay status` say: one document, made of values only.

Joins what the relay's processes have seen lately with what the queue knows for good, so that every one of
them answers alike. Holds no event content and no secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from relay.admin.control import ConfiguredDestination, ConfiguredSource, RelayControl
from relay.admin.gaps import GapStatus, gap_statuses
from relay.admin.times import rfc3339, rfc3339_or_none
from relay.konnect.signatures import SignatureResult
from relay.model import (
    Books,
    DestinationState,
    Format,
    Gap,
    HoldReason,
    ReaderKind,
    Replica,
    Sighting,
)
from relay.observe.ledger import oldest_owed, state_of
from relay.observe.replicas import holder, last_seen
from relay.queue.base import Queue, ReaderInfo
from relay.signing.desk import SourceSignatures

WebhookStatus = Literal["active", "inactive", "unconfigured"]


@dataclass(frozen=True, slots=True)
class SignatureStatus:
    """What the process that answers found of a source's signatures since it started."""

    mode: Literal["tag", "quarantine"]
    verified: int
    failed: int
    absent: int
    no_key: int
    malformed: int
    rules: dict[str, str]  # by format: the rule by which the last one verified
    keys: int
    retired_keys: int
    keys_read_at: str | None  # None: pinned, or never
    keys_trouble: str | None  # why they could not be read the last time


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source. The first four after `path` are named as Konnect names them for a webhook."""

    name: str
    path: str | None  # None: in the books, no longer in the configuration
    webhook_enabled: bool
    webhook_status: WebhookStatus  # inactive: we refused its last request
    last_attempt_at: str | None  # at any replica, since that started
    last_response_code: int | None
    last_event_at: str | None
    accepted: int
    duplicates: int
    open_gaps: int
    lost_gaps: int  # closed ones of which Konnect had deleted something, where the relay was to fetch it
    signatures: SignatureStatus | None  # None: not checked, or not by the process that answers


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


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The queue's own figures."""

    accepting: bool
    trouble: str | None  # why nothing is accepted, where that is not for lack of room; as /readyz says it
    bytes: int
    max_bytes: int
    disk_free_bytes: int | None  # None where the queue lies on other machines
    batches: int
    events: int
    oldest_event_at: str | None
    corrupt_batches: int
    quarantined_bodies: int


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A process at work on the queue."""

    id: str
    version: str
    role: str
    started_at: str
    configuration: str  # a hash of what has to be alike in all replicas
    same_configuration: bool  # as the process that answers


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """Everything at one moment. The first three are those of the process that answers."""

    version: str
    role: str
    started_at: str
    time: str
    replicas: tuple[ReplicaStatus, ...]  # the one that answers first
    queue: QueueStatus
    sources: tuple[SourceStatus, ...]
    destinations: tuple[DestinationStatus, ...]
    open_gaps: int
    gaps: tuple[GapStatus, ...]  # the open ones
    recovery: str | None  # what the replica that recovers does; None: none of them does


async def relay_status(control: RelayControl, now: float, trouble: str | None) -> RelayStatus:
    """The whole document. Raises `QueueError` when the queue cannot be read.

    *trouble* tells why the queue cannot commit.
    """
    known = await control.queue.gaps(include_closed=True)
    gaps = [gap for gap in known if gap.closed_at is None]
    replicas = control.replicas()
    own = replicas[0]
    return RelayStatus(
        version=own.version,
        role=own.role,
        started_at=rfc3339(own.started_at),
        time=rfc3339(now),
        replicas=tuple(_replica_status(each, own) for each in replicas),
        queue=_queue_status(control.queue, trouble),
        sources=_source_statuses(control, replicas, known),
        destinations=destination_statuses(control, now),
        open_gaps=len(gaps),
        gaps=gap_statuses(gaps, control.konnect(), replicas, now),
        recovery=next((it.recovering.detail for it in replicas if it.recovering is not None), None),
    )


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


def _replica_status(replica: Replica, own: Replica) -> ReplicaStatus:
    return ReplicaStatus(
        id=replica.id,
        version=replica.version,
        role=replica.role,
        started_at=rfc3339(replica.started_at),
        configuration=replica.configuration,
        same_configuration=replica.configuration == own.configuration,
    )


def _queue_status(queue: Queue, trouble: str | None) -> QueueStatus:
    stats = queue.stats()
    return QueueStatus(
        accepting=stats.accepting and trouble is None,
        trouble=trouble,
        bytes=stats.bytes,
        max_bytes=stats.max_bytes,
        disk_free_bytes=stats.disk_free_bytes,
        batches=stats.batches,
        events=stats.events,
        oldest_event_at=rfc3339_or_none(stats.oldest_received_at),
        corrupt_batches=stats.corrupt_batches,
        quarantined_bodies=stats.quarantined_bodies,
    )


def _source_statuses(
    control: RelayControl, replicas: Sequence[Replica], gaps: Sequence[Gap]
) -> tuple[SourceStatus, ...]:
    queue = control.queue
    accepted, duplicates, last = queue.accepted(), queue.duplicates(), queue.last_received()
    configured = {source.name: source for source in control.sources()}
    recovered = control.konnect().recovered
    return tuple(
        SourceStatus(
            name=name,
            path=source.path if source else None,
            webhook_enabled=source is not None,
            webhook_status=_source_webhook(source, seen),
            last_attempt_at=rfc3339_or_none(seen.at),
            last_response_code=seen.code,
            last_event_at=rfc3339_or_none(last.get(name)),
            accepted=sum(accepted.get((name, form), 0) for form in Format),
            duplicates=duplicates.get(name, 0),
            open_gaps=sum(gap.source == name and gap.closed_at is None for gap in gaps),
            lost_gaps=sum(
                gap.source == name and gap.lost_until is not None for gap in gaps if name in recovered
            ),
            signatures=_signatures(source.signatures) if source and source.signatures else None,
        )
        for name in dict.fromkeys((*configured, *(source for source, _ in accepted)))
        for source, seen in ((configured.get(name), last_seen(replicas, name)),)
    )


def _signatures(found: SourceSignatures) -> SignatureStatus:
    count = found.results
    return SignatureStatus(
        mode=found.mode,
        verified=count[SignatureResult.VERIFIED],
        failed=count[SignatureResult.FAILED],
        absent=count[SignatureResult.ABSENT],
        no_key=count[SignatureResult.NO_KEY],
        malformed=count[SignatureResult.MALFORMED],
        rules={form.value: rule.value for form, rule in found.rules.items()},
        keys=found.keys,
        retired_keys=found.retired_keys,
        keys_read_at=rfc3339_or_none(found.keys_read_at),
        keys_trouble=found.trouble,
    )


def _source_webhook(source: ConfiguredSource | None, seen: Sighting) -> WebhookStatus:
    if source is None:
        return "unconfigured"
    return "active" if seen.code is None or 200 <= seen.code < 300 else "inactive"


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
