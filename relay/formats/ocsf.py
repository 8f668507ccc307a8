"""A record as an event of the Open Cybersecurity Schema Framework.

Owns the models, named as in OCSF 1.3.0, and the mapping of docs/formats.md: Authentication (3002), Authorize
Session (3003), API Activity (6003), and Base Event (0) for whatever is none of these. Fields of Konnect's
that have no place in a class go to `unmapped`.
The models are not frozen: they live no longer than one call, and freezing would double the time it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from relay.formats import reading
from relay.formats.model import dump
from relay.konnect.peek import EventType, event_type
from relay.konnect.record import FIELDS, Record

VERSION = "1.3.0"
"""The version of OCSF these names are of. Later ones only add to these classes."""

_PRODUCT, _VENDOR = "Konnect", "Kong"
_LOG_PROVIDER = "Kong Konnect"
_UNKNOWN = "Unknown"
_UNKNOWN_ID, _OTHER_ID = 0, 99


@dataclass(slots=True, eq=False)
class Product:
    name: str
    vendor_name: str
    version: str | None = None


@dataclass(slots=True, eq=False)
class Metadata:
    uid: str
    product: Product
    log_name: str  # the relay's configured source
    version: str = VERSION
    log_provider: str = _LOG_PROVIDER
    event_code: str | None = None
    correlation_uid: str | None = None
    tenant_uid: str | None = None
    original_time: str | None = None
    logged_time: int | None = None


@dataclass(slots=True, eq=False)
class OcsfUser:
    uid: str | None = None
    name: str | None = None
    full_name: str | None = None
    email_addr: str | None = None


@dataclass(slots=True, eq=False)
class Actor:
    user: OcsfUser


@dataclass(slots=True, eq=False)
class Endpoint:
    ip: str | None = None
    name: str | None = None  # where it is no address


@dataclass(slots=True, eq=False)
class OcsfUrl:
    path: str
    query_string: str | None = None


@dataclass(slots=True, eq=False)
class OcsfHttpRequest:
    http_method: str | None = None
    url: OcsfUrl | None = None
    user_agent: str | None = None


@dataclass(slots=True, eq=False)
class Service:
    name: str


@dataclass(slots=True, eq=False)
class ApiResponse:
    code: int


@dataclass(slots=True, eq=False)
class Api:
    operation: str
    response: ApiResponse | None = None
    service: Service | None = None


@dataclass(slots=True, eq=False)
class OcsfEvent:
    """An event of any of the four classes; each has its own of the fields from `actor` on."""

    class_uid: int
    class_name: str
    category_uid: int
    category_name: str
    activity_id: int
    activity_name: str
    type_uid: int
    type_name: str
    severity_id: int
    severity: str
    status_id: int
    status: str
    time: int  # milliseconds since the epoch
    metadata: Metadata
    message: str
    raw_data: str
    status_code: str | None = None
    status_detail: str | None = None
    actor: Actor | None = None
    api: Api | None = None
    auth_protocol_id: int | None = None
    auth_protocol: str | None = None
    http_request: OcsfHttpRequest | None = None
    privileges: tuple[str, ...] | None = None
    service: Service | None = None
    src_endpoint: Endpoint | None = None
    user: OcsfUser | None = None
    unmapped: dict[str, object] | None = None


# Konnect's severity goes from 0 to 10 as CEF's: 1 is what usually happens, 6 a refusal, 10 a failure.
_SEVERITIES = (
    *[(1, "Informational")] * 2,
    *[(2, "Low")] * 2,
    *[(3, "Medium")] * 3,
    *[(4, "High")] * 2,
    *[(5, "Critical")] * 2,
)
_STATUSES = {None: (_UNKNOWN_ID, _UNKNOWN), True: (1, "Success"), False: (2, "Failure")}
_METHODS = {
    "POST": (1, "Create"),
    **dict.fromkeys(("GET", "HEAD", "OPTIONS"), (2, "Read")),
    **dict.fromkeys(("PUT", "PATCH"), (3, "Update")),
    "DELETE": (4, "Delete"),
}
_CLASSES: dict[EventType, tuple[int, str, int, str]] = {
    EventType.AUTHENTICATION: (3002, "Authentication", 3, "Identity & Access Management"),
    EventType.AUTHORIZATION: (3003, "Authorize Session", 3, "Identity & Access Management"),
    EventType.ACCESS: (6003, "API Activity", 6, "Application Activity"),
    EventType.UNKNOWN: (0, "Base Event", 0, "Uncategorized"),
}


# What has a place, if not quite the same one, in events of every class, and what has one in some only.
_PLACED = {"event_ts", "event_vendor", "event_product", "event_version", "name", "rt", "org_id", "trace_id"}
_PLACED_WITH_USER = _PLACED | {"src", "principal_id", "principal_name", "user_agent"}
_PLACED_IN = {
    EventType.AUTHENTICATION: _PLACED_WITH_USER | {"request", "success"},
    EventType.AUTHORIZATION: _PLACED_WITH_USER | {"action", "granted"},
    EventType.ACCESS: _PLACED_WITH_USER | {"request", "act", "status"},
    EventType.UNKNOWN: _PLACED,
}
_UNMAPPED = {kind: tuple(n for n in FIELDS if n not in placed) for kind, placed in _PLACED_IN.items()}
_unmapped_of = {kind: attrgetter(*names) for kind, names in _UNMAPPED.items()}


def to_ocsf(
    record: Record,
    event_id: str,
    received: bytes,
    source: str,
    received_at: float | None,
    signature: str | None = None,
) -> bytes:
    """The record as an event; see `relay.formats.write` for the arguments."""
    kind = event_type(record.name or "")
    class_uid, class_name, category_uid, category_name = _CLASSES[kind]
    activity_id, activity_name = _activity(record, kind)
    severity_id, severity = _severity(record.severity)
    status_id, status = _STATUSES[reading.succeeded(record, kind)]
    event = OcsfEvent(
        class_uid=class_uid,
        class_name=class_name,
        category_uid=category_uid,
        category_name=category_name,
        activity_id=activity_id,
        activity_name=activity_name,
        type_uid=class_uid * 100 + activity_id,
        type_name=f"{class_name}: {activity_name}",
        severity_id=severity_id,
        severity=severity,
        status_id=status_id,
        status=status,
        time=reading.happened_ms(record, received_at),
        metadata=_metadata(record, event_id, source, received_at),
        message=reading.sentence(record, kind),
        raw_data=received.decode(errors="replace"),
        unmapped=_unmapped(record, kind, signature),
    )
    match kind:
        case EventType.AUTHENTICATION:
            _complete_authentication(event, record)
        case EventType.AUTHORIZATION:
            _complete_authorization(event, record)
        case EventType.ACCESS:
            _complete_api_activity(event, record)
        case EventType.UNKNOWN:  # a Base Event has none of the fields that are left
            pass
    return dump(event)


def _complete_authentication(event: OcsfEvent, record: Record) -> None:
    event.user = _user(record)
    event.service = Service(record.event_product or _PRODUCT)
    event.src_endpoint = _endpoint(record)
    event.http_request = _http_request(record)
    event.status_detail = reading.outcome_name(record)
    method = reading.method_name(record)
    if method:
        event.auth_protocol_id, event.auth_protocol = _OTHER_ID, method


def _complete_authorization(event: OcsfEvent, record: Record) -> None:
    event.user = _user(record)
    event.src_endpoint = _endpoint(record)
    event.http_request = _http_request(record)
    asked = ":".join(filter(None, (reading.resource_name(record), record.action)))
    event.privileges = (asked or _UNKNOWN,)


def _complete_api_activity(event: OcsfEvent, record: Record) -> None:
    event.actor = Actor(_user(record))
    event.src_endpoint = _endpoint(record) or Endpoint(name=_UNKNOWN)
    event.http_request = _http_request(record)
    response = None if record.status is None else ApiResponse(record.status)
    event.api = Api(record.act or _UNKNOWN, response, Service(record.event_product or _PRODUCT))
    event.status_code = None if record.status is None else str(record.status)


def _activity(record: Record, kind: EventType) -> tuple[int, str]:
    match kind:
        case EventType.AUTHENTICATION:
            return 1, "Logon"
        case EventType.AUTHORIZATION:
            # The schema knows assigning privileges; asking for one is something else, and Konnect says what.
            return (_OTHER_ID, record.action) if record.action else (_UNKNOWN_ID, _UNKNOWN)
        case EventType.ACCESS:
            if not record.act:
                return _UNKNOWN_ID, _UNKNOWN
            return _METHODS.get(record.act, (_OTHER_ID, record.act))
        case EventType.UNKNOWN:
            return _UNKNOWN_ID, _UNKNOWN


def _severity(severity: int | None) -> tuple[int, str]:
    if severity is None:
        return _UNKNOWN_ID, _UNKNOWN
    return _SEVERITIES[severity] if severity < len(_SEVERITIES) else (_OTHER_ID, str(severity))


def _metadata(record: Record, event_id: str, source: str, received_at: float | None) -> Metadata:
    return Metadata(
        uid=event_id,
        product=Product(
            record.event_product or _PRODUCT, record.event_vendor or _VENDOR, record.event_version
        ),
        log_name=source,
        event_code=record.name,
        correlation_uid=record.trace_id,
        tenant_uid=record.org_id,
        original_time=record.event_ts,
        logged_time=None if received_at is None else round(received_at * 1000),
    )


def _unmapped(record: Record, kind: EventType, signature: str | None) -> dict[str, object] | None:
    values = _unmapped_of[kind](record)
    found: dict[str, object] = {
        name: value for name, value in zip(_UNMAPPED[kind], values, strict=True) if value is not None
    }
    if record.doubtful:
        found["doubtful"] = True
    if signature is not None:
        found["signature"] = signature
    return {**dict(record.extra), **found} if record.extra else found or None


def _user(record: Record) -> OcsfUser:
    if not record.principal_name:
        return OcsfUser(uid=record.principal_id) if record.principal_id else OcsfUser(name=_UNKNOWN)
    full_name, email = reading.person(record)
    return OcsfUser(record.principal_id or None, record.principal_name, full_name, email)


def _endpoint(record: Record) -> Endpoint | None:
    if not record.src:
        return None
    address = reading.ip(record.src)
    return Endpoint(ip=address) if address else Endpoint(name=record.src)


def _http_request(record: Record) -> OcsfHttpRequest | None:
    path, query = reading.path_and_query(record)
    url = OcsfUrl(path, query) if path else None
    if record.act is None and url is None and record.user_agent is None:
        return None
    return OcsfHttpRequest(record.act, url, record.user_agent)
