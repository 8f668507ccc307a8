"""Every implementation of the queue passes the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from relay.config.schema import SqliteQueueConfig
from relay.queue.sqlite import SqliteQueue
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW

WEEK = 7 * 86400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


Opener = Callable[..., Awaitable[SqliteQueue]]


@pytest.fixture
async def reopen(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Opener]:
    """Open the queue; called again, close it first: what a restart does."""
    opened: list[SqliteQueue] = []

    async def open_(
        *,
        deduplicate: float | None = WEEK,
        max_bytes: int = 1 << 30,
        when_full: str = "release_laggards",
        retention: float = WEEK,
    ) -> SqliteQueue:
        while opened:
            await opened.pop().close()
        config = SqliteQueueConfig(
            type="sqlite",
            path=tmp_path / "relay.db",
            max_bytes=max_bytes,
            min_free_disk=0,
            when_full=when_full,
            retention=retention,
        )
        queue = await SqliteQueue.open(
            config, clock=clock, deduplicate={"eu": deduplicate, "us": deduplicate}
        )
        opened.append(queue)
        return queue

    yield open_
    while opened:
        await opened.pop().close()


@pytest.fixture
async def queue(reopen: Opener) -> SqliteQueue:
    return await reopen()
