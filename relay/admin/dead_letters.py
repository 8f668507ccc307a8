"""Dead letters as the API shows them.

A list says what happened; the event's line and the destination's answer are content and shown
only where one dead letter is asked for by its id.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from relay.admin.times import rfc3339, rfc3339_or_none
from relay.model import Format, Reason
from relay.queue.base import StoredDeadLetter


@dataclass(frozen=True, slots=True)
class DeadLetterSummary:
    """A dead letter without content."""

    id: int
    destination: str
    reason: Reason
    created_at: str
    status: int | None  # the destination's answer
    detail: str
    attempts: int
    position: str  # place in the log
    count: int  # events; more than one only where their bytes are gone
    event_id: str | None
    source: str | None
    format: Format | None
    received_at: str | None
    redriving: bool


@dataclass(frozen=True, slots=True)
class DeadLetterDetail:
    """A dead letter with everything that is kept of it."""

    summary: DeadLetterSummary
    line: str | None  # None where the bytes are gone
    line_base64: str | None  # the exact bytes, where they are not UTF-8
    response_excerpt: str  # the first KiB of the destination's answer


def summary(letter: StoredDeadLetter) -> DeadLetterSummary:
    event = letter.event
    return DeadLetterSummary(
        id=letter.id,
        destination=letter.destination,
        reason=letter.reason,
        created_at=rfc3339(letter.created_at),
        status=letter.status,
        detail=letter.detail,
        attempts=letter.attempts,
        position=str(letter.position),
        count=letter.count,
        event_id=event.id if event else None,
        source=event.source if event else None,
        format=event.format if event else None,
        received_at=rfc3339_or_none(event.received_at if event else None),
        redriving=letter.redriving,
    )


def detail(letter: StoredDeadLetter) -> DeadLetterDetail:
    line = letter.event.line if letter.event else None
    text = None if line is None else line.decode("utf-8", "replace")
    exact = line is None or text is None or text.encode() == line
    return DeadLetterDetail(
        summary=summary(letter),
        line=text,
        line_base64=None if exact or line is None else b64encode(line).decode(),
        response_excerpt=letter.excerpt.decode("utf-8", "replace"),
    )
