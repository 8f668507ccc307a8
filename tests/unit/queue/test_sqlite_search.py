"""What it costs SQLite to find again what was accepted before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.config.queue import SqliteQueueConfig
from relay.queue.dedup import opened
from relay.queue.dedup.fingerprint import fingerprint
from relay.queue.dedup.names import names_of
from relay.queue.sqlite import SqliteQueue
from relay.queue.sqlite.dedup import Quest, Search
from relay.queue.sqlite.spans import spans_of
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, cef


async def test_a_batch_is_opened_once_for_a_request_however_large_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry of one that is too large to be kept open, with events of many minutes."""
    monkeypatch.setattr(opened, "_EVENTS", 100)
    large = batch([cef(n, at=NOW - 10 * n) for n in range(200)])
    path = tmp_path / "relay.db"
    config = SqliteQueueConfig(type="sqlite", path=path, min_free_disk=0)
    queue = await SqliteQueue.open(config, clock=FakeClock(NOW), deduplicate={"eu": 86_400.0})
    await queue.append([large])
    await queue.close()

    each = fingerprint(large)
    names = names_of(each.lines)
    ran: list[str] = []
    with closing(sqlite3.connect(path)) as connection:
        (source,) = connection.execute("SELECT DISTINCT source FROM batches").fetchone()
        connection.set_trace_callback(ran.append)
        quest = Quest(source, NOW + 60, NOW - 3600, frozenset(names.ids), None)
        known = Search().known(connection, quest, each, spans_of(each), names)

    assert known.indices == set(range(200))
    assert len([sql for sql in ran if "FROM batches WHERE sequence=" in sql]) == 1
