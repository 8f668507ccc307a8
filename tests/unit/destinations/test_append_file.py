"""The bytes and the names on the disk."""

from __future__ import annotations

import errno
import gzip
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.destinations.append_file import AppendFile, set_aside, tidy

NOW = 1_750_000_000.0  # 2025-06-15T15:06:40Z
DAY = 86_400.0


def never() -> bool:
    return False


@contextmanager
def opened(path: Path, *, max_bytes: int | None = None, max_age: float | None = None) -> Iterator[AppendFile]:
    file = AppendFile(path, max_bytes=max_bytes, max_age=max_age)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process can grow beyond *size* bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "audit.ndjson"


def test_full_disk_leaves_nothing_behind(path: Path) -> None:
    """A write that only partly fits is taken back, and goes through once there is room."""
    with opened(path) as file:
        file.append(b"first\n", NOW)
        with disk_full_at(100), pytest.raises(OSError, match="No space") as caught:
            file.append(b"x" * 200 + b"\n", NOW)
        assert path.read_bytes() == b"first\n"

        file.append(b"second\n", NOW)

    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"first\nsecond\n"


def test_failed_sync_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be synced is taken back: it will be sent again and must not be there twice."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(path) as file:
        file.append(b"first\n", NOW)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="Input/output error"):
                file.append(b"second\n", NOW)
        file.append(b"third\n", NOW)

    assert path.read_bytes() == b"first\nthird\n"


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", b""),
        (b"whole\n", b"whole\n"),
        (b"whole\ntorn", b"whole\n"),
        (b"torn from the first", b""),
        (b"whole\n" + b"x" * 200_000, b"whole\n"),
        (b"y" * 65_536 + b"\n" + b"x" * 65_535, b"y" * 65_536 + b"\n"),
    ],
)
def test_torn_last_line_is_cut(path: Path, content: bytes, kept: bytes) -> None:
    """After a crash the file goes on behind its last whole line."""
    path.parent.mkdir()
    path.write_bytes(content)

    with opened(path) as file:
        file.append(b"next\n", NOW)

    assert path.read_bytes() == kept + b"next\n"


def test_mode(path: Path) -> None:
    """The file is nobody's to read but the owner's and the group's."""
    before = os.umask(0o022)
    try:
        with opened(path) as file:
            file.append(b"x\n", NOW)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_follows_the_path(path: Path, how: str) -> None:
    """When logrotate moves the file away, lines go on at the path, not into the old file."""
    with opened(path) as file:
        file.append(b"before\n", NOW)
        if how == "moved":
            path.rename(path.with_name("old"))
        elif how == "deleted":
            path.unlink()
        else:
            other = path.with_name("other")
            other.write_bytes(b"theirs\n")
            other.rename(path)
        file.append(b"after\n", NOW)

    assert path.read_bytes() == (b"theirs\nafter\n" if how == "replaced" else b"after\n")


def test_truncated_in_place(path: Path) -> None:
    """When logrotate copies and truncates, lines go on from the new end, without a hole."""
    with opened(path) as file:
        file.append(b"before\n", NOW)
        os.truncate(path, 0)
        file.append(b"after\n", NOW)

    assert path.read_bytes() == b"after\n"


def test_rotation_by_size(path: Path) -> None:
    """The file is set aside before it would grow too large; a single body may exceed the limit."""
    with opened(path, max_bytes=20) as file:
        moved = [file.append(body, NOW) for body in (b"a" * 30 + b"\n", b"b" * 9 + b"\n", b"c" * 9 + b"\n")]
        moved.append(file.append(b"d\n", NOW))

    assert moved == [False, True, False, True]
    first, second = set_aside(path)
    assert first.name == "audit.ndjson.20250615T150640.000000Z"
    assert second.name == "audit.ndjson.20250615T150640.000001Z"
    assert first.read_bytes() == b"a" * 30 + b"\n"
    assert second.read_bytes() == b"b" * 9 + b"\n" + b"c" * 9 + b"\n"
    assert path.read_bytes() == b"d\n"


def test_rotation_by_age(path: Path) -> None:
    """With `1d` the first write of each UTC day begins a new file."""
    midnight = NOW - NOW % DAY + DAY
    with opened(path, max_age=DAY) as file:
        moved = [file.append(b"x\n", now) for now in (midnight - 2, midnight - 1, midnight, midnight + 1)]

    assert moved == [False, False, True, False]


def test_rotation_by_age_after_a_restart(path: Path) -> None:
    """The age of a file that was there before goes by its last write."""
    path.parent.mkdir()
    path.write_bytes(b"yesterday\n")
    os.utime(path, (NOW - DAY, NOW - DAY))

    with opened(path, max_age=DAY) as file:
        assert file.append(b"today\n", NOW)

    assert path.read_bytes() == b"today\n"


def test_an_empty_file_is_not_set_aside(path: Path) -> None:
    """Nothing is gained by an archive of nothing."""
    with opened(path, max_bytes=1, max_age=DAY) as file:
        assert not file.append(b"longer than that\n", NOW)


def test_tidy_compresses(path: Path) -> None:
    """Files set aside are replaced by their gzip, the current one is left alone."""
    with opened(path, max_bytes=1) as file:
        for body in (b"a\n" * 1_500_000, b"b\n", b"c\n"):
            file.append(body, NOW)

    tidy(path, keep=None, compress=True, stop=never)

    first, second = set_aside(path)
    assert [first.suffix, second.suffix] == [".gz", ".gz"]
    assert gzip.decompress(first.read_bytes()) == b"a\n" * 1_500_000
    assert gzip.decompress(second.read_bytes()) == b"b\n"
    assert stat.S_IMODE(first.stat().st_mode) & 0o007 == 0
    assert path.read_bytes() == b"c\n"


def test_tidy_keeps_the_newest(path: Path) -> None:
    """Only what was set aside from this very file is counted and deleted, oldest first."""
    with opened(path, max_bytes=1) as file:
        for n in range(6):
            file.append(b"%d\n" % n, NOW + n)
    bystanders = [path.with_name(name) for name in ("audit.ndjson.bak", "audit.ndjson2", "other")]
    for bystander in bystanders:
        bystander.write_bytes(b"mine\n")

    tidy(path, keep=2, compress=False, stop=never)

    assert [aside.read_bytes() for aside in set_aside(path)] == [b"3\n", b"4\n"]
    assert all(bystander.exists() for bystander in bystanders)


def test_tidy_carries_on_after_a_crash(path: Path) -> None:
    """A half-written gzip is thrown away and made anew from the original."""
    with opened(path, max_bytes=1) as file:
        file.append(b"a\n", NOW)
        file.append(b"b\n", NOW)
    (plain,) = set_aside(path)
    plain.with_name(plain.name + ".gz.partial").write_bytes(b"half")

    tidy(path, keep=None, compress=True, stop=never)

    (aside,) = set_aside(path)
    assert gzip.decompress(aside.read_bytes()) == b"a\n"
    assert sorted(other.name for other in path.parent.iterdir()) == sorted([path.name, aside.name])


def test_tidy_stops(path: Path) -> None:
    """Told to stop in the middle of a file, it leaves the original as it was."""
    with opened(path, max_bytes=1) as file:
        file.append(b"a\n" * 2_000_000, NOW)
        file.append(b"b\n", NOW)
    answers = iter([False, False, True])

    tidy(path, keep=None, compress=True, stop=lambda: next(answers))

    (aside,) = set_aside(path)
    assert aside.suffix != ".gz"
    assert aside.read_bytes() == b"a\n" * 2_000_000


def test_tidy_without_a_directory(path: Path) -> None:
    """Before the first write there is no directory yet; that is said by an error and nothing is made."""
    with pytest.raises(FileNotFoundError):
        tidy(path, keep=1, compress=True, stop=never)
    assert not path.parent.exists()
