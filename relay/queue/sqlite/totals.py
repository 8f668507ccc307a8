"""How many events were accepted, per source and format, ever; and how many batches are stored.

Counting in every commit would add a page to each. So the counts are written about once a second,
with the number of the event up to which they are true; at start the few batches behind it are added.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relay.model import Format
from relay.queue.sqlite.rows import COLUMNS, BatchRow, decode_formats


@dataclass(slots=True)
class Counts:
    """What was added since some moment."""

    accepted: Counter[tuple[str, Format]] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    last_received: dict[str, float] = field(default_factory=dict)
    batches: int = 0

    def __bool__(self) -> bool:
        return bool(self.accepted or self.duplicates)

    def add(self, other: Counts) -> None:
        self.accepted.update(other.accepted)
        self.duplicates.update(other.duplicates)
        for source, at in other.last_received.items():
            self.last_received[source] = max(at, self.last_received.get(source, at))
        self.batches += other.batches

    def write(self, connection: sqlite3.Connection, sources: Mapping[str, int], counted_to: int) -> None:
        """Add to the stored counts, which are then true of all events below number *counted_to*."""
        connection.executemany(
            "INSERT INTO accepted VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET events=events+?3",
            [(sources[source], name.value, n) for (source, name), n in self.accepted.items()],
        )
        connection.executemany(
            "UPDATE sources SET duplicates=duplicates+? WHERE name=?",
            [(n, name) for name, n in self.duplicates.items()],
        )
        meta = [(f"last_received:{name}", at) for name, at in self.last_received.items()]
        connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?,?)", [*meta, ("counted_to", counted_to)]
        )
        connection.execute(
            "INSERT INTO meta VALUES ('batches', ?1) ON CONFLICT DO UPDATE SET value=value+?1",
            (self.batches,),
        )


class Totals:
    """All counts since the queue was made, and the part of them that is not stored yet."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.all = Counts()
        self._new = Counts()
        names = dict(connection.execute("SELECT id, name FROM sources").fetchall())
        meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        self.all.batches = int(meta.get("batches", 0))
        for source, name, events in connection.execute("SELECT source, format, events FROM accepted"):
            self.all.accepted[names[source], Format(name)] = events
        for name, duplicates in connection.execute("SELECT name, duplicates FROM sources"):
            self.all.duplicates[name] = duplicates
            if (at := meta.get(f"last_received:{name}")) is not None:
                self.all.last_received[name] = at
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM batches WHERE sequence >= ?", (int(meta.get("counted_to", 1)),)
        )
        for row in map(BatchRow._make, rows):
            if row.intact and row.source in names:
                heard = None if row.pulled else row.received_at
                self.add(names[row.source], decode_formats(row.formats, row.events), 1, 0, heard)

    def add(
        self,
        source: str,
        formats: Sequence[tuple[Format, int]],
        batches: int,
        duplicates: int,
        heard: float | None,
    ) -> None:
        """*heard*: when the source sent them; None: the relay pulled them."""
        for counts in (self.all, self._new):
            for name, events in formats:
                counts.accepted[source, name] += events
            if duplicates:
                counts.duplicates[source] += duplicates
            if batches:
                counts.batches += batches
                if heard is not None:
                    counts.last_received[source] = max(heard, counts.last_received.get(source, heard))

    def take(self) -> Counts:
        """The counts that are not stored yet; `give_back` what could not be written."""
        taken, self._new = self._new, Counts()
        return taken

    def give_back(self, counts: Counts) -> None:
        self._new.add(counts)
