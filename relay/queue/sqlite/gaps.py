"""Gaps: spans in which requests were refused, so that Konnect may have given up on their batches.

Kept in memory first: the usual reason for a refusal is a disk that takes nothing, not even this.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from relay.model import Gap

# Konnect tries again for at most about two minutes; refusals closer together are one trouble.
_JOIN_SECONDS = 120.0


class Gaps:
    """All open gaps and what of them is not stored yet."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._open = [
            Gap(*row)
            for row in connection.execute(
                "SELECT id, source, start, end, cause, refusals, closed_at FROM gaps WHERE closed_at IS NULL"
            )
        ]
        self._next_id = 1 + connection.execute("SELECT coalesce(max(id), 0) FROM gaps").fetchone()[0]
        self._changed: set[int] = set()

    def note(self, source: str, start: float, end: float, cause: str) -> None:
        """A refusal, or a span of them; joined with a recent one of the same source and cause."""
        for n, gap in enumerate(self._open):
            near = start - _JOIN_SECONDS <= gap.end and gap.start <= end + _JOIN_SECONDS
            if gap.source == source and gap.cause == cause and near:
                self._open[n] = replace(
                    gap, start=min(gap.start, start), end=max(gap.end, end), refusals=gap.refusals + 1
                )
                self._changed.add(gap.id)
                return
        self._open.append(Gap(self._next_id, source, start, end, cause, 1))
        self._changed.add(self._next_id)
        self._next_id += 1

    def open(self) -> list[Gap]:
        return list(self._open)

    def take(self) -> list[Gap]:
        """Gaps that changed since they were stored."""
        taken = [gap for gap in self._open if gap.id in self._changed]
        self._changed.clear()
        return taken

    def give_back(self, gaps: list[Gap]) -> None:
        self._changed.update(gap.id for gap in gaps)

    @staticmethod
    def write(connection: sqlite3.Connection, gaps: list[Gap]) -> None:
        connection.executemany(
            "INSERT OR REPLACE INTO gaps (id, source, start, end, cause, refusals, closed_at)"
            " VALUES (?,?,?,?,?,?,?)",
            [(g.id, g.source, g.start, g.end, g.cause, g.refusals, g.closed_at) for g in gaps],
        )
