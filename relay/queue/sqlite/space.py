"""Room: retention, the size limit, the free-disk floor, and giving space back.

Works in small transactions between appends. What is given back, and in which order, is the promise
of architecture.md section 4: retained events that everyone has; then, if so configured and somebody is
up to date, the oldest events owed to the destination furthest behind; and otherwise nothing - the
intake refuses.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from relay import gzipped
from relay.clock import Clock
from relay.errors import QueueFull
from relay.model import ReaderKind
from relay.queue.sqlite.accounts import Progress
from relay.queue.sqlite.dedup import names_at
from relay.queue.sqlite.readers import LogReader
from relay.queue.sqlite.spans import bucket_at
from relay.queue.sqlite.writer import Writer

_BATCHES_A_STEP = 500
_STEPS_A_ROUND = 40
_TOMBSTONES_A_STEP = 20  # each has to be decoded and hashed, in the writer's thread
_NEAR = 0.95  # of the limit: space is given back from here on, before anything is refused
_ROOM = 0.90  # how far it is given back
_UP_TO_DATE = 0.05  # a destination that lacks less than this share of the stored events
_VACUUM_FREE_SHARE = 0.25  # free pages are kept for reuse until they are this share of the file
_VACUUM_PAGES = 512  # pages given back to the file system in one step


@dataclass(frozen=True, slots=True)
class Limits:
    max_bytes: int
    min_free_disk: int  # bytes
    retention: float  # seconds
    release_laggards: bool


@dataclass(slots=True)
class Usage:
    """What was last measured; `used` grows with appends in between."""

    used: int = 0
    disk_free: int = 0
    oldest_sequence: int | None = None
    oldest_received_at: float | None = None


class Space:
    """Measures and gives back. `admit` is asked before every append."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        writer: Writer,
        progress: Progress,
        *,
        clock: Clock,
        windows: Mapping[int, float | None],
        readers: Callable[[], list[LogReader]],
        head: Callable[[], int],
        deleted: Callable[[int], None],
        released: Callable[[str, int], None],
    ) -> None:
        self._path = path
        self._limits = limits
        self._writer = writer
        self._progress = progress
        self._clock = clock
        self._windows = windows  # deduplication window by source id, seconds
        self._readers = readers
        self._head = head
        self._deleted = deleted  # told how many batches went
        self._released = released  # told which destination lost how many events
        self.usage = Usage()
        self.accepting = True

    def admit(self, nbytes: int) -> None:
        """Raise `QueueFull` unless *nbytes* of payload fit."""
        usage, limits = self.usage, self._limits
        if usage.used + nbytes > limits.max_bytes:
            self.accepting = False
            raise QueueFull(f"the queue has reached its limit of {limits.max_bytes} bytes")
        if usage.disk_free - nbytes < limits.min_free_disk:
            self.accepting = False
            raise QueueFull(f"less than {limits.min_free_disk} bytes would be free on the disk")
        self.accepting = True

    def appended(self, nbytes: int) -> None:
        self.usage.used += nbytes
        self.usage.disk_free -= nbytes

    async def measure(self) -> None:
        """Read the true figures; they replace what was added up since."""
        self.usage = await self._writer.submit(self._measure)

    def _measure(self, connection: sqlite3.Connection) -> Usage:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        oldest = connection.execute(
            "SELECT sequence, received_at FROM batches ORDER BY sequence LIMIT 1"
        ).fetchone() or (None, None)
        disk = os.statvfs(self._path)
        # The WAL is not counted: it comes and goes, some megabytes in all. Free pages inside the
        # file are as good as free disk: appends use them first.
        return Usage((pages - free) * size, disk.f_bavail * disk.f_frsize + free * size, *oldest)

    async def give_back(self) -> None:
        """One round of upkeep: retention, then size, then the file's own size."""
        await self.measure()
        now = self._clock.now()
        await self._purge(await self._settled_by_all(replays=True), now - self._limits.retention)
        if self._short():
            await self._purge(await self._settled_by_all(replays=False), None)
        if self._short():
            await self._drop_tombstones()
        if self._short() and self._limits.release_laggards:
            await self._release()
        await self._vacuum()

    def _short(self, share: float = _NEAR) -> bool:
        """Whether more than *share* is used of what there is for us: the limit, or what the disk gives.

        The disk's part is what counts, not `max_bytes`: on a disk that is far smaller than that a share of it
        would always be missing, and giving up events could never bring it back.
        """
        usage, limits = self.usage, self._limits
        ours = min(limits.max_bytes, usage.used + usage.disk_free - limits.min_free_disk)
        return usage.used > share * ours

    async def _settled_by_all(self, *, replays: bool) -> int:
        """The number of the first event that some reader still needs, also after a crash now."""
        needed = [r.position for r in self._readers() if replays or r.kind is not ReaderKind.REPLAY]
        below = min(needed, default=self._head())
        # What is settled only in memory would be needed again; after this the disk is at least as far.
        await self._progress.store()
        return below

    async def _purge(self, below: int, received_before: float | None, *, remember: bool = True) -> None:
        for _ in range(_STEPS_A_ROUND):
            if received_before is None and not self._short(_ROOM):
                return
            gone = await self._writer.submit(
                lambda c: self._delete(c, below, received_before, remember), self._deleted
            )
            if not gone:
                return
            await self.measure()
            for reader in self._readers():  # replays do not hold space back
                if reader.kind is ReaderKind.REPLAY and self.usage.oldest_sequence is not None:
                    reader.expire(min(self.usage.oldest_sequence, below))

    def _delete(
        self, connection: sqlite3.Connection, below: int, received_before: float | None, remember: bool
    ) -> int:
        """Delete some of the oldest batches that end at or before event *below*.

        *remember* keeps their ids while a second copy would be a duplicate.
        """
        now = self._clock.now()
        rows = connection.execute(
            "SELECT sequence, source, received_at, count FROM batches WHERE sequence < ?"
            " ORDER BY sequence LIMIT ?",
            (below, _BATCHES_A_STEP),
        ).fetchall()
        # Where the next batch begins tells more reliably than a count where this one ends.
        ends = [row[0] for row in rows[1:]] + [row[0] + row[3] for row in rows[-1:]]
        last, taken, tombstones = 0, 0, 0
        for (sequence, source, received_at, _), end in zip(rows, ends, strict=True):
            if end > below or (received_before is not None and received_at >= received_before):
                break
            window = self._windows.get(source)
            if remember and window is not None and received_at > now - window:
                found = names_at(connection, sequence)
                names = [] if found is None else [*found.ids, *found.contents]
                connection.execute(
                    "INSERT OR REPLACE INTO tombstones VALUES (?,?,?)",
                    (sequence, received_at, gzipped.compress(" ".join(names).encode())),
                )
                tombstones += 1
            last, taken = end, taken + 1
            if tombstones >= _TOMBSTONES_A_STEP:
                break
        if taken:
            connection.execute("DELETE FROM batches WHERE sequence < ?", (last,))
            connection.execute("UPDATE meta SET value=value-? WHERE key='batches'", (taken,))
            connection.execute(
                "INSERT INTO meta VALUES ('next_sequence', ?1)"
                " ON CONFLICT DO UPDATE SET value=max(value, excluded.value)",
                (last,),
            )
            self._forget_ids(connection, now)
        return taken

    def _forget_ids(self, connection: sqlite3.Connection, now: float) -> None:
        """Drop what deduplication no longer needs: beyond the window, and no longer in the log."""
        oldest = connection.execute("SELECT min(sequence) FROM batches").fetchone()[0] or self._head()
        for source, window in self._windows.items():
            if window is not None:
                bucket = bucket_at(now - window)
                connection.execute(
                    "DELETE FROM event_times WHERE source=? AND bucket<? AND sequence<?"
                    " AND NOT EXISTS (SELECT 1 FROM tombstones t WHERE t.sequence = event_times.sequence)",
                    (source, bucket, oldest),
                )
        longest = max((w for w in self._windows.values() if w is not None), default=0.0)
        connection.execute("DELETE FROM tombstones WHERE received_at < ?", (now - longest,))

    async def _drop_tombstones(self) -> None:
        """Forget the oldest ids before anything is refused: a duplicate is better than a loss."""
        while self._short(_ROOM):
            gone = await self._writer.submit(
                lambda connection: (
                    connection.execute(
                        "DELETE FROM tombstones WHERE sequence IN"
                        " (SELECT sequence FROM tombstones ORDER BY sequence LIMIT ?)",
                        (_BATCHES_A_STEP,),
                    ).rowcount
                )
            )
            if not gone:
                return
            await self.measure()

    async def _release(self) -> None:
        """Give up the oldest events owed to the destination furthest behind, if another one is up to date."""
        lost: Counter[str] = Counter()
        while self._short(_ROOM):
            owing = [r for r in self._readers() if r.kind is not ReaderKind.REPLAY]
            by_destination: dict[int, int] = {}
            for reader in owing:
                events = reader.backlog().events
                by_destination[reader.account.id] = by_destination.get(reader.account.id, 0) + events
            stored = self._head() - (self.usage.oldest_sequence or self._head())
            if not stored or min(by_destination.values(), default=stored) > stored * _UP_TO_DATE:
                break  # everyone is behind: refuse instead
            lowest = min((r.position for r in owing if r.backlog().events), default=None)
            if lowest is None:
                break
            to = lowest + max(1, stored // 50)
            for reader in owing:
                if by_destination[reader.account.id] > stored * _UP_TO_DATE:
                    lost[reader.account.name] += reader.expire(to)
            before = self.usage.used
            # Their ids are not kept: a Konnect replay may bring back what somebody did not get.
            await self._purge(await self._settled_by_all(replays=False), None, remember=False)
            if self.usage.used >= before:
                break
        for destination, count in (+lost).items():
            self._released(destination, count)

    async def _vacuum(self) -> None:
        def run(connection: sqlite3.Connection) -> None:
            pages, free = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count")
            )
            if free > _VACUUM_PAGES and free > pages * _VACUUM_FREE_SHARE:
                connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()

        await self._writer.submit(run)
