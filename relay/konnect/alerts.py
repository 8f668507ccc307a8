"""What Kong advises to be alerted of (docs/konnect.md section 3), told from an event.

Owns the conditions. A burst of failed logins is a matter of several events: `Bursts` remembers just enough of
them. Knows nothing of destinations, and never fails on what an event holds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from relay.konnect.peek import EventType, event_type
from relay.konnect.record import Record
from relay.konnect.times import happened_at
from relay.model import Event


class Alert(StrEnum):
    """Why somebody should look; the first that applies."""

    CRITICAL = "critical"  # severity 10: Konnect itself failed with 500
    LOCKED = "locked"  # a login to an account that is locked or disabled
    SUSPICIOUS = "suspicious"  # a login of severity 7: credentials that are unknown or invalid
    DENIED = "denied"  # an authorization check said no, or a request was answered 401 or 403
    BURST = "burst"  # many failed logins from one place or of one account


LOGIN_SUCCEEDED: Final = "AUTHENTICATION_OUTCOME_SUCCESS"
LEAST_SEVERITY: Final = 6  # below it only failed logins matter, and only many of them

_CRITICAL: Final = 10
_DENIED: Final = LEAST_SEVERITY
_SUSPICIOUS: Final = 7
_LOCKED: Final = frozenset({"AUTHENTICATION_OUTCOME_LOCKED", "AUTHENTICATION_OUTCOME_DISABLED"})
_REFUSALS: Final = frozenset({401, 403})


def alert(record: Record) -> Alert | None:
    """What one event by itself is an alert of; never of what Kong did on its own account."""
    if record.kong_initiated:
        return None
    severity = record.severity or 0
    if severity >= _CRITICAL:
        return Alert.CRITICAL
    match event_type(record.name or ""):
        case EventType.AUTHENTICATION if record.name in _LOCKED:
            return Alert.LOCKED
        case EventType.AUTHENTICATION if severity >= _SUSPICIOUS:
            return Alert.SUSPICIOUS
        case EventType.AUTHORIZATION if record.granted is False or severity >= _DENIED:
            return Alert.DENIED
        case EventType.ACCESS if record.status in _REFUSALS or severity >= _DENIED:
            return Alert.DENIED
    return None


def is_failed_login(record: Record) -> bool:
    """Whether somebody tried to log in and did not succeed."""
    return event_type(record.name or "") is EventType.AUTHENTICATION and (
        record.success is False or record.name != LOGIN_SUCCEEDED
    )


@dataclass(slots=True)
class _Window:
    """Failed logins of one account, or from one address, that happened close to each other."""

    newest: int = 0  # milliseconds since the epoch
    seen: OrderedDict[str, int] = field(default_factory=OrderedDict)  # event id: when it happened
    untold: OrderedDict[str, int] = field(default_factory=OrderedDict)  # those of no burst yet

    def forget(self, start: int, most: int) -> None:
        """Let go of what happened before *start*, or of the oldest where there are too many."""
        while self.seen and (len(self.seen) >= most or next(iter(self.seen.values())) < start):
            name, _ = self.seen.popitem(last=False)
            self.untold.pop(name, None)


class Bursts:
    """Finds the failed login that makes a burst of those before it.

    Goes by the events' own ids and times, so that an event that is read again, after a retry or a hold, is
    judged as it was before, while a window has room. Remembers a bounded number of accounts, addresses and
    bursts; what was quiet for longest is forgotten first. An event costs the same however many there are.
    """

    EVENTS: Final = 5
    SPAN_MS: Final = 300_000
    WINDOWS: Final = 10_000
    MOST: Final = 1_000  # events of one window; a brute force is told of long before
    TOLD: Final = 10_000  # bursts
    AHEAD_MS: Final = 60_000  # by which an event's clock may be ahead of ours

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._told: OrderedDict[str, None] = OrderedDict()  # ids of the events that completed a burst

    def completes(self, record: Record, event: Event) -> bool:
        """Whether this failed login is the fifth, tenth, … in five minutes, by account or by address."""
        if event.id in self._told:
            return True
        # A time in the future would make everything after it look old.
        at = min(happened_at(event), round(event.received_at * 1000) + self.AHEAD_MS)
        keys = [("principal", record.principal_id), ("src", record.src)]
        # Every window has to take note of it, also behind the first one that it completes.
        completed = [self._note((kind, name), event.id, at) for kind, name in keys if name and _tells(name)]
        if True not in completed:
            return False
        self._told[event.id] = None
        if len(self._told) > self.TOLD:
            self._told.popitem(last=False)
        return True

    def _note(self, key: tuple[str, str], event_id: str, at: int) -> bool:
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
            if len(self._windows) > self.WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(key)
        if event_id in window.seen:
            return False
        window.newest = max(window.newest, at)
        start = window.newest - self.SPAN_MS
        if at < start:  # a replay of old events: they are no burst of today
            return False
        window.forget(start, self.MOST)
        window.seen[event_id] = window.untold[event_id] = at
        if len(window.untold) < self.EVENTS:
            return False
        window.untold.clear()
        return True


def _tells(name: str) -> bool:
    """Whether it tells one from another: `src` is often an address of Kong's own mesh."""
    return not name.startswith("127.") and name != "::1"
