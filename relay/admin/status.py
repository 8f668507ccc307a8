"""What `/api/v1/status` and `konnect-relay status` say: one document, made of values only.

Joins what the relay's processes have seen lately with what the queue knows for good, so that every one of
them answers alike. Holds no event content and no secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from relay.admin.control import ConfiguredSource, RelayControl
from relay.admin.destinations import DestinationStatus, WebhookStatus, destination_statuses
from relay.admin.gaps import GapStatus, gap_statuses
from relay.admin.times import rfc3339, rfc3339_or_none
from relay.konnect.signatures import SignatureResult
from relay.model import Format, Gap, Replica, Sighting
from relay.observe.replicas import last_seen
from relay.queue.base import Queue
from relay.signing.desk import SourceSignatures


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
