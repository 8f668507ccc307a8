"""What a dead letter looks like in the state bucket, and what its destination's account says of it.

    key      dead.<destination>.<number of the event, or of a range's first one>
    headers  Relay-Letter: {"v":1,"reason":"rejected",…}: all that is known without the line
    value    the line; nothing for a range, whose bytes are gone

A letter's id is the revision of its key. One that is refused again is written anew under the same key, so it
gets a new id, and an event buried twice is one letter all the same. Never reads or writes the bucket.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from relay import gzipped
from relay.errors import QueueError
from relay.konnect.lines import format_of
from relay.model import DeadLetter, Event, Position, ReaderKind, Reason
from relay.queue.base import StoredDeadLetter
from relay.queue.jetstream.bucket import Change, Entry
from relay.queue.jetstream.message import name_of, token
from relay.queue.jetstream.record import Account, LetterRule, ReaderRecord

PREFIX: Final = "dead"
HEADER: Final = "Relay-Letter"
VERSION: Final = 1
_DETAIL: Final = 4_000  # characters; escaped they are twelve bytes at most, and headers end at 64 KiB
_OWED: Final = (ReaderKind.LIVE, ReaderKind.BACKFILL)
_LARGE: Final = 64 << 10  # bytes of a line that is kept gzip'd: it came gzip'd, and may exceed a message


# -- the form ----------------------------------------------------------------------------------


def change_of(destination: str, letter: DeadLetter, number: int, now: float) -> Change:
    """A letter to be stored; *number* is that of its event."""
    event, response = letter.event, letter.response
    large = len(event.line) > _LARGE
    about: dict[str, object] = {
        "v": VERSION,
        "reason": letter.reason,
        "number": number,
        "count": 1,
        "created_at": now,
        "status": response.status,
        "detail": response.detail[:_DETAIL],
        "excerpt": b64encode(response.excerpt).decode(),
        "attempts": response.attempt,
        "event_id": event.id,
        "source": event.source,
        "received_at": event.received_at,
        "gzip": large,
    }
    return _change(destination, number, gzipped.compress(event.line) if large else event.line, about)


def range_change(
    destination: str, reason: Reason, number: int, count: int, now: float, detail: str
) -> Change:
    """A letter for *count* events from *number* on whose bytes are gone."""
    about: dict[str, object] = {
        "v": VERSION,
        "reason": reason,
        "number": number,
        "count": count,
        "created_at": now,
        "detail": detail,
    }
    return _change(destination, number, b"", about)


def _change(destination: str, number: int, value: bytes, about: dict[str, object]) -> Change:
    # Escaped to plain ASCII: a header is one line, and a destination's words may hold anything.
    headers = {HEADER: json.dumps(about, separators=(",", ":"))}
    return Change(f"{prefix(destination)}.{number}", value, headers=headers)


def joined(last: Change | None, changes: Iterable[Change]) -> list[Change]:
    """The *changes*, with ranges made one where a range continues the one before it.

    Releasing events makes a range each time, thousands a day while a destination lags behind; *last* is the
    range that was stored last, as long as it is known to be there unchanged. What continues it takes its key.
    """
    found: list[Change] = []
    before = last
    for change in changes:
        longer = None if before is None else _longer(before, change)
        if longer is None:
            found.append(change)
        elif found and found[-1] is before:
            found[-1] = longer
        else:
            found.append(longer)
        before = longer or change
    return found


def _longer(before: Change, change: Change) -> Change | None:
    about, more = json.loads(before.headers[HEADER]), json.loads(change.headers[HEADER])
    if "event_id" in about or "event_id" in more or about["reason"] != more["reason"]:
        return None
    if before.key.rpartition(".")[0] != change.key.rpartition(".")[0]:
        return None
    if about["number"] + about["count"] != more["number"]:
        return None
    about["count"] += more["count"]
    return replace(before, headers={HEADER: json.dumps(about, separators=(",", ":"))})


class NotALetter(QueueError):
    """Somebody else wrote among the dead letters, or a later version of the relay did."""


def stored(entry: Entry, redriving: bool = False) -> StoredDeadLetter:
    """An entry as a letter, without its line where only headers were read. Raises `NotALetter`."""
    try:
        _, destination, _ = entry.key.split(".")
        about = json.loads(entry.headers[HEADER])
        if about["v"] > VERSION:
            raise NotALetter
        event = None
        if "event_id" in about:
            line = gzipped.decompress(entry.value) if about["gzip"] else entry.value
            event = Event(about["event_id"], line, format_of(line), about["source"], about["received_at"])
        return StoredDeadLetter(
            id=entry.revision,
            destination=name_of(destination),
            reason=Reason(about["reason"]),
            position=Position(about["number"]),
            count=about["count"],
            created_at=about["created_at"],
            status=about.get("status"),
            detail=about["detail"],
            excerpt=b64decode(about.get("excerpt", "")),
            attempts=about.get("attempts", 0),
            event=event,
            redriving=redriving,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise NotALetter from error


def key_of(letter: StoredDeadLetter) -> str:
    return f"{prefix(letter.destination)}.{letter.position.sequence}"


def prefix(destination: str) -> str:
    return f"{PREFIX}.{token(destination)}"


# -- what an account says of a letter ----------------------------------------------------------


def redrive_of(account: Account) -> ReaderRecord | None:
    """The account's redrive reader; there is at most one."""
    return next((reader for reader in account.readers if reader.kind is ReaderKind.REDRIVE), None)


def rules_of(account: Account) -> tuple[LetterRule, ...]:
    reader = redrive_of(account)
    return () if reader is None else reader.rules


def marked(rules: Sequence[LetterRule], letter: StoredDeadLetter) -> bool:
    """Whether a redrive takes the letter."""
    return letter.event is not None and any(_takes(rule, letter) for rule in rules)


def _takes(rule: LetterRule, letter: StoredDeadLetter) -> bool:
    return (
        letter.id <= rule.until
        and rule.reason in (None, letter.reason)
        and (rule.since is None or letter.created_at >= rule.since)
        and (rule.revisions is None or _holds(rule.revisions, letter.id))
    )


def _holds(ascending: Sequence[int], number: int) -> bool:
    at = bisect_left(ascending, number)
    return at < len(ascending) and ascending[at] == number


def counted(account: Account, letter: StoredDeadLetter) -> bool:
    """Whether the books hold the letter: no reader has its event before it still."""
    number = letter.position.sequence
    return not any(
        reader.mark.number <= number and (reader.stop is None or number < reader.stop.number)
        for reader in account.readers
        if reader.kind in _OWED
    )
