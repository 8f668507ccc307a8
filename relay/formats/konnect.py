"""A record in Konnect's own three writings: CEF, JSON and CPS.

Owns their orders of keys, so that a converted line looks like one Konnect would have sent. A signature goes
along as a value like any other: it covers the bytes it came in and verifies no other writing.
"""

from __future__ import annotations

from operator import attrgetter

from relay.formats.text import dumps
from relay.konnect.cef import HOST
from relay.konnect.peek import EventType, event_type
from relay.konnect.record import FIELDS, Record

# Konnect's JSON is alphabetical with `sig` behind all others (docs/konnect.md section 2.2).
_ALPHABETICAL = (*sorted(set(FIELDS) - {"sig"}), "sig")
_all_of = attrgetter(*_ALPHABETICAL)

_HEADER = ("event_vendor", "event_product", "event_version", "event_class_id", "name", "severity")
_OTHERS = "*"  # where fields go that Konnect does not document

# The samples' order of keys (docs/konnect.md section 2.1). Keys that a type does not have in the samples
# stand where relay.konnect.cef_order can tell them from text: `kong_initiated` before anything a caller
# chose, and a caller's key only in front of one that is always there.
_ORDERS = {
    EventType.AUTHENTICATION: (
        "rt src kong_initiated action granted act status actor_id query request success * org_id portal_id"
        " principal_id principal_name trace_id user_agent sig"
    ),
    EventType.AUTHORIZATION: (
        "rt src kong_initiated success act status portal_id request action granted * query org_id"
        " principal_id actor_id principal_name trace_id user_agent sig"
    ),
    EventType.ACCESS: (
        "rt src kong_initiated action granted success portal_id actor_id request act status * org_id"
        " principal_id principal_name user_agent trace_id query sig"
    ),
    EventType.UNKNOWN: (
        "rt src kong_initiated action granted success act status portal_id actor_id request org_id query"
        " principal_id principal_name trace_id * user_agent sig"
    ),
}
_ORDER = {kind: tuple(keys.split()) for kind, keys in _ORDERS.items()}


def to_json(record: Record) -> bytes:
    """One flat object. `trace_id` is text, whatever it came as."""
    return dumps(_fields(record))


def to_cps(record: Record) -> bytes:
    """The same object inside `{"event":…}`."""
    return b'{"event":' + to_json(record) + b"}"


def to_cef(record: Record) -> bytes:
    """A CEF line. Nothing in its values is escaped but line ends, as Konnect does not do so either.

    A value that spells out ` key=` is thus as hard to tell from a field as in Konnect's own lines.
    """
    found = _fields(record)
    stamp = found.pop("event_ts", "")
    head = [f"{stamp} {HOST} CEF:{_text(found.pop('cef_version', '0'))}" if stamp else f"{HOST} CEF:0"]
    header = [_text(found.pop(name, "")) for name in _HEADER]
    if any("|" in text for text in header):
        header = [text.replace("\\", "\\\\").replace("|", "\\|") for text in header]
    head += header
    pairs = []
    for key in _ORDER[event_type(record.name or "")]:
        if key in found:
            pairs.append(f"{key}={_text(found.pop(key))}")
        elif key == _OTHERS:
            others = found.keys() - _DOCUMENTED if record.extra else ()
            pairs += [f"{name}={_text(found.pop(name))}" for name in sorted(others)]
    line = "|".join([*head, " ".join(pairs)])
    if "\n" in line or "\r" in line:
        line = line.replace("\n", "\\n").replace("\r", "\\r")
    return line.encode(errors="replace")


_DOCUMENTED = frozenset(FIELDS)


def _fields(record: Record) -> dict[str, object]:
    """All fields that are present, in the order of Konnect's JSON."""
    found = {
        name: value for name, value in zip(_ALPHABETICAL, _all_of(record), strict=True) if value is not None
    }
    if record.extra:
        found = dict(
            sorted({**dict(record.extra), **found}.items(), key=lambda pair: (pair[0] == "sig", pair[0]))
        )
    return found


def _text(value: object) -> str:
    """A value as CEF has it."""
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    return dumps(value).decode()
