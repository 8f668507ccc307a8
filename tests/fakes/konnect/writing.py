"""How Konnect writes an event: CEF, JSON, CPS, or an entry of the pull API; signed with a TEST key.

The signatures follow the rules C1, J1 and P1 (for pulled entries S1): the line without its signature. The key
is public knowledge and signs nothing but test data.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes.konnect.events import AuditEvent, Kind, Value

LogFormat = Literal["cef", "json", "cps"]

_KEY = Ed25519PrivateKey.from_private_bytes(
    hashlib.sha256(b"konnect audit relay test vectors, not a real key").digest()
)


def jwks() -> dict[str, Any]:
    """The public half, as Konnect's jwks.json shows keys."""
    raw = _KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    kid = f"test-{hashlib.sha1(raw).hexdigest()}"
    return {"keys": [{"kty": "OKP", "alg": "EdDSA", "kid": kid, "crv": "Ed25519", "x": _base64(raw)}]}


def line(event: AuditEvent, log_format: LogFormat, *, stamp: float, signed: bool = True) -> bytes:
    """The event's line without a line end; *stamp* is the header's time, seconds since the epoch."""
    match log_format:
        case "cef":
            return _cef(event, stamp, signed).encode()
        case "json":
            return _json(event, stamp, signed).encode()
        case "cps":
            return f'{{"event":{_json(event, stamp, signed)}}}'.encode()


def body(events: Sequence[AuditEvent], log_format: LogFormat, *, stamp: float | None = None) -> bytes:
    """A batch: one event a line. Without *stamp* each carries its own time in the header."""
    lines = [line(it, log_format, stamp=it.at / 1000 if stamp is None else stamp) for it in events]
    return b"".join(each + b"\n" for each in lines)


def entry(event: AuditEvent, *, signed: bool = True) -> dict[str, Any]:
    """The event as `GET /v3/audit-logs` shows it, whose names differ from the webhook's."""
    given = dict(event.extensions)
    moment = datetime.fromtimestamp(event.at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    common = {
        "org_id": given["org_id"],
        "ts": f"{moment}.{event.at % 1000:03d}Z",
        "principal_id": given["principal_id"],
        "client_ip": given["src"],
        "user_agent": given["user_agent"],
        "trace_id": str(given["trace_id"]),
    }
    shown: dict[str, Any]
    match event.kind:
        case Kind.ACCESS:
            query = "" if given["query"] == "{}" else given["query"]
            shown = {
                "type": "gateway_access",
                **common,
                "actor_id": "",
                "method": given["act"],
                "uri": given["request"],
                "query": query,
                "status_code": given["status"],
            }
        case Kind.AUTHORIZATION:
            resource = event.name.removeprefix("Authz.")
            shown = {
                "type": "authorization",
                "service": event.class_id,
                "resource": f"krn:konnect:reg/us:org/{given['org_id']}:{resource}",
                "action": given["action"],
                "granted": given["granted"],
                **common,
                "uri": "",
            }
        case Kind.AUTHENTICATION:
            shown = {
                "type": "authentication",
                "successful": given["success"],
                "outcome": event.name.removeprefix("AUTHENTICATION_OUTCOME_").lower(),
                "authentication_type": event.class_id.removeprefix("AUTHENTICATION_TYPE_").lower(),
                **common,
                "uri": given["request"],
            }
    return {**shown, "signature": _signature(_compact(shown))} if signed else shown


def _cef(event: AuditEvent, stamp: float, signed: bool) -> str:
    pairs = [("rt", event.at), *event.extensions]
    text = (
        f"{_stamp(stamp)} konghq.com CEF:0|KongInc|{event.product}|1.0|{event.class_id}|{event.name}"
        f"|{event.severity}|" + " ".join(f"{key}={_text(value)}" for key, value in pairs)
    )
    return f"{text} sig={_signature(text)}" if signed else text


def _json(event: AuditEvent, stamp: float, signed: bool) -> str:
    fields: dict[str, Value] = {
        "cef_version": "0",
        "event_class_id": event.class_id,
        "event_product": event.product,
        "event_ts": _stamp(stamp),
        "event_vendor": "KongInc",
        "event_version": "1.0",
        "name": event.name,
        "rt": event.at,
        "severity": event.severity,
        **dict(event.extensions),
    }
    text = _compact(dict(sorted(fields.items())))
    return f'{text[:-1]},"sig":"{_signature(text)}"}}' if signed else text


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _compact(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _signature(text: str) -> str:
    return _base64(_KEY.sign(text.encode()))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
