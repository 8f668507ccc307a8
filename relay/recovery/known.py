"""Which pulled entries were received before, in another writing: docs/konnect.md section 6.6 (c).

A pulled entry and a webhook's line have no id in common. What is compared is what both schemas say of an
event: organisation, portal, kind, trace, time to the millisecond, principal, what was asked and answered. The
name of an authorization is left out, for the two schemas write it differently; so several checks of one trace
in one millisecond may look alike. They are counted: the log that is pulled is complete, so when as many were
received as there are, none is missing. When some are, and nobody can tell which, all of them are taken:
twice is better than never.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from relay.konnect.lines import identity
from relay.konnect.parse import parse
from relay.konnect.pulled import MARK
from relay.konnect.record import Record
from relay.konnect.times import event_time
from relay.recovery.state import Window

Key = int
_PULLED: Final = (MARK, True)


def keys_of(lines: Iterable[bytes], window: Window) -> list[tuple[int, Key]]:
    """The keys of those received lines that happened in *window*, and when, without pulled ones.

    A line that does not tell when has none: what it would be compared with tells.
    """
    first, last = int(window.start * 1000), int(window.end * 1000) + 1
    found = []
    for line in lines:
        at = event_time(identity(line))
        if at is not None and first <= at <= last:
            record = parse(line)
            if record is not None and _PULLED not in record.extra:
                found.append((at, key_of(record)))
    return found


def key_of(record: Record) -> Key:
    """A number alike for the same event in both schemas, within this process."""
    kind = _kind(record.name)
    asked = (record.action, record.granted)
    if kind != "authorization":
        asked = (record.act, record.request, record.status, record.success)  # type: ignore[assignment]
    return hash(
        (
            record.org_id or "",
            record.portal_id or "",
            kind,
            record.trace_id or "",
            record.rt,
            record.principal_id or "",
            *[each or "" for each in asked],
        )
    )


def missing(lines: Sequence[bytes], received: Counter[Key]) -> list[bytes]:
    """Those of the pulled *lines* that were not received, in their order."""
    groups: defaultdict[Key, list[bytes]] = defaultdict(list)
    keys = []
    for line in lines:
        record = parse(line)
        key = hash(line) if record is None else key_of(record)
        keys.append(key)
        groups[key].append(line)
    left = {key: _left(group, received[key]) for key, group in groups.items()}
    found = []
    for key, line in zip(keys, lines, strict=True):
        if left[key]:
            left[key] -= 1
            found.append(line)
    return found


def _left(group: list[bytes], received: int) -> int:
    """How many of these are to be taken."""
    if received >= len(group):
        return 0
    return len(group) - received if len(set(group)) == 1 else len(group)


def _kind(name: str | None) -> str:
    if name is None:
        return "unknown"
    if name.startswith("Authz."):
        return "authorization"
    return "authentication" if name.startswith("AUTHENTICATION_OUTCOME_") else "access"
