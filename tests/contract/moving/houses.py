"""Places where a queue is or will be, of every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs
from uuid import uuid4

from relay.clock import Clock, SystemClock
from relay.config.queue import JetStreamQueueConfig, SqliteQueueConfig
from relay.observe import logs
from relay.observe.metrics import Metrics
from relay.queue.base import Queue
from relay.queue.jetstream import moving as jetstream
from relay.queue.jetstream.queue import JetStreamQueue
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


class JetStreamHouse:
    """Two streams on a NATS server."""

    def __init__(self, url: str, stream: str) -> None:
        self.stream = stream
        self.place = f"jetstream:{url}?stream={stream}&replicas=1&max_bytes=256MiB"
        self.config = JetStreamQueueConfig.model_validate(
            {
                "type": "jetstream",
                "servers": [url],
                "stream": stream,
                "replicas": 1,
                "max_bytes": "256MiB",
                "retention": RETENTION,
            }
        )

    @asynccontextmanager
    async def queue(self, clock: Clock) -> AsyncIterator[Queue]:
        queue = await JetStreamQueue.open(
            self.config,
            replica=uuid4().hex[:8],
            clock=clock,
            metrics=Metrics([], []),
            log=logs.configure("error"),
            deduplicate=SOURCES,
        )
        try:
            yield queue
        finally:
            await queue.close()

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        async with jetstream.open_store(self.config, log=logs.configure("error")) as store:
            yield store

    @asynccontextmanager
    async def target(self) -> AsyncIterator[Target]:
        log = logs.configure("error")
        async with jetstream.open_target(
            self.config, windows=SOURCES, clock=SystemClock(), log=log
        ) as target:
            yield target


def house_at(place: str) -> House:
    """The house whose *place* that is."""
    engine, _, rest = place.partition(":")
    if engine == "sqlite":
        return SqliteHouse(Path(rest))
    url, _, query = rest.partition("?")
    return JetStreamHouse(url, parse_qs(query)["stream"][0])
