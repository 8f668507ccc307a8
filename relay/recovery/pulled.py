"""An entry of `GET /v3/audit-logs` as a line in the names of Konnect's JSON webhook.

Pure functions. The pull API shows an event in another schema (docs/konnect.md section 5): what has a name in
the webhook's gets it, `name` and `severity` are made by the rules of section 3, everything else is kept as it
came. `"relay_pulled":true` tells such a line from one that Konnect sent; its signature covers other bytes, so
it stays `signature` and never becomes `sig`.

The same entry always gives the same bytes, so what is pulled twice has one id. A pulled line and the
webhook's line of the same event have different ids; `relay.recovery.known` recognises those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import orjson

MARK: Final = "relay_pulled"

_RENAMED: Final = {
    "client_ip": "src",
    "uri": "request",
    "method": "act",
    "status_code": "status",
    "successful": "success",
    "service": "event_class_id",
    "sig": "signature",
}
_USED: Final = frozenset({"ts", "type", "outcome", "authentication_type"})
_OWN: Final = frozenset({"event_product", "event_ts", "event_vendor", "name", "rt", "severity", MARK})
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
    fields: dict[str, object] = {"event_product": "Konnect", "event_vendor": "KongInc", MARK: True}
    fields |= _time(entry.get("ts")) | _kind(entry)
    for name, value in entry.items():
        if name in _USED and _was_used(name, fields):
            continue
        # A name that is ours already is not to be had twice: the entry's own word goes beside it.
        target = _RENAMED.get(name, name)
        fields[f"pulled_{target}" if target in _OWN or target in fields else target] = value
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def moment_of(entry: Mapping[str, object]) -> int | None:
    """When it happened, in whole milliseconds since the epoch."""
    rt = _time(entry.get("ts")).get("rt")
    return rt if isinstance(rt, int) else None


def _time(ts: object) -> dict[str, object]:
    try:
        moment = datetime.fromisoformat(ts) if isinstance(ts, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        return {}
    # Cut, not rounded, and in integers: that is how Konnect makes `rt` of a time.
    rt = (moment - _EPOCH) // timedelta(milliseconds=1)
    return {"rt": rt, "event_ts": moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


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


def _was_used(name: str, fields: Mapping[str, object]) -> bool:
    """Whether *fields* hold it in another form, so that it need not be kept."""
    match name:
        case "ts":
            return "rt" in fields
        case "authentication_type":
            return str(fields.get("event_class_id", "")).startswith("AUTHENTICATION_TYPE_")
        case _:
            return "name" in fields
