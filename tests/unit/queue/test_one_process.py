"""A queue file belongs to one relay."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.queue import SqliteQueueConfig
from relay.errors import QueueLocked
from relay.queue.sqlite import SqliteQueue
from tests.fakes.clock import FakeClock


async def test_the_queue_opens_only_once(tmp_path: Path) -> None:
    """A second relay on the same queue is refused with a reason."""
    config = SqliteQueueConfig(type="sqlite", path=tmp_path / "relay.db")
    queue = await SqliteQueue.open(config, clock=FakeClock())
    try:
        with pytest.raises(QueueLocked, match="process"):
            await SqliteQueue.open(config, clock=FakeClock())
    finally:
        await queue.close()
