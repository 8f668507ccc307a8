"""A queue's file from before events had names for what they say."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
from pathlib import Path

from relay.config.queue import SqliteQueueConfig
from relay.konnect.lines import event_ids
from relay.model import Receipt
from relay.queue.sqlite import SqliteQueue
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines, restamped
from tests.fakes.judging import Unchecked


async def test_tombstones_that_hold_ids_alone_still_count(tmp_path: Path) -> None:
    """What was accepted before the relay was replaced is recognised by its ids, as it was."""
    clock = FakeClock(NOW)
    config = SqliteQueueConfig.model_validate(
        {"type": "sqlite", "path": tmp_path / "relay.db", "min_free_disk": 0, "retention": 60.0}
    )
    queue = await SqliteQueue.open(config, clock=clock, deduplicate={"eu": 7 * 86_400.0})
    await queue.append([batch(lines(10))])
    async with asyncio.timeout(60):
        while [each async for each in queue.received(0, NOW * 2)]:
            await clock.advance(30)
            await queue.ping()
    await queue.close()
    _with_ids_alone(config.path, event_ids(lines(10)))

    queue = await SqliteQueue.open(config, clock=clock, deduplicate={"eu": 7 * 86_400.0})
    queue.judge_by(Unchecked())
    again = [restamped(line) for line in lines(12)]
    assert Receipt(2, 10) == await queue.append([batch(again, at=clock.now())])
    await queue.close()


def _with_ids_alone(path: Path, ids: list[str]) -> None:
    connection = sqlite3.connect(path)
    (before,) = connection.execute("SELECT ids FROM tombstones").fetchall()
    assert gzip.decompress(before[0]).decode().split()[: len(ids)] == ids
    connection.execute("UPDATE tombstones SET ids=?", (gzip.compress(" ".join(ids).encode()),))
    connection.commit()
    connection.close()
