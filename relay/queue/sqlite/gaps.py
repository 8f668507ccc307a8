"""Gaps: spans in which Konnect may have given up on events, as rows.

Kept in memory first: the usual reason for a refusal is a disk that takes nothing, not even this.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Final

from relay.errors import NotFound
from relay.model import Gap
from relay.queue.gaps import check_known, joined, place_of, surplus

COLUMNS: Final = "id, source, start, end, cause, refusals, closed_at, lost_until"
ALIVE: Final = "alive_at"
"""The key in `meta` of when the relay was last known to accept, in seconds since the epoch."""


class Gaps:
    """All gaps, and which of them are not stored as they are."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._all = {gap.id: gap for gap in read(connection)}
        self._next_id = 1 + max(self._all, default=0)
        self._changed: set[int] = set()

    def note(self, source: str, start: float, end: float, cause: str, refusals: int = 1) -> None:
        """A span of trouble; joined with a recent one of the same source and cause."""
        noted = Gap(0, source, start, end, cause, refusals)
        known = place_of(noted, self.open())
        if known is None:
            known = replace(noted, id=self._next_id)
            self._next_id += 1
        else:
            known = joined(known, noted)
        self._all[known.id] = known
        self._changed.add(known.id)

    def close(self, number: int, at: float, lost_until: float | None, known: Gap | None = None) -> None:
        """Closing a closed one changes nothing. Raises `NotFound`, `Conflict` if it is more than *known*."""
        gap = self._all.get(number)
        if gap is None:
            raise NotFound(f"There is no gap {number}.")
        if gap.closed_at is None:
            check_known(gap, known)
            self._all[number] = replace(gap, closed_at=at, lost_until=lost_until)
            self._changed.add(number)

    def open(self) -> list[Gap]:
        return [gap for gap in self._all.values() if gap.closed_at is None]

    def all(self) -> list[Gap]:
        """Closed ones as well."""
        return list(self._all.values())

    def take(self) -> list[Gap]:
        """Gaps that changed since they were stored."""
        taken = [self._all[number] for number in sorted(self._changed)]
        self._changed.clear()
        return taken

    def give_back(self, gaps: list[Gap]) -> None:
        self._changed.update(gap.id for gap in gaps)

    def forget(self) -> list[int]:
        """Forget what is too much; the ids of what is to be deleted."""
        gone = [gap.id for gap in surplus(self._all.values()) if gap.id not in self._changed]
        for number in gone:
            del self._all[number]
        return gone

    @staticmethod
    def write(connection: sqlite3.Connection, gaps: list[Gap]) -> None:
        connection.executemany(
            f"INSERT OR REPLACE INTO gaps ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", [_row(gap) for gap in gaps]
        )

    @staticmethod
    def delete(connection: sqlite3.Connection, numbers: list[int]) -> None:
        connection.executemany("DELETE FROM gaps WHERE id=?", [(number,) for number in numbers])


def read(connection: sqlite3.Connection) -> list[Gap]:
    """All gaps as they are stored, by id."""
    return [Gap(*row) for row in connection.execute(f"SELECT {COLUMNS} FROM gaps ORDER BY id")]


def _row(gap: Gap) -> tuple[object, ...]:
    return (gap.id, gap.source, gap.start, gap.end, gap.cause, gap.refusals, gap.closed_at, gap.lost_until)


def read_alive(connection: sqlite3.Connection) -> float | None:
    """When the relay was last known to accept; None where nobody has told."""
    row = connection.execute("SELECT value FROM meta WHERE key=?", (ALIVE,)).fetchone()
    return None if row is None else float(row[0])
