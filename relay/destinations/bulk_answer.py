"""What Elasticsearch and OpenSearch answer to a bulk request, item by item.

Owns the reading of the answer and what it means. Never delivered by guess: an answer that is cut off,
contradicts itself or counts other items than were sent proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    Rejection,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.classify import Reply, classify, json_object, respond, retry_after
from relay.destinations.http_client import BODY_LIMIT
from relay.model import Reason

_STORED_BEFORE = "version_conflict_engine_exception"  # a document with this id is there already

# A 400 of these kinds would be the same for every event: an index, an alias or a pipeline is wrong.
_SETUP_KINDS = frozenset(
    {
        "index_closed_exception",
        "invalid_index_name_exception",
        "routing_missing_exception",
        "validation_exception",
    }
)
# Beginnings only: further on a reason may quote the document, whose text others choose.
_SETUP_REASONS = (
    "pipeline with id [",
    "no write index is defined for ",
    "only write ops with an op_type of create are allowed in data streams",
    "request [",
)
_REASON_LENGTH = 300


class _Fate(Enum):
    """What became of one event."""

    STORED = "stored"
    REFUSED = "refused"  # it alone is to blame
    TOO_LARGE = "too large"
    THROTTLED = "throttled"
    LATER = "later"
    SETUP = "setup"  # the index, its pipeline or our privileges are to blame


@dataclass(frozen=True, slots=True)
class _Item:
    """One event's part of the answer."""

    status: int
    kind: str = ""  # of the error
    reason: str = ""
    failure_store: str = ""

    @classmethod
    def read(cls, item: object) -> Self | None:
        """From `{"create": {"status": …, "error": {…}}}`; None where it is not that."""
        said = next(iter(item.values())) if isinstance(item, dict) and len(item) == 1 else None
        if not isinstance(said, dict) or not isinstance(said.get("status"), int):
            return None
        kind, reason = _error(said.get("error"))
        return cls(said["status"], kind, reason, _text(said.get("failure_store")))

    @property
    def failed(self) -> bool:
        return self.status >= 300 or bool(self.kind)

    @property
    def fate(self) -> _Fate:
        match self.status:
            case 200 | 201 if not self.failed:
                return _Fate.STORED
            case 409:
                return _Fate.STORED if self.kind == _STORED_BEFORE else _Fate.LATER
            case 413:
                return _Fate.TOO_LARGE
            case 429:
                return _Fate.THROTTLED
            case 400 | 412 | 422:
                return _Fate.SETUP if _blames_setup(self.kind, self.reason) else _Fate.REFUSED
            case 401 | 403 | 404 | 405 | 501:
                return _Fate.SETUP
            case _:
                return _Fate.LATER

    def __str__(self) -> str:
        words = f"{self.status} {self.kind}: {self.reason[:_REASON_LENGTH]}".rstrip(": ")
        if self.failure_store in {"failed", "not_enabled"}:
            words += f" (failure store: {self.failure_store.replace('_', ' ')})"
        return words


def judge(reply: Reply, count: int, now: float, *, max_answer: int = BODY_LIMIT) -> Outcome:
    """What the *reply* to *count* events means; *max_answer* is how many bytes of it were read at most."""
    if reply.status == 200:
        if len(reply.body) >= max_answer:
            # With fewer events the answer is shorter; what is stored already is then a conflict.
            return TooLarge(respond(reply, "the answer is too long to be read to its end"))
        items = _items(reply.body)
        if items is None or len(items) != count:
            return Misconfigured(respond(reply, f"but this is no answer to a bulk request of {count} events"))
        return _sum_up(reply, items, now)
    if reply.status == 400:
        kind, reason = _error(json_object(reply.body).get("error"))
        if _blames_setup(kind, reason):
            return Misconfigured(respond(reply, f"{kind}: {reason[:_REASON_LENGTH]}"))
    return classify(reply, now=now, success=())


def _items(body: bytes) -> list[_Item] | None:
    """The items of an answer in the order of the events; None unless all of it makes sense."""
    said = json_object(body)
    errors, listed = said.get("errors"), said.get("items")
    if not isinstance(errors, bool) or not isinstance(listed, list):
        return None
    items = [item for item in map(_Item.read, listed) if item is not None]
    if len(items) != len(listed) or errors != any(item.failed for item in items):
        return None
    return items


def _sum_up(reply: Reply, items: Sequence[_Item], now: float) -> Outcome:
    fates = [item.fate for item in items]
    stored = tuple(n for n, fate in enumerate(fates) if fate is _Fate.STORED)
    refused = tuple(
        Rejection(n, Reason.TOO_LARGE if fate is _Fate.TOO_LARGE else Reason.REJECTED, str(items[n]))
        for n, fate in enumerate(fates)
        if fate in {_Fate.REFUSED, _Fate.TOO_LARGE}
    )
    if len(stored) == len(items):
        diverted = sum(item.failure_store == "used" for item in items)
        remark = f"{diverted} of {len(items)} events went to the failure store" if diverted else None
        return Delivered(respond(reply, remark))
    setup = next((items[n] for n, fate in enumerate(fates) if fate is _Fate.SETUP), None)
    if setup is not None and not stored and not refused:
        return Misconfigured(respond(reply, f"but for the events {setup}"))
    waiting = _waiting(reply, items, fates, now)
    if waiting is not None and not stored and not refused:
        return waiting
    # Events that meet a wrong setup are among the rest. With nothing else waiting they are sent again at
    # once, then stand alone, and the destination is held.
    remark = f"{len(stored)} of {len(items)} events stored, {len(refused)} refused"
    return Partial(respond(reply, remark), stored, refused, waiting)


def _waiting(
    reply: Reply, items: Sequence[_Item], fates: Sequence[_Fate], now: float
) -> Throttled | Transient | None:
    """Why some events are to be sent again later, if there are any."""
    waiting = [n for n, fate in enumerate(fates) if fate in {_Fate.THROTTLED, _Fate.LATER}]
    if not waiting:
        return None
    response = respond(reply, f"but for {len(waiting)} of {len(items)} events {items[waiting[0]]}")
    throttled = any(fates[n] is _Fate.THROTTLED for n in waiting)
    return (Throttled if throttled else Transient)(response, retry_after(reply.retry_after, now))


def _blames_setup(kind: str, reason: str) -> bool:
    if kind == "illegal_argument_exception":
        return reason.startswith(_SETUP_REASONS)
    return kind in _SETUP_KINDS


def _error(error: object) -> tuple[str, str]:
    """Type and reason of an error, with the reason behind it where there is one."""
    if not isinstance(error, dict):
        return "", ""
    reason, cause = _text(error.get("reason")), error.get("caused_by")
    if isinstance(cause, dict) and cause.get("reason"):
        reason = f"{reason}: {_text(cause['reason'])}"
    return _text(error.get("type")), reason


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
