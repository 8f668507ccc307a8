"""Places where a queue is or will be, of every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from relay.clock import Clock
from relay.config.queue import SqliteQueueConfig
from relay.queue.base import Queue
from relay.queue.moving import Store, Target
from relay.queue.sqlite import SqliteQueue
from relay.queue.sqlite.moving import open_store, open_target
from tests.contract.moving.furniture import RETENTION, SOURCES


class House(Protocol):
    """One of them."""

    @property
    def place(self) -> str:
        """As the command line has it."""
        ...

    def queue(self, clock: Clock) -> AbstractAsyncContextManager[Queue]:
        """A relay at work on it."""
        ...

    def store(self) -> AbstractAsyncContextManager[Store]: ...

    def target(self) -> AbstractAsyncContextManager[Target]: ...


class SqliteHouse:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def place(self) -> str:
        return f"sqlite:{self.path}"

    @asynccontextmanager
    async def queue(self, clock: Clock) -> AsyncIterator[Queue]:
        config = SqliteQueueConfig(path=self.path, min_free_disk=0, retention=RETENTION)
        queue = await SqliteQueue.open(config, clock=clock, deduplicate=SOURCES)
        try:
            yield queue
        finally:
            await queue.close()

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        with open_store(self.path) as store:
            yield store

    @asynccontextmanager
    async def target(self) -> AsyncIterator[Target]:
        with open_target(self.path) as target:
            yield target


def house_at(place: str) -> House:
    """The house whose *place* that is."""
    _, _, rest = place.partition(":")
    return SqliteHouse(Path(rest))
