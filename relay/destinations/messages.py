"""Events as a message that people read: for chat rooms and pagers.

Owns the words and the three envelopes (Slack, Microsoft Teams, PagerDuty). Much of an event's text is chosen
by whoever calls Konnect, so it is only ever sent as plain text: no envelope here lets it format, link or
mention. Never classifies an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal

import orjson

from relay.konnect.alerts import Alert, alert, is_failed_login
from relay.konnect.parse import parse
from relay.konnect.record import Record
from relay.konnect.times import happened_at
from relay.model import Event

Severity = Literal["critical", "error", "warning", "info"]

_MOST_LINES: Final = 20  # of a message; what comes on top is counted
_MOST_CHARS: Final = 120  # of one value
_SLACK_BLOCK: Final = 3_000  # characters; https://docs.slack.dev/reference/block-kit/blocks/section-block
_TEAMS_TEXT: Final = 10_000  # characters; a card may have 28 KB
_REST: Final = "… and {:,} more"
_SUMMARY: Final = 1_024  # characters; https://developer.pagerduty.com/docs/send-alert-event

_TITLES: Final[Mapping[Alert | None, str]] = MappingProxyType(
    {
        Alert.CRITICAL: "Konnect failed",
        Alert.LOCKED: "Login to a locked or disabled account",
        Alert.SUSPICIOUS: "Login with unknown or invalid credentials",
        Alert.DENIED: "Access denied",
        Alert.BURST: "Many failed logins",
        None: "Audit event",
    }
)
_SEVERITIES: Final[Mapping[Alert | None, Severity]] = MappingProxyType(
    {
        Alert.CRITICAL: "critical",
        Alert.LOCKED: "error",
        Alert.SUSPICIOUS: "warning",
        Alert.DENIED: "warning",
        Alert.BURST: "error",
        None: "info",
    }
)
_ORDER: Final[tuple[Severity, ...]] = ("critical", "error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be said of a chunk."""

    headline: str
    lines: tuple[str, ...]  # one for each event, the first ones
    more: int  # events beyond those
    severity: Severity
    id: str  # of the first event: the same chunk sent again is the same message
    at: int  # milliseconds since the epoch, of the first event

    @classmethod
    def of(cls, events: Sequence[Event]) -> Message:
        """*events* must not be empty."""
        seen: Counter[Alert | None] = Counter()
        lines: list[str] = []
        for event in events:
            record = parse(event.received)
            kind = None if record is None else _kind(record)
            seen[kind] += 1
            if len(lines) < _MOST_LINES:
                lines.append(_sentence(event, record, kind))
        severities = {_SEVERITIES[kind] for kind in seen}
        headline = ", ".join(f"{_TITLES[kind]} ({count})" for kind, count in seen.most_common())
        return cls(
            headline=headline,
            lines=tuple(lines),
            more=len(events) - len(lines),
            severity=min(severities, key=_ORDER.index),
            id=events[0].id,
            at=happened_at(events[0]),
        )

    def text(self, most: int) -> str:
        """A line for each event, in at most *most* characters; what is left out is counted."""
        lines: list[str] = []
        room = most - len(_REST.format(len(self.lines) + self.more))
        for line in self.lines:
            room -= len(line) + 1
            if room < 0:
                break
            lines.append(line)
        more = self.more + len(self.lines) - len(lines)
        return "\n".join([*lines, _REST.format(more)] if more else lines)


def slack(events: Sequence[Event]) -> bytes:
    """For an incoming webhook of Slack."""
    message = Message.of(events)
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": message.headline[:150], "emoji": False}},
        {
            "type": "section",
            "text": {"type": "plain_text", "text": message.text(_SLACK_BLOCK), "emoji": False},
        },
    ]
    # `text` is what notifications show; there only `&`, `<` and `>` mean anything.
    return orjson.dumps({"text": _slack_text(message.headline), "blocks": blocks})


def teams(events: Sequence[Event]) -> bytes:
    """For a workflow of Microsoft Teams that posts to a channel when a webhook request is received."""
    message = Message.of(events)
    runs = [{"type": "TextRun", "text": f"{line}\n"} for line in message.text(_TEAMS_TEXT).splitlines()]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {
                "type": "RichTextBlock",
                "inlines": [{"type": "TextRun", "text": message.headline, "weight": "bolder"}],
            },
            {"type": "RichTextBlock", "inlines": runs},
        ],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return orjson.dumps({"type": "message", "attachments": [attachment]})


def pagerduty(events: Sequence[Event], *, routing_key: str = "") -> bytes:
    """For PagerDuty's Events API v2."""
    message = Message.of(events)
    return orjson.dumps(
        {
            "routing_key": routing_key,
            "event_action": "trigger",
            "dedup_key": message.id,
            "payload": {
                "summary": message.headline[:_SUMMARY],
                "source": "Kong Konnect",
                "severity": message.severity,
                "timestamp": _rfc3339(message.at),
                "custom_details": {"events": list(message.lines), "more": message.more},
            },
        }
    )


def _kind(record: Record) -> Alert | None:
    # The filter `alerts` lets a failed login through that is nothing by itself where it completes a burst.
    return alert(record) or (Alert.BURST if is_failed_login(record) else None)


def _sentence(event: Event, record: Record | None, kind: Alert | None) -> str:
    """One event in one line."""
    when = _rfc3339(happened_at(event))
    if record is None:
        return f"{when} {_TITLES[kind]}: {_plain(event.received.decode(errors='replace'))}"
    who = record.principal_name or record.principal_id or "somebody"
    what = [record.name, record.action, record.act, record.request]
    parts = [
        f"{when} {_TITLES[kind]}: {_plain(who)}",
        f"from {_plain(record.src)}" if record.src else "",
        " ".join(_plain(part) for part in what if part),
        f"answered {record.status}" if record.status is not None else "",
        f"({event.source}, id {event.id})",
    ]
    return " ".join(part for part in parts if part)


def _plain(text: str) -> str:
    """One line of printable characters, not endless."""
    cleaned = "".join([c if c.isprintable() else " " for c in text]).strip()
    return cleaned if len(cleaned) <= _MOST_CHARS else f"{cleaned[: _MOST_CHARS - 1]}…"


def _slack_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _rfc3339(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
