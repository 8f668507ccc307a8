"""By what an event is the same whether a webhook sent it or it was pulled: a key over both writings.

No event has an id, the two schemas differ, and a signature covers one of them only (docs/konnect.md sections
2.4 and 5). Owns the mapping between their fields, for all who compare: a pull (`relay.recovery.known`) and a
reconciliation (`relay.recovery.reconciling`). Twins share a key on purpose: who compares has to count.
Pure, and never raises, whatever is in the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from relay.konnect.parse import parse
from relay.konnect.peek import EventType, event_type
from relay.konnect.pulled import MARK
from relay.konnect.record import Record

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_AUTHZ: Final = "Authz."
_OUTCOME: Final = "AUTHENTICATION_OUTCOME_"
_MARKED: Final = (MARK, True)
_PULLED: Final = {
    "authentication": EventType.AUTHENTICATION,
    "authorization": EventType.AUTHORIZATION,
    "gateway_access": EventType.ACCESS,
}


class Key(NamedTuple):
    """What an event is told by. Text is "" where the writing has none."""

    type: EventType
    at: int  # milliseconds since the epoch
    trace_id: str
    org_id: str  # not of authentications: the pull API need not give it
    portal_id: str
    principal_id: str  # neither of these
    name: str  # the resource, or how an authentication ended
    action: str  # what was to be done, with the path for a request
    outcome: str  # granted, successful, or the status

    @property
    def nameless(self) -> Key:
        """Without the name, which the two schemas may write in two ways: nothing is documented of it."""
        return self._replace(name="")


def of_line(line: bytes, *, pulled: bool = False) -> Key | None:
    """Of an event as a webhook sent it, in any format, or as the relay *pulled* it; None: not to be compared.

    A sent line that says it was pulled is none of Konnect's.
    """
    record = parse(line)
    if record is None or (_MARKED in record.extra and not pulled):
        return None
    return of_record(record)


def of_record(record: Record) -> Key | None:
    """None where it has no time of its own in milliseconds, or is of no type that the pull API knows."""
    kind = _type_of(record)
    if record.rt is None or kind is EventType.UNKNOWN:
        return None
    name = record.name or ""
    match kind:
        case EventType.AUTHENTICATION:
            text = (name.removeprefix(_OUTCOME).lower(), "", _flag(record.success))
        case EventType.AUTHORIZATION:
            text = (_resource(name.removeprefix(_AUTHZ)), record.action or "", _flag(record.granted))
        case _:
            text = ("", _request(record.act, record.request), _number(record.status))
    return _key(kind, record.rt, record.trace_id, record.org_id, record.portal_id, record.principal_id, text)


def of_entry(entry: Mapping[str, object]) -> Key | None:
    """Of an event as `GET /v3/audit-logs` gives it; None where it cannot be compared."""
    kind = _PULLED.get(str(entry.get("type") or "authentication"))  # which alone may come without it
    at = _milliseconds(entry.get("ts"))
    if kind is None or at is None:
        return None
    match kind:
        case EventType.AUTHENTICATION:
            text = (_text(entry, "outcome").lower(), "", _flag(entry.get("successful")))
        case EventType.AUTHORIZATION:
            text = (_resource(_text(entry, "resource")), _text(entry, "action"), _flag(entry.get("granted")))
        case _:
            method, uri = _text(entry, "method"), _text(entry, "uri")
            text = ("", _request(method, uri), _number(entry.get("status_code")))
    trace_id, org_id = _text(entry, "trace_id"), _text(entry, "org_id")
    return _key(kind, at, trace_id, org_id, _text(entry, "portal_id"), _text(entry, "principal_id"), text)


def _key(
    kind: EventType,
    at: int,
    trace_id: str | None,
    org_id: str | None,
    portal_id: str | None,
    principal_id: str | None,
    text: tuple[str, str, str],
) -> Key:
    whose = (org_id or "", principal_id or "") if kind is not EventType.AUTHENTICATION else ("", "")
    return Key(kind, at, trace_id or "", whose[0], portal_id or "", whose[1], *text)


def _type_of(record: Record) -> EventType:
    """By its name, as Konnect asks; by its fields where the name is a new one."""
    kind = event_type(record.name or "")
    if kind is not EventType.UNKNOWN:
        return kind
    if record.granted is not None:
        return EventType.AUTHORIZATION
    if record.success is not None:
        return EventType.AUTHENTICATION
    return EventType.ACCESS if record.status is not None else EventType.UNKNOWN


def _resource(krn: str) -> str:
    """`control-planes/*` of `krn:konnect:reg/us:org/b065…:control-planes/*`."""
    parts = krn.split(":", 4)
    return parts[4] if parts[0] == "krn" and len(parts) == 5 else krn


def _request(method: str | None, path: str | None) -> str:
    # The query has a field of its own in both, and other forms in each.
    return f"{method or ''} {(path or '').partition('?')[0]}"


def _milliseconds(value: object) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND


def _text(entry: Mapping[str, object], name: str) -> str:
    value = entry.get(name)
    return "" if value is None else str(value)


def _flag(value: object) -> str:
    return "" if value is None else str(value).lower()


def _number(value: object) -> str:
    return "" if value is None else str(value)
