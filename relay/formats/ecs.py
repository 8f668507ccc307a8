"""A record as an Elastic Common Schema document.

Owns the models, named as in ECS 8.11, and the mapping of docs/formats.md. Fields of Konnect's that have no
place in ECS go to `kong.*`: ECS leaves the names of companies to custom fields.
The models are not frozen: they live no longer than one call, and freezing would double the time it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from relay.formats import reading
from relay.formats.model import dump
from relay.formats.text import dumps
from relay.konnect.peek import EventType, event_type
from relay.konnect.record import Record

VERSION = "8.11.0"
"""The version of ECS these names are of. Later ones only add to them."""

_MODULE = "kong_konnect"
_DATASET = "kong_konnect.audit"
_SERVER_ERROR = 500
_LAST_SECOND = 253_402_300_799  # of the year 9999


@dataclass(slots=True, eq=False)
class Ecs:
    version: str = VERSION


@dataclass(slots=True, eq=False)
class EcsEvent:
    id: str
    original: str
    kind: Literal["event"] = "event"
    category: tuple[Literal["api", "authentication", "web"], ...] | None = None
    type: tuple[Literal["access", "allowed", "denied", "error", "info", "start"], ...] = ("info",)
    outcome: Literal["success", "failure", "unknown"] = "unknown"
    action: str | None = None
    code: str | None = None
    reason: str | None = None
    severity: int | None = None
    provider: str | None = None
    created: str | None = None
    module: str = _MODULE
    dataset: str = _DATASET


@dataclass(slots=True, eq=False)
class EcsUser:
    id: str | None = None
    name: str | None = None
    full_name: str | None = None
    email: str | None = None


@dataclass(slots=True, eq=False)
class Organization:
    id: str


@dataclass(slots=True, eq=False)
class Source:
    address: str
    ip: str | None = None  # only an IP address, since the field's type takes nothing else


@dataclass(slots=True, eq=False)
class HttpRequest:
    method: str


@dataclass(slots=True, eq=False)
class HttpResponse:
    status_code: int


@dataclass(slots=True, eq=False)
class Http:
    request: HttpRequest | None = None
    response: HttpResponse | None = None


@dataclass(slots=True, eq=False)
class EcsUrl:
    original: str
    path: str | None = None
    query: str | None = None


@dataclass(slots=True, eq=False)
class UserAgent:
    original: str


@dataclass(slots=True, eq=False)
class Trace:
    id: str


@dataclass(slots=True, eq=False)
class Observer:
    vendor: str | None = None
    product: str | None = None
    version: str | None = None


@dataclass(slots=True, eq=False)
class Related:
    ip: tuple[str, ...] | None = None
    user: tuple[str, ...] | None = None


@dataclass(slots=True, eq=False)
class Kong:
    """What ECS has no field for, under Konnect's own names, and some of ours."""

    source: str  # the relay's configured source
    cef_version: str | None = None
    event_ts: str | None = None
    event_class_id: str | None = None
    kong_initiated: bool | None = None
    success: bool | None = None
    granted: bool | None = None
    portal_id: str | None = None
    actor_id: str | None = None
    query: str | None = None  # as Konnect has it; url.query is a query string again
    sig: str | None = None  # covers event.original where nothing was taken out of that
    signature: str | None = None  # what the relay found of it, where it checks
    doubtful: bool | None = None  # only ever true
    extra: str | None = None
    """Undocumented fields as the text of a JSON object: no unforeseen name may add a field to an index."""


@dataclass(slots=True, eq=False)
class Document:
    timestamp: str = field(metadata={"json": "@timestamp"})
    event: EcsEvent
    message: str
    kong: Kong
    observer: Observer
    ecs: Ecs = field(default_factory=Ecs)
    user: EcsUser | None = None
    organization: Organization | None = None
    source: Source | None = None
    http: Http | None = None
    url: EcsUrl | None = None
    user_agent: UserAgent | None = None
    trace: Trace | None = None
    related: Related | None = None


_ECS = Ecs()


def to_ecs(
    record: Record,
    event_id: str,
    received: bytes,
    source: str,
    received_at: float | None,
    signature: str | None = None,
) -> bytes:
    """The record as a document; see `relay.formats.write` for the arguments."""
    kind = event_type(record.name or "")
    address = reading.ip(record.src)
    return dump(
        Document(
            timestamp=_stamp(reading.happened_ms(record, received_at)),
            ecs=_ECS,
            event=_event(record, kind, event_id, received, received_at),
            message=reading.sentence(record, kind),
            kong=_kong(record, source, signature),
            observer=Observer(record.event_vendor, record.event_product, record.event_version),
            user=_user(record),
            organization=Organization(record.org_id) if record.org_id else None,
            source=Source(record.src, address) if record.src else None,
            http=_http(record),
            url=_url(record),
            user_agent=None if record.user_agent is None else UserAgent(record.user_agent),
            trace=Trace(record.trace_id) if record.trace_id else None,
            related=_related(record, address),
        )
    )


def _stamp(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(min(max(seconds, 0), _LAST_SECOND))}.{rest:03}Z"


@lru_cache(maxsize=1024)  # events come in the order of their seconds, more or less
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _event(
    record: Record, kind: EventType, event_id: str, received: bytes, received_at: float | None
) -> EcsEvent:
    succeeded = reading.succeeded(record, kind)
    return EcsEvent(
        id=event_id,
        original=received.decode(errors="replace"),
        category=_CATEGORIES[kind],
        type=_types(record, kind),
        outcome="unknown" if succeeded is None else "success" if succeeded else "failure",
        action=_action(record, kind),
        code=record.name,
        reason=reading.outcome_name(record),
        severity=record.severity,
        provider=None if kind is EventType.AUTHENTICATION else record.event_class_id,
        created=None if received_at is None else _stamp(round(received_at * 1000)),
    )


# `iam` would be about changes to users and groups. Of the categories only `api` may be allowed or denied.
_CATEGORIES: dict[EventType, tuple[Literal["api", "authentication", "web"], ...] | None] = {
    EventType.AUTHENTICATION: ("authentication",),
    EventType.AUTHORIZATION: ("api",),
    EventType.ACCESS: ("web",),
    EventType.UNKNOWN: None,
}


def _types(
    record: Record, kind: EventType
) -> tuple[Literal["access", "allowed", "denied", "error", "info", "start"], ...]:
    match kind:
        case EventType.AUTHENTICATION:
            return ("start",)
        case EventType.AUTHORIZATION:
            return ("info",) if record.granted is None else ("allowed",) if record.granted else ("denied",)
        case EventType.ACCESS:
            return ("access", "error") if (record.status or 0) >= _SERVER_ERROR else ("access",)
        case EventType.UNKNOWN:
            return ("info",)


def _action(record: Record, kind: EventType) -> str | None:
    match kind:
        case EventType.AUTHENTICATION:
            return "authenticate"
        case EventType.ACCESS:
            return record.act or None
        case EventType.AUTHORIZATION | EventType.UNKNOWN:
            return record.action or None


def _kong(record: Record, source: str, signature: str | None) -> Kong:
    return Kong(
        source=source,
        cef_version=record.cef_version,
        event_ts=record.event_ts,
        event_class_id=record.event_class_id,
        kong_initiated=record.kong_initiated,
        success=record.success,
        granted=record.granted,
        portal_id=record.portal_id,
        actor_id=record.actor_id,
        query=record.query,
        sig=record.sig,
        signature=signature,
        doubtful=record.doubtful or None,
        extra=dumps(dict(record.extra)).decode() if record.extra else None,
    )


def _user(record: Record) -> EcsUser | None:
    if not record.principal_name:
        return EcsUser(record.principal_id) if record.principal_id else None
    full_name, email = reading.person(record)
    return EcsUser(record.principal_id or None, record.principal_name, full_name, email)


def _http(record: Record) -> Http | None:
    request = HttpRequest(record.act) if record.act else None
    response = None if record.status is None else HttpResponse(record.status)
    return Http(request, response) if request or response else None


def _url(record: Record) -> EcsUrl | None:
    if record.request is None:
        return None
    return EcsUrl(record.request, *reading.path_and_query(record))


def _related(record: Record, address: str | None) -> Related | None:
    users = tuple(
        dict.fromkeys(u for u in (record.principal_id, record.actor_id, record.principal_name) if u)
    )
    return Related((address,) if address else None, users or None) if address or users else None
