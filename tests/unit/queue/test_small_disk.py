"""A disk smaller than `max_bytes`: what it still gives is the limit that counts."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.config.queue import SqliteQueueConfig
from relay.model import Reason
from relay.observe import logs
from relay.queue.sqlite import SqliteQueue
from tests.contract.queue.conftest import attached
from tests.contract.queue.test_log import deliver_all
from tests.contract.queue.test_space import fill, upkeep
from tests.fakes.clock import FakeClock
from tests.fakes.disk import SmallDisk, small_disk

MIB = 1 << 20


@asynccontextmanager
async def queue_on(disk: SmallDisk, clock: FakeClock, written: io.BytesIO) -> AsyncIterator[SqliteQueue]:
    """A queue that may grow to 10 GiB, which this disk never gives."""
    config = SqliteQueueConfig(path=disk.path / "relay.db", min_free_disk=MIB)
    log = logs.configure(stream=written)
    queue = await SqliteQueue.open(config, clock=clock, log=log, deduplicate={"eu": None})
    try:
        yield queue
    finally:
        await queue.close()


async def test_a_laggard_keeps_its_events_while_the_disk_has_room(tmp_path: Path) -> None:
    """A SIEM that is down on a small disk loses nothing as long as most of the disk is free."""
    clock, written = FakeClock(), io.BytesIO()
    with small_disk(tmp_path, 16 * MIB) as disk:
        async with queue_on(disk, clock, written) as queue:
            (quick,) = await attached(queue, "quick", "now")
            await attached(queue, "slow", "now")
            for first in range(0, 100, 25):
                assert await fill(queue, clock, first=first, most=25) == 25
                await deliver_all(quick)
                await upkeep(queue, clock)

            assert (queue.books("slow").dead, queue.books("slow").backlog) == (0, 100)
            assert queue.stats().batches == 100
    assert not written.getvalue()


async def test_a_laggard_gives_way_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    """Before anything is refused its oldest events go; the log says so, and the age is that of the rest."""
    clock, written = FakeClock(), io.BytesIO()
    with small_disk(tmp_path, 16 * MIB) as disk:
        async with queue_on(disk, clock, written) as queue:
            (quick,) = await attached(queue, "quick", "now")
            (slow,) = await attached(queue, "slow", "now")
            for first in range(0, 3000, 25):
                assert await fill(queue, clock, first=first, most=25) == 25
                await deliver_all(quick)
                await clock.advance(1.5)  # one round of upkeep: a release may be the last thing it did
                await clock.asleep(1)
                assert slow.backlog().oldest_received_at == queue.stats().oldest_received_at

            books = queue.books("slow")
            assert books.dead == books.dead_by_reason[Reason.EXPIRED]
            assert 500 < books.backlog == 3000 - books.dead
    released = [json.loads(line) for line in written.getvalue().splitlines()]
    assert {(each["event"], each["destination"]) for each in released} == {("queue.released", "slow")}
    assert sum(each["events"] for each in released) == books.dead
