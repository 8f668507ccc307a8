"""The circuit of one destination: closed, open (held), or closed again and starting slowly.

Owns how many events the next chunk may hold and nothing else: it neither waits, nor stores the hold,
nor knows when the next probe is due. docs/states.md draws it.
"""

from __future__ import annotations

from relay.model import Hold, HoldReason


class Circuit:
    """Starts closed and at full size, or open with the *hold* an earlier run stored."""

    def __init__(self, *, probe_max_events: int, max_events: int, hold: Hold | None = None) -> None:
        self._small = min(probe_max_events, max_events)
        self._full = max_events
        self._limit = max_events if hold is None else self._small
        self._hold = hold

    def __repr__(self) -> str:
        return f"<Circuit {self._hold.reason if self._hold else 'closed'} {self._limit}/{self._full}>"

    @property
    def hold(self) -> Hold | None:
        return self._hold

    @property
    def is_open(self) -> bool:
        return self._hold is not None

    @property
    def is_paused(self) -> bool:
        """Held by an operator: not even probes go out."""
        return self._hold is not None and self._hold.reason is HoldReason.OPERATOR

    @property
    def is_steady(self) -> bool:
        """Closed and past the slow start: several requests may be in flight at once."""
        return self._hold is None and self._limit == self._full

    @property
    def limit(self) -> int:
        """Events the next chunk may hold."""
        return self._limit

    def open(self, hold: Hold) -> None:
        """Open, or note the present reason of a circuit that is open already."""
        self._hold = hold
        self._limit = self._small

    def close(self) -> None:
        """Close. The next chunks start small, so that a destination that just came back survives."""
        self._hold = None

    def succeeded(self) -> None:
        """A chunk was taken while closed: the next one may be twice as large."""
        self._limit = min(self._full, self._limit * 2)
