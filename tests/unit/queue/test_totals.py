"""What was counted since the counts were stored last is counted again from the log."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from relay.config.queue import SqliteQueueConfig
from relay.model import Format
from relay.queue.sqlite import SqliteQueue
from relay.queue.sqlite.totals import Totals
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines


async def test_a_crash_takes_no_pull_for_something_heard(tmp_path: Path) -> None:
    """The counts are as they were, and so is when each source was heard last."""
    config = SqliteQueueConfig(path=tmp_path / "relay.db", min_free_disk=0)
    queue = await SqliteQueue.open(config, clock=FakeClock(NOW), deduplicate={"eu": None})
    await queue.append([batch(lines(2), at=NOW)])
    await queue.append([replace(batch(lines(1, first=8), at=NOW + 60), pulled=True)])

    with closing(sqlite3.connect(tmp_path / "relay.db")) as after:
        found = Totals(after).all

    assert (found.accepted["eu", Format.CEF], found.last_received) == (3, {"eu": NOW})
    await queue.close()
