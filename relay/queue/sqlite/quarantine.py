"""Quarantine: bytes nobody could understand, kept for a person to look at, within a bounded space."""

from __future__ import annotations

import sqlite3

from relay.clock import Clock
from relay.queue.sqlite.log import next_sequence
from relay.queue.sqlite.rows import BatchRow
from relay.queue.sqlite.writer import Writer

_BYTES = 64 << 20  # the oldest make room for new ones


class Quarantine:
    """Undecodable request bodies, and batches that fail their checksum."""

    def __init__(self, connection: sqlite3.Connection, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self.entries: int = connection.execute("SELECT count(*) FROM quarantine").fetchone()[0]

    async def keep_body(self, source: str, body: bytes, cause: str) -> None:
        now = self._clock.now()

        def run(connection: sqlite3.Connection) -> int:
            connection.execute(
                "INSERT INTO quarantine (created_at, source, cause, body) VALUES (?,?,?,?)",
                (now, source, cause, body),
            )
            return _bound(connection)

        self.entries = await self._writer.submit(run)

    async def move_batch(self, row: BatchRow, source: str) -> bool:
        """Take a batch out of the log; False when another reader did so first."""
        now = self._clock.now()

        def run(connection: sqlite3.Connection) -> int:
            # Were it the last batch, its numbers must not be given out a second time.
            connection.execute(
                "INSERT INTO meta VALUES ('next_sequence', ?1)"
                " ON CONFLICT DO UPDATE SET value=max(value, ?1)",
                (next_sequence(connection),),
            )
            if not connection.execute("DELETE FROM batches WHERE sequence=?", (row.sequence,)).rowcount:
                return -1
            connection.execute("UPDATE meta SET value=value-1 WHERE key='batches'")
            connection.execute(
                "INSERT INTO quarantine (created_at, source, cause, sequence, count, body)"
                " VALUES (?,?,'checksum',?,?,?)",
                (now, source, row.sequence, row.events, row.payload or b""),
            )
            return _bound(connection)

        entries = await self._writer.submit(run)
        if entries < 0:
            return False
        self.entries = entries
        return True


def _bound(connection: sqlite3.Connection) -> int:
    """Delete the oldest beyond the limit; how many are left."""
    connection.execute(
        "DELETE FROM quarantine WHERE id IN (SELECT id FROM (SELECT id, sum(length(body)) OVER"
        f" (ORDER BY id DESC) AS kept FROM quarantine) WHERE kept > {_BYTES})"
    )
    return int(connection.execute("SELECT count(*) FROM quarantine").fetchone()[0])
