"""What it costs SQLite to read what was received in a span of time."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.config.queue import SqliteQueueConfig
from relay.queue.sqlite import SqliteQueue
from relay.queue.sqlite.store import BatchStore
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, cef

_STEPS = 10  # of SQLite's machine at a time


class Noted(BatchStore):
    """Keeps the statements that it runs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, {}, self._broken)
        self.ran: list[tuple[str, object]] = []

    async def query(self, sql: str, parameters: object = ()) -> list[sqlite3.Row]:
        self.ran.append((sql, parameters))
        return await super().query(sql, parameters)

    async def _broken(self, _: object) -> None:
        raise AssertionError("every batch is intact")


async def steps(path: Path, count: int) -> int:
    """How many of SQLite's machine it takes to read all but the first and last of *count* batches."""
    config = SqliteQueueConfig(type="sqlite", path=path, min_free_disk=0)
    queue = await SqliteQueue.open(config, clock=FakeClock(NOW), deduplicate={"eu": None})
    await queue.append([batch([cef(n)], at=NOW + n) for n in range(count)])
    await queue.close()
    store = Noted(path)
    await store.open()
    found = [each.sequence async for each in store.received(NOW + 1, NOW + count - 1)]
    await store.close()
    assert found == list(range(2, count))
    return _counted(path, store.ran)


def _counted(path: Path, ran: list[tuple[str, object]]) -> int:
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += _STEPS
        return 0

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(count, _STEPS)
        for sql, parameters in ran:
            connection.execute(sql, parameters).fetchall()  # type: ignore[arg-type] # as the store had them
    return counted


async def test_twice_as_many_batches_cost_twice_as_much(tmp_path: Path) -> None:
    """They are read a few at a time; the rest is not looked through for each of these."""
    small, large = await steps(tmp_path / "small.db", 400), await steps(tmp_path / "large.db", 800)

    assert large / small == pytest.approx(2.0, abs=0.1)
