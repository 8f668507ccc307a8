"""An entry of `GET /v3/audit-logs` as a line in the names of Konnect's JSON webhook, and back.

Pure functions. The pull API shows an event in another schema (docs/konnect.md section 5). What the relay adds
stands first: `"relay_pulled":true`, which tells such a line from one that Konnect sent, and what the webhook
would say of the event, made by the rules of section 3. The entry follows as it came, in its order; what has a
name in the webhook's schema has that. Its signature covers the entry and no line, so it never becomes `sig`.

No two entries make the same line, so the entry can be had back, to check its signature. The same entry
always gives the same bytes, so what is pulled twice has one id. A pulled line and the webhook's line of the
same event have different ids; `relay.recovery.known` recognises those.

Anybody who may send can write such a line. That the relay pulled it is told by the batch, not by the line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import orjson

MARK: Final = "relay_pulled"
_HEAD: Final = b'{"relay_pulled":true,'

_RENAMED: Final = {
    "client_ip": "src",
    "uri": "request",
    "method": "act",
    "status_code": "status",
    "successful": "success",
    "service": "event_class_id",
}
_ORIGINAL: Final = {name: original for original, name in _RENAMED.items()}
_OWN: Final = frozenset({MARK, "event_product", "event_ts", "event_vendor", "name", "rt", "severity"})
# An entry that has such a name by itself gets it with this in front, and so does one that begins with this.
_THEIRS: Final = "pulled_"
_TAKEN: Final = _OWN | _ORIGINAL.keys() | {"sig"}
_RESOURCE: Final = re.compile(r"krn:(?:[^:]*:)*?org/[^:]*:(.+)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OUTCOMES: Final = {
    "success": 0,
    "not_found": 1,
    "invalid_password": 1,
    "token_expired": 1,
    "locked": 6,
    "disabled": 6,
}
_OTHER_OUTCOME: Final = 7


def line_of(entry: Mapping[str, object]) -> bytes:
    """The line, without a line end."""
    fields = _added(entry)
    has_class = "event_class_id" in fields
    for name, value in entry.items():
        if name in _TAKEN or name.startswith(_THEIRS):
            name = _THEIRS + name
        elif name != "service" or not has_class:
            name = _RENAMED.get(name, name)
        fields[name] = value
    return orjson.dumps(fields)


def is_pulled(line: bytes) -> bool:
    """Whether the line says of itself that it was pulled; who sent it could have written that, too."""
    return line.startswith(_HEAD)


def entry_of(line: bytes) -> dict[str, object] | None:
    """The entry, its fields in their order; None where `line_of` makes this line of none that has a time."""
    try:
        fields = orjson.loads(line)
        told = {_original(name): fields[name] for name in fields if name != "event_class_id"}
        added = _added(told)
        entry = {_original(name): value for name, value in fields.items() if name not in added}
        # A line of the webhook has no `ts`: what Konnect signed there is never taken for an entry.
        return entry if "ts" in entry and line_of(entry) == line else None
    except (ValueError, TypeError, AttributeError):  # no JSON; nested too deeply to be written; no object
        return None


def _original(name: str) -> str:
    return name.removeprefix(_THEIRS) if name.startswith(_THEIRS) else _ORIGINAL.get(name, name)


def _added(entry: Mapping[str, object]) -> dict[str, object]:
    """What the relay says in front of the entry."""
    fields: dict[str, object] = {MARK: True, "event_product": "Konnect", "event_vendor": "KongInc"}
    return fields | _time(entry.get("ts")) | _kind(entry)


def moment_of(entry: Mapping[str, object]) -> int | None:
    """When it happened, in whole milliseconds since the epoch."""
    rt = _time(entry.get("ts")).get("rt")
    return rt if isinstance(rt, int) else None


def _time(ts: object) -> dict[str, object]:
    try:
        moment = datetime.fromisoformat(ts) if isinstance(ts, str) else None
        if moment is None or moment.tzinfo is None:
            return {}
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):  # no time; before the year 1 in UTC
        return {}
    # Cut, not rounded, and in integers: that is how Konnect makes `rt` of a time.
    rt = (moment - _EPOCH) // timedelta(milliseconds=1)
    return {"rt": rt, "event_ts": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _kind(entry: Mapping[str, object]) -> dict[str, object]:
    """`name`, `severity` and what else the type says. Entries of authentications need not tell their type."""
    kind = entry.get("type")
    if kind is None and isinstance(entry.get("outcome"), str):
        kind = "authentication"
    match kind:
        case "authentication":
            return _authentication(entry)
        case "authorization":
            return _authorization(entry)
        case "gateway_access":
            return _access(entry)
    return {}


def _authentication(entry: Mapping[str, object]) -> dict[str, object]:
    outcome, method = entry.get("outcome"), entry.get("authentication_type")
    if not isinstance(outcome, str):
        return {}
    found: dict[str, object] = {
        "name": f"AUTHENTICATION_OUTCOME_{outcome.upper()}",
        "severity": _OUTCOMES.get(outcome.lower(), _OTHER_OUTCOME),
    }
    if isinstance(method, str):
        found["event_class_id"] = f"AUTHENTICATION_TYPE_{method.upper()}"
    return found


def _authorization(entry: Mapping[str, object]) -> dict[str, object]:
    resource, granted = entry.get("resource"), entry.get("granted")
    shown = resource if isinstance(resource, str) else "unknown"
    inner = _RESOURCE.fullmatch(shown)
    found: dict[str, object] = {"name": f"Authz.{inner[1] if inner else shown}"}
    if isinstance(granted, bool):
        found["severity"] = 1 if granted else 6
    return found


def _access(entry: Mapping[str, object]) -> dict[str, object]:
    status = entry.get("status_code")
    severity = 6 if status in (401, 403) else 10 if status == 500 else 1
    return {"name": "Ingress", "event_class_id": "KongGateway", "severity": severity}
