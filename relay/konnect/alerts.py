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
    seen: dict[str, int] = field(default_factory=dict)  # event id: when it happened
    told: set[str] = field(default_factory=set)  # ids of the events that completed a burst


class Bursts:
    """Finds the failed login that makes a burst of those before it.

    Goes by the events' own ids and times, so that an event that is read again, after a retry or a hold, is
    judged as it was before. Remembers a bounded number of accounts and addresses; what was quiet for longest
    is forgotten first.
    """

    EVENTS: Final = 5
    SPAN_MS: Final = 300_000
    WINDOWS: Final = 10_000
    MOST: Final = 1_000  # events of one window; a brute force is told of long before

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def completes(self, record: Record, event_id: str, at: int) -> bool:
        """Whether this failed login, at *at* in milliseconds, is the fifth in five minutes, the tenth, …"""
        keys = (("principal", record.principal_id), ("src", record.src))
        # Every window has to take note of it, also behind the first one that it completes.
        completed = [self._note((kind, name), event_id, at) for kind, name in keys if name]
        return True in completed

    def _note(self, key: tuple[str, str], event_id: str, at: int) -> bool:
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
            if len(self._windows) > self.WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(key)
        if event_id in window.seen:
            return event_id in window.told
        window.newest = max(window.newest, at)
        start = window.newest - self.SPAN_MS
        if at < start:  # a replay of old events: they are no burst of today
            return False
        window.seen = {name: then for name, then in window.seen.items() if then >= start}
        window.told &= window.seen.keys()
        if len(window.seen) >= self.MOST:
            del window.seen[next(iter(window.seen))]
        window.seen[event_id] = at
        if len(window.seen) - self.EVENTS * len(window.told) < self.EVENTS:
            return False
        window.told.add(event_id)
        return True
