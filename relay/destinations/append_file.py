"""A file that whole lines are appended to, durably, and that is set aside when it is full or old.

Owns the file descriptor and every rule about bytes on the disk: what `append` returned from is
synced, a failed write leaves nothing behind, a torn last line is cut when the file is opened. Blocks:
callers give it a thread of its own and call from one thread at a time. Raises `OSError` and nothing
else; what an error means to a delivery is `relay.destinations.file`'s business.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relay import gzipped

_MODE = 0o640  # further narrowed by the umask
_BLOCK = 1024 * 1024  # bytes compressed at a time
_SEARCH = 64 * 1024  # bytes read at a time when looking for the last whole line
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_STAMPED = re.compile(r"\.\d{8}T\d{6}\.\d{6}Z(\.gz)?")
_PARTIAL = ".gz.partial"  # being compressed; removed if a crash left it behind


class AppendFile:
    """The file at *path*, made when first needed."""

    def __init__(self, path: Path, *, max_bytes: int | None = None, max_age: float | None = None) -> None:
        """Set aside when it would exceed *max_bytes*, or when a multiple of *max_age* seconds passed.

        Multiples count from the Unix epoch, so `1d` means midnight UTC: unlike an age counted from
        the file's beginning, that survives restarts with nothing stored.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._fd: int | None = None
        self._written_at = 0.0  # last write, seconds since the epoch

    def append(self, body: bytes, now: float) -> bool:
        """Write *body*, which ends in a line end, and sync it; whether a full file was set aside first.

        On an error nothing of *body* stays.
        """
        fd = self._current()
        size = os.fstat(fd).st_size
        due = size > 0 and self._is_due(size + len(body), now)
        if due:
            self._set_aside(now)
            fd, size = self._current(), 0
        try:
            _write_all(fd, body)
            os.fsync(fd)
        except OSError:
            self._take_back(fd, size)
            raise
        self._written_at = now
        return due

    def open(self) -> None:
        """Make sure the file can be written to, without writing."""
        self._current()

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _current(self) -> int:
        """The descriptor of what is at the path now: someone (logrotate) may have moved the file away."""
        if self._fd is not None and not _is_at(self._fd, self._path):
            self.close()
        if self._fd is None:
            self._fd = self._open()
        return self._fd

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            status = os.fstat(fd)
            if status.st_size:
                _cut_torn_line(fd, status.st_size)
            # A new name is not durable before its directory is.
            sync_directory(self._path.parent)
        except OSError:
            os.close(fd)
            raise
        self._written_at = status.st_mtime
        return fd

    def _is_due(self, size: int, now: float) -> bool:
        if self._max_bytes is not None and size > self._max_bytes:
            return True
        return self._max_age is not None and now // self._max_age > self._written_at // self._max_age

    def _set_aside(self, now: float) -> None:
        self.close()
        self._path.rename(_free_name(self._path, now))
        sync_directory(self._path.parent)

    def _take_back(self, fd: int, size: int) -> None:
        """Cut off what a failed append wrote. Whether or not that works, open anew before the next one.

        After a failed fsync the kernel may have dropped the pages and call the next one a success;
        the descriptor is not to be trusted any more, and a torn line is cut when it is opened again.
        """
        with suppress(OSError):
            os.ftruncate(fd, size)
        with suppress(OSError):
            self.close()


def tidy(path: Path, *, keep: int | None, compress: bool, stop: Callable[[], bool]) -> None:
    """Compress what was set aside from *path* and remove all but the newest *keep*.

    Carries on where a crash interrupted it. Returns early, with nothing half done in sight, once
    *stop* says so. Works beside `AppendFile.append`: it only touches files already set aside.
    """
    for leftover in path.parent.glob(f"{path.name}.*{_PARTIAL}"):
        leftover.unlink()
    if keep is not None:
        aside = set_aside(path)
        for old in aside[: max(0, len(aside) - keep)]:
            old.unlink()
    if compress:
        for plain in set_aside(path):
            if plain.suffix != ".gz" and not stop():
                _compress(plain, stop)
    sync_directory(path.parent)


def set_aside(path: Path) -> list[Path]:
    """The files set aside from *path*, oldest first."""
    with_stamp = [
        other
        for other in path.parent.iterdir()
        if other.name.startswith(path.name) and _STAMPED.fullmatch(other.name, len(path.name))
    ]
    return sorted(with_stamp)


def sync_directory(directory: Path) -> None:
    """Make names in *directory* durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _compress(plain: Path, stop: Callable[[], bool]) -> None:
    """Replace *plain* by its gzip; one member for each block, so that memory stays bounded."""
    partial = plain.with_name(plain.name + _PARTIAL)
    with plain.open("rb") as source, partial.open("xb") as target:
        partial.chmod(plain.stat().st_mode & 0o777)
        while block := source.read(_BLOCK):
            if stop():
                return
            target.write(gzipped.compress(block))
        target.flush()
        os.fsync(target.fileno())
    partial.rename(plain.with_name(plain.name + ".gz"))
    # Only once the new name is durable may the old one go.
    sync_directory(plain.parent)
    plain.unlink()


def _write_all(fd: int, body: bytes) -> None:
    """One write, so that a reader never sees half of it; a short one means that the disk is full."""
    if os.write(fd, body) < len(body):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def _cut_torn_line(fd: int, size: int) -> None:
    """Cut the file behind its last line end. What is cut was never reported as delivered."""
    end = size
    while end:
        start = max(0, end - _SEARCH)
        at = os.pread(fd, end - start, start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
        os.fsync(fd)


def _free_name(path: Path, now: float) -> Path:
    moment = datetime.fromtimestamp(now, UTC)
    while True:
        name = path.with_name(f"{path.name}.{moment.strftime(_STAMP)}")
        if not name.exists() and not name.with_name(name.name + ".gz").exists():
            return name
        moment += timedelta(microseconds=1)
