"""A glance at one line: what a filter needs to know of an event, and no more.

Never decodes for delivery and never fails: what cannot be told is None. Field names and places come
from docs/konnect.md section 2, the types from its section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import orjson

_CEF_MARKER = b"CEF:"
_CEF_MARKER_BEFORE = 80  # as in relay.konnect.lines: a later `CEF:` stands inside a value
_CEF_FIELDS = 7  # CEF:0 | vendor | product | version | class | name | severity | extensions
_DIGITS = 10  # a number with as many or more is none of Konnect's

# In CEF a value may hold anything, also ` kong_initiated=true`, and nothing escapes it. These are the
# keys whose values the caller chooses: behind the first of them no pair can be believed any more.
_CALLERS_KEYS = (b" request=", b" user_agent=", b" query=", b" principal_name=")
_KONG_INITIATED = b" kong_initiated=true "


class EventType(StrEnum):
    """What kind of event it is. Told by its name, never by its class id (docs/konnect.md section 3)."""

    AUTHENTICATION = "authentication"  # AUTHENTICATION_OUTCOME_*
    AUTHORIZATION = "authorization"  # Authz.*
    ACCESS = "access"  # Ingress
    UNKNOWN = "unknown"  # a name Konnect did not document


@dataclass(frozen=True, slots=True)
class Glance:
    """What could be told of a line; None where it could not."""

    name: str | None = None
    product: str | None = None
    severity: int | None = None
    kong_initiated: bool = False  # True only where nobody but Konnect can have written it


_NOTHING = Glance()


def event_type(name: str) -> EventType:
    """The type of an event with this name."""
    if name.startswith("Authz."):
        return EventType.AUTHORIZATION
    if name.startswith("AUTHENTICATION_OUTCOME_"):
        return EventType.AUTHENTICATION
    return EventType.ACCESS if name == "Ingress" else EventType.UNKNOWN


def glance(line: bytes) -> Glance:
    """Look at a CEF, JSON or CPS line; an unknown or broken one tells nothing."""
    if line[:1] == b"{":
        return _glance_json(line)
    at = line.find(_CEF_MARKER, 0, _CEF_MARKER_BEFORE)
    return _NOTHING if at < 0 else _glance_cef(line[at:])


def _glance_cef(line: bytes) -> Glance:
    # The header ends at the seventh pipe; later ones belong to values (`user_agent=a|b`).
    fields = line.split(b"|", _CEF_FIELDS)
    if len(fields) <= _CEF_FIELDS:
        return _NOTHING
    _, _, product, _, _, name, severity, extensions = fields
    return Glance(
        name=name.decode(errors="replace"),
        product=product.decode(errors="replace"),
        severity=_number(severity.decode(errors="replace")),
        kong_initiated=_says_kong(extensions),
    )


def _says_kong(extensions: bytes) -> bool:
    framed = b" " + extensions + b" "
    at = framed.find(_KONG_INITIATED)
    if at < 0:
        return False
    return all(framed.find(key, 0, at + 1) < 0 for key in _CALLERS_KEYS)


def _glance_json(line: bytes) -> Glance:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _NOTHING
    inner = record.get("event")
    if isinstance(inner, dict):  # CPS wraps the record
        record = inner
    kong = record.get("kong_initiated")
    return Glance(
        name=_text(record.get("name")),
        product=_text(record.get("event_product")),
        severity=_number(record.get("severity")),
        kong_initiated=kong is True or kong == "true",
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    """Konnect's numbers come as text in its documentation (docs/konnect.md section 2.2)."""
    if isinstance(value, str):
        # Python refuses to read thousands of digits, and no severity has more than two.
        return int(value) if value.isascii() and value.isdigit() and len(value) < _DIGITS else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
