"""What both normalising schemas want to know of a record, in neither's words.

Reads a record and nothing else; where a record does not say, the answer is None and never a guess.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlencode

import orjson

from relay.konnect.peek import EventType
from relay.konnect.record import Record

_OUTCOME = "AUTHENTICATION_OUTCOME_"
_TYPE = "AUTHENTICATION_TYPE_"
_AUTHZ = "Authz."
_IP_LENGTH = 45  # of an IPv4-mapped IPv6 address in full
_FAILED = 400  # and above, an HTTP status says that the request did not succeed
_STAMP_LENGTH = len("2025-06-18T21:02:36.123456+00:00")


def happened_ms(record: Record, received_at: float | None) -> int:
    """When the event happened, in milliseconds since the epoch: by `rt`, its header, or its arrival.

    The epoch itself where there is none of these. As `relay.konnect.times`, which reads lines.
    """
    if record.rt is not None:
        return record.rt
    stamp = record.event_ts
    if stamp is not None and len(stamp) <= _STAMP_LENGTH:
        try:
            at = datetime.fromisoformat(stamp)
            return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):  # 2023's form has no year
            pass
    return round((received_at or 0) * 1000)


def succeeded(record: Record, kind: EventType) -> bool | None:
    """Whether what the event tells of was done: logged in, granted, answered below 400."""
    match kind:
        case EventType.AUTHENTICATION:
            return record.success
        case EventType.AUTHORIZATION:
            return record.granted
        case EventType.ACCESS:
            return None if record.status is None else record.status < _FAILED
        case EventType.UNKNOWN:
            return record.success if record.granted is None else record.granted


def outcome_name(record: Record) -> str | None:
    """`INVALID_PASSWORD` and the like."""
    name = record.name or ""
    return name.removeprefix(_OUTCOME) if name.startswith(_OUTCOME) else None


def method_name(record: Record) -> str | None:
    """How somebody logged in: `BASIC`, `PAT`, `SSO` and the like."""
    class_id = record.event_class_id or ""
    return class_id.removeprefix(_TYPE) if class_id.startswith(_TYPE) else None


def resource_name(record: Record) -> str:
    """What a permission was checked for: `control-planes/*`."""
    return (record.name or "").removeprefix(_AUTHZ)


def person(record: Record) -> tuple[str | None, str | None]:
    """Full name and e-mail address out of `Jane Doe (jane@example.com)`, the form seen in a capture."""
    name = record.principal_name
    if not name:
        return None, None
    full, _, rest = name.rpartition(" (")
    email = rest.removesuffix(")")
    if full and email != rest and "@" in email and " " not in email:
        return full, email
    return (None, name) if "@" in name and " " not in name else (name, None)


def ip(text: str | None) -> str | None:
    """The text if it is an IP address as both schemas take them, without a zone."""
    return text if text and len(text) <= _IP_LENGTH and _is_ip(text) else None


@lru_cache(maxsize=4096)
def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def path_and_query(record: Record) -> tuple[str | None, str | None]:
    """The request's path and its query string.

    Konnect writes the query as JSON (`{"start":"1684098000"}`), which becomes a query string again; one that
    is something else is taken as it is. One in the request itself comes first.
    """
    path, _, query = (record.request or "").partition("?")
    if record.query and not query:
        query = _query_string(record.query)
    return path or None, query or None


def _query_string(text: str) -> str:
    if text == "{}":
        return ""
    try:
        found = orjson.loads(text)
        return urlencode(found, doseq=True, errors="replace") if isinstance(found, dict) else text
    except ValueError:
        return text


def sentence(record: Record, kind: EventType) -> str:
    """The event in a line for people."""
    name = record.name or "Konnect event"
    match kind:
        case EventType.AUTHENTICATION:
            return " ".join(filter(None, ("Authentication", outcome_name(record), method_name(record))))
        case EventType.AUTHORIZATION:
            verdict = {True: "granted", False: "denied", None: "checked"}[record.granted]
            return " ".join(filter(None, (record.action, resource_name(record), verdict)))
        case EventType.ACCESS:
            status = None if record.status is None else str(record.status)
            return " ".join(filter(None, (record.act, record.request, status))) or name
        case EventType.UNKNOWN:
            return name
