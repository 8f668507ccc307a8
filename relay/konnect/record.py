"""One audit event as typed fields, whichever of Konnect's writings it came in.

Owns the names and types of docs/konnect.md section 2.2 and how a value as text becomes one of them. Reads no
lines and writes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from operator import itemgetter


@dataclass(frozen=True, slots=True)
class Record:
    """An event's fields under the names of Konnect's JSON; None where absent, "" where present and empty."""

    cef_version: str | None = None
    event_ts: str | None = None  # RFC 3339, or of 2023: `Apr 14 05:39:08`
    event_vendor: str | None = None
    event_product: str | None = None
    event_version: str | None = None
    event_class_id: str | None = None
    name: str | None = None
    severity: int | None = None
    rt: int | None = None  # milliseconds since the epoch
    src: str | None = None
    org_id: str | None = None
    principal_id: str | None = None
    principal_name: str | None = None
    kong_initiated: bool | None = None
    trace_id: str | None = None  # a number of 64 bits until 2025, 32 hex digits since: always text here
    user_agent: str | None = None
    sig: str | None = None  # covers the bytes it came in, and no other writing of the event
    success: bool | None = None
    request: str | None = None
    portal_id: str | None = None
    action: str | None = None
    granted: bool | None = None
    actor_id: str | None = None
    act: str | None = None
    status: int | None = None
    query: str | None = None
    extra: tuple[tuple[str, object], ...] = ()
    """What Konnect does not document, and documented fields whose value has another type, as they came."""
    doubtful: bool = False
    """Something in a CEF line reads like a field but may be a caller's text (relay.konnect.cef)."""


# A frozen class sets its fields through `object.__setattr__`, at four times the cost.
_Draft = make_dataclass("_Draft", [(f.name, f.type, f) for f in fields(Record)], slots=True)


def record_of(
    found: Mapping[str, object], extra: list[tuple[str, object]], *, doubtful: bool = False
) -> Record:
    """A record of documented fields, already of their types, and others. As `Record(…)`, only quicker."""
    if len(extra) > 1:
        extra.sort(key=itemgetter(0))
    draft = _Draft(**found, extra=tuple(extra), doubtful=doubtful)
    draft.__class__ = Record
    return draft  # type: ignore[no-any-return]  # it is one now


NUMBERS = frozenset({"severity", "rt", "status"})
FLAGS = frozenset({"kong_initiated", "success", "granted"})
TYPED = NUMBERS | FLAGS
FIELDS = tuple(f.name for f in fields(Record) if f.name not in {"extra", "doubtful"})
"""The documented fields, as the class lists them."""

# Thirteen digits: 2001 to 2286. Kong's documentation also prints 14 digits and `3958q3097698`.
_RT_FROM = 10**12
_NUMBER_END = 10**9  # beyond any severity or status
_DIGITS = 13  # Python refuses to read thousands
_FLAGS = {"true": True, "false": False}


def number(name: str, value: object) -> int | None:
    """The number that *value* is as field *name*, or None if writing it out again would change it."""
    low, end = (_RT_FROM, 10 * _RT_FROM) if name == "rt" else (0, _NUMBER_END)
    if type(value) is int:
        return value if low <= value < end else None
    if type(value) is str and len(value) <= _DIGITS and value.isascii() and value.isdigit():
        as_number = int(value)
        return as_number if low <= as_number < end and (value[0] != "0" or value == "0") else None
    return None


def flag(value: object) -> bool | None:
    """True or False for Konnect's `true` and `false`, also as text; None for anything else."""
    if type(value) is bool:
        return value
    return _FLAGS.get(value) if type(value) is str else None


def typed(name: str, value: object) -> int | bool | None:
    """The value of a field of NUMBERS or FLAGS, or None if it is of no such type."""
    return flag(value) if name in FLAGS else number(name, value)
