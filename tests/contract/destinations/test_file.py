"""The `file` destination: what a disk's behaviour means for delivery."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.destinations.base import Delivered, Misconfigured, Throttled, Transient
from relay.destinations.file import FileConfig, FileDestination
from tests.contract.destinations.kit import NOW
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.clock import FakeClock

CHUNK = chunk_of(sample("cef"), sample("edge_unproven"), [b"\xff not UTF-8 "])


@asynccontextmanager
async def opened(path: Path, **more: object) -> AsyncIterator[FileDestination]:
    config = FileConfig.model_validate({"name": "archive", "type": "file", "path": path, **more})
    destination = FileDestination(config, clock=FakeClock(NOW))
    await destination.open()
    try:
        yield destination
    finally:
        await destination.close()


def listing(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


async def test_delivered_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are on the disk, fsync included, before the outcome says so; directories are made."""
    path = tmp_path / "a" / "b" / "audit.ndjson"
    synced: list[bytes] = []
    fsync = os.fsync

    def watch(fd: int) -> None:
        fsync(fd)
        synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", watch)
    async with opened(path) as destination:
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Delivered)
    assert synced[-1] == CHUNK.body
    assert path.read_bytes() == CHUNK.body


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_full_disk() -> None:
    """A full disk asks for a pause."""
    async with opened(Path("/dev/full")) as destination:
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Throttled)
    assert outcome.response.detail == "cannot append: No space left on device"
    assert outcome.response.status is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file/audit", "File exists"),
        ("file/a/audit", "Not a directory"),
        ("dir", "Is a directory"),
        ("x" * 300, "File name too long"),
    ],
)
async def test_wrong_path(tmp_path: Path, name: str, words: str) -> None:
    """A path that cannot be a file holds this destination, from the first send and not from the start."""
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    async with opened(tmp_path / name) as destination:
        outcome = await destination.send(CHUNK)
        report = await destination.probe()

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail == f"cannot append: {words}"
    assert not report.ok


async def test_path_mended(tmp_path: Path) -> None:
    """Once the obstacle is gone the next send goes through."""
    obstacle = tmp_path / "logs"
    obstacle.touch()
    async with opened(obstacle / "audit") as destination:
        assert isinstance(await destination.send(CHUNK), Misconfigured)
        obstacle.unlink()
        assert isinstance(await destination.send(CHUNK), Delivered)


async def test_hanging_disk(tmp_path: Path) -> None:
    """A write that does not return costs the time-out; the next one waits for it and piles up nothing.

    A pipe that nobody reads blocks the writer as a dead mount does.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    large = chunk_of([b"x" * 200_000])
    async with opened(pipe, timeout=0.2) as destination:
        first = await destination.send(large)
        second = await destination.send(large)
        reader = await asyncio.to_thread(os.open, pipe, os.O_RDONLY)
        arrived = await asyncio.to_thread(drain, reader, len(large.body))
        os.close(reader)

    for outcome in (first, second):
        assert isinstance(outcome, Transient)
        assert outcome.response.detail == "the disk did not answer within 0.2 s"
    assert arrived == len(large.body)


def drain(fd: int, size: int) -> int:
    """Read *size* bytes: what the one write that was begun holds."""
    count = 0
    while count < size:
        count += len(os.read(fd, 65_536))
    return count


async def test_cancelled_send(tmp_path: Path) -> None:
    """A cancelled write may still end up in the file, but never in the middle of the next one."""
    path = tmp_path / "audit"
    async with opened(path) as destination:
        async with asyncio.TaskGroup() as tasks:
            cancelled = tasks.create_task(destination.send(CHUNK))
            await asyncio.sleep(0)
            cancelled.cancel()
        await destination.send(CHUNK)

    assert path.read_bytes() in {CHUNK.body, CHUNK.body * 2}


async def test_sends_at_once(tmp_path: Path) -> None:
    """Sends under way together are written one after another."""
    path = tmp_path / "audit"
    async with opened(path, max_in_flight=4) as destination, asyncio.TaskGroup() as tasks:
        sends = [tasks.create_task(destination.send(CHUNK)) for _ in range(8)]

    assert all(isinstance(send.result(), Delivered) for send in sends)
    assert path.read_bytes() == CHUNK.body * 8


async def test_rotation(tmp_path: Path) -> None:
    """Files set aside are compressed beside the sends, or at the next start; no line is lost."""
    path = tmp_path / "audit.ndjson"
    rotate = {"max_bytes": "10KiB", "compress": False}
    async with opened(path, rotate=rotate) as destination:
        for _ in range(3):
            await destination.send(CHUNK)
    current, *aside = listing(tmp_path)
    assert current == path.name
    assert [(tmp_path / name).read_bytes() for name in (current, *aside)] == [CHUNK.body] * 3

    async with opened(path, rotate={"max_bytes": "10KiB", "keep": 1}) as destination:
        await asyncio.wrap_future(destination._housekeeper.submit(int))

    assert listing(tmp_path) == [current, f"{aside[1]}.gz"]


async def test_probe(tmp_path: Path) -> None:
    """A probe opens the file and writes nothing."""
    path = tmp_path / "audit"
    async with opened(path) as destination:
        report = await destination.probe()

    assert report.ok
    assert path.read_bytes() == b""


async def test_never_opened(tmp_path: Path) -> None:
    """A destination that sent nothing closes and leaves no file."""
    async with opened(tmp_path / "audit"):
        pass

    assert listing(tmp_path) == []
