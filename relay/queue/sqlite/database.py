"""Opening the database file: pragmas, schema version, and the locks that keep a second relay out."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from relay.errors import QueueCorrupt, QueueError, QueueFull, QueueLocked
from relay.model import Role

# Milliseconds a connection waits for another process's write lock. Only the two-process set-up
# (`--role ingest` and `--role deliver`) ever waits, and then for single commits.
_BUSY_MS = 5_000
PAGE_SIZE = 4096
_DISK_TROUBLE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_CANTOPEN")


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the queue's settings, usable from one thread at a time.

    `synchronous=FULL` in WAL mode means an fdatasync of the log on every commit, which is the
    durability promise. Checkpoints are made by hand, so that no commit pays for one.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    # A flipped bit in a text must be found by the checksum, not end in an exception on the way to it.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # only takes effect on a new file
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def _migrations() -> list[str]:
    folder = files("relay.queue.sqlite").joinpath("schema")
    return [entry.read_text("utf-8") for entry in sorted(folder.iterdir(), key=lambda e: e.name)]


def schema_version() -> int:
    """The version this program writes."""
    return len(_migrations())


def require_current(connection: sqlite3.Connection, path: Path) -> None:
    """Raises `QueueError` for a file of another schema version, which is left as it is."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < schema_version():
        raise QueueError(f"{path} has schema version {version}: start the relay once to bring it up to date")
    _refuse_newer(version)


def _refuse_newer(version: int) -> None:
    if version > schema_version():
        known = schema_version()
        raise QueueError(
            f"the queue has schema version {version}, this relay knows {known}: run the newer relay"
        )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to this program's schema version, each step in its own transaction.

    Raises `QueueError` for a file from a newer relay: it is left as it is.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    _refuse_newer(version)
    for number, script in enumerate(_migrations()[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={number};\nCOMMIT;")


def open_database(path: Path) -> sqlite3.Connection:
    """Open or create the queue's file. Raises `QueueCorrupt` or `QueueError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # The audit trail is nobody else's business; SQLite gives -wal and -shm the same mode.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o640))
        with _one_at_a_time(path):  # both roles may start on a new file at once
            connection = connect(path)
            migrate(connection)
    except sqlite3.Error as error:
        raise translate(error, f"cannot open {path}") from error
    except OSError as error:
        raise QueueError(f"cannot open {path}: {error.strerror}") from error
    return connection


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    handle = os.open(path.with_name(f"{path.name}.open.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def translate(error: sqlite3.Error, what: str) -> QueueError:
    """SQLite's errors as ours. This is the only place that knows their codes."""
    code = getattr(error, "sqlite_errorname", "") or ""
    message = f"{what}: {error}"
    if code.startswith("SQLITE_FULL"):
        return QueueFull(message)
    if code in {"SQLITE_NOTADB", "SQLITE_CORRUPT"} or code.startswith("SQLITE_CORRUPT"):
        return QueueCorrupt(message)
    return QueueError(message)


def is_disk_trouble(error: sqlite3.Error) -> bool:
    """Whether the file, not the statement, is at fault."""
    code = getattr(error, "sqlite_errorname", "") or ""
    return code.startswith(_DISK_TROUBLE)


class FileLock:
    """Advisory locks beside the database: one per role, both for `all` and for the tools.

    The kernel drops them with the process, so a crash leaves nothing to clean up. They do not
    reach across machines: the file must not be shared over a network.
    """

    def __init__(self, database: Path, role: Role) -> None:
        roles = ("ingest", "deliver") if role == "all" else (role,)
        self._files: list[int] = []
        try:
            try:
                database.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise QueueError(f"cannot make {database.parent}: {error.strerror}") from error
            for each in roles:
                self._acquire(database.with_name(f"{database.name}.{each}.lock"))
        except BaseException:
            self.release()
            raise

    def _acquire(self, path: Path) -> None:
        try:
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise QueueError(f"cannot lock {path}: {error.strerror}") from error
        self._files.append(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise QueueLocked(f"another relay (process {holder}) has the queue open: {path}") from error
        with suppress(OSError):  # the number is a courtesy; a full disk must not keep us from draining
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        for handle in self._files:
            os.close(handle)
        self._files.clear()
