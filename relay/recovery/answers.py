"""What Konnect's control API answers, as typed objects.

Owns the reading of its documents. A field of another type than published makes the whole answer unreadable
(`ValueError`). One that is left out stands for false, none or unknown: Konnect is written in Go, where empty
fields are often not sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self, TypeVar

from relay.recovery.errors import Unreadable

Document = Mapping[str, object]

Member = TypeVar("Member", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose webhook, status and replay job: the organisation's in the region, or a Dev Portal's."""

    portal: str | None = None

    def __str__(self) -> str:
        return "the organisation" if self.portal is None else f"the portal {self.portal}"


ORGANISATION = Scope()


class WebhookState(StrEnum):
    """What Konnect calls `webhook_status`."""

    ACTIVE = "active"  # the last attempt went well, or there was none yet
    INACTIVE = "inactive"  # off, or Konnect has given up on a batch
    UNCONFIGURED = "unconfigured"  # bound to no destination
    UNKNOWN = "unknown"  # a word that Konnect has learned since


class ReplayState(StrEnum):
    """What Konnect calls a replay job's `status`."""

    UNCONFIGURED = "unconfigured"  # there was no job yet
    ACCEPTED = "accepted"
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"  # a word that Konnect has learned since

    @property
    def over(self) -> bool:
        """Whether nothing more comes of this job, so that another one may begin."""
        return self in (ReplayState.UNCONFIGURED, ReplayState.COMPLETED, ReplayState.FAILED)


@dataclass(frozen=True, slots=True)
class WebhookStatus:
    """How a webhook is doing. Times in seconds since the epoch."""

    enabled: bool
    state: WebhookState
    last_attempt_at: float | None
    last_response_code: int | None
    last_response_message: str | None

    @classmethod
    def of(cls, document: Document) -> Self:
        message = document.get("last_response_message")
        return cls(
            enabled=_flag(document, "webhook_enabled"),
            state=_member(WebhookState, _text(document, "webhook_status", ""), WebhookState.UNKNOWN),
            last_attempt_at=_moment(document.get("last_attempt_at")),
            last_response_code=_whole_or_none(document.get("last_response_code")),
            last_response_message=message if isinstance(message, str) else None,
        )


@dataclass(frozen=True, slots=True)
class Webhook:
    """What a webhook is bound to."""

    destination_id: str | None
    enabled: bool

    @classmethod
    def of(cls, document: Document) -> Self:
        found = document.get("audit_log_destination_id")
        return cls(found if isinstance(found, str) and found else None, _flag(document, "enabled"))


@dataclass(frozen=True, slots=True)
class InlineWebhook:
    """The organisation's webhook as version 2 of the API shows it, however it was set."""

    endpoint: str | None
    enabled: bool

    @classmethod
    def of(cls, document: Document) -> Self:
        endpoint = _text(document, "endpoint", "")
        return cls(None if endpoint in ("", "unconfigured") else endpoint, _flag(document, "enabled"))


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """The one replay job a scope has. Times in seconds since the epoch."""

    start: float | None
    end: float | None
    state: ReplayState
    updated_at: float | None

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(
            start=_moment(document.get("start_at")),
            end=_moment(document.get("end_at")),
            state=_member(ReplayState, _text(document, "status", ""), ReplayState.UNKNOWN),
            updated_at=_moment(document.get("updated_at")),
        )


@dataclass(frozen=True, slots=True)
class DestinationInfo:
    """A destination in Konnect's sense: where webhooks send. Its authorization never comes back."""

    id: str
    name: str
    endpoint: str
    log_format: str
    skip_ssl_verification: bool

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(
            id=_text(document, "id"),
            name=_text(document, "name"),
            endpoint=_text(document, "endpoint"),
            log_format=_text(document, "log_format", ""),
            skip_ssl_verification=document.get("skip_ssl_verification") is True,
        )


@dataclass(frozen=True, slots=True)
class PulledPage:
    """A page of the organisation's log, newest first, its entries as they came (keys in their order)."""

    entries: tuple[Mapping[str, object], ...]
    cursor: str | None  # of the next page; None: this is the last one
    repeated: bool = False  # the next page would have been one seen before: what follows is out of reach


def documents(document: Document) -> list[Document]:
    """What stands under `data` in a list."""
    data = document.get("data")
    if not isinstance(data, list) or not all(isinstance(each, Mapping) for each in data):
        raise Unreadable("data is no list of objects")
    return data


def rfc3339(seconds: float) -> str:
    """As the API takes times: UTC, milliseconds."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def _moment(value: object) -> float | None:
    """Seconds since the epoch; Konnect's year 1 stands for never."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Unreadable("a time that is no text")
    moment = datetime.fromisoformat(value)
    if moment.year == 1:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _text(document: Document, name: str, otherwise: str | None = None) -> str:
    value = document.get(name, otherwise)
    if not isinstance(value, str):
        raise Unreadable(f"{name} is no text")
    return value


def _flag(document: Document, name: str) -> bool:
    value = document.get(name, False)
    if not isinstance(value, bool):
        raise Unreadable(f"{name} is neither true nor false")
    return value


def _whole_or_none(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value or None
    raise Unreadable("a status code that is no number")


def _member(kind: type[Member], word: str, otherwise: Member) -> Member:
    return kind(word) if word in {*kind} else otherwise
