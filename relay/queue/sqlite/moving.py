"""The SQLite queue as the place a queue is moved from, or to. See `relay.queue.moving`.

A target is written under another name, `<path>.moving`, and gets its own when it is whole: a relay that is
started too early finds nothing, and never a part. Not for use while a relay has the file open; both take
its locks.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from relay.errors import Conflict, NotFound, QueueError
from relay.queue.belongings import Inventory, Item, Part
from relay.queue.moving import Begun
from relay.queue.sqlite import moving_rows
from relay.queue.sqlite.database import FileLock, connect, open_database, require_current, translate

# In meta: the digest of what this queue was moved from, while it comes into being and ever after.
_MOVED_FROM: Final = "moved_from"


class SqliteStore:
    """A `relay.queue.moving.Store`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    async def inventory(self) -> Inventory:
        with _translated(self._path):
            return moving_rows.read_inventory(self._connection)

    async def items(self, part: Part) -> AsyncGenerator[Item, None]:
        with _translated(self._path):
            for item in moving_rows.read(self._connection, part):
                yield item


@contextmanager
def open_store(path: Path) -> Iterator[SqliteStore]:
    """The queue at *path*, which is not changed. Raises `NotFound`, `QueueLocked` or `QueueError`."""
    if not path.exists():
        raise NotFound(f"there is no queue at {path}")
    lock = FileLock(path, "all")
    try:
        with _translated(path), closing(connect(path)) as connection:
            require_current(connection, path)
            connection.execute("PRAGMA query_only=ON")
            yield SqliteStore(path, connection)
    finally:
        lock.release()


class SqliteTarget(SqliteStore):
    """A `relay.queue.moving.Target`."""

    def __init__(self, path: Path, moving: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self._moving = moving

    async def begin(self, inventory: Inventory) -> Begun | None:
        digest = inventory.digest()
        with _translated(self._path), _transaction(self._connection) as c:
            row = c.execute("SELECT value FROM meta WHERE key=?", (_MOVED_FROM,)).fetchone()
            if self._path.exists():
                if row is None or row[0] != digest:
                    raise Conflict(f"there is a queue at {self._path} already: give it a place of its own")
                return None
            if row is None:
                moving_rows.write_inventory(c, inventory)
                c.execute("INSERT INTO meta VALUES (?,?)", (_MOVED_FROM, digest))
            elif row[0] != digest:
                raise Conflict(
                    f"{self._moving} is left of moving another queue, or this one as it was before;"
                    " delete it to begin anew"
                )
            moving_rows.forget(c)
            sizes = moving_rows.sizes(c)
            end = c.execute("SELECT coalesce(max(sequence + count), 0) FROM batches").fetchone()[0]
            return Begun(end, sizes[Part.DEAD_LETTERS], sizes[Part.QUARANTINED])

    async def add(self, items: Sequence[Item]) -> None:
        with _translated(self._path), _transaction(self._connection) as c:
            moving_rows.write(c, items)

    async def finish(self) -> None:
        with _translated(self._path), _transaction(self._connection) as c:
            c.execute("INSERT OR REPLACE INTO meta SELECT 'batches', count(*) FROM batches")

    async def seal(self) -> None:
        with _translated(self._path):
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._connection.close()
        if busy:
            raise QueueError(f"somebody else has {self._moving} open")
        try:
            self._moving.rename(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise QueueError(f"cannot rename {self._moving}: {error.strerror}") from error


@contextmanager
def open_target(path: Path) -> Iterator[SqliteTarget]:
    """A queue that will be at *path*. Raises `QueueLocked` or `QueueError`."""
    lock = FileLock(path, "all")
    moving = path.with_name(f"{path.name}.moving")
    try:
        with _translated(path):
            connection = connect(path) if path.exists() else open_database(moving)
            with closing(connection):
                yield SqliteTarget(path, moving, connection)
        moving.with_name(f"{moving.name}.open.lock").unlink(missing_ok=True)
    finally:
        lock.release()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, f"cannot move {path}") from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
