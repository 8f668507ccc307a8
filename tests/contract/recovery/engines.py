"""The queue of a relay that runs in the test's process: how it is configured, kept in time, and killed.

Owns what differs between SQLite and JetStream as far as scenarios go, and nothing of what a relay is.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from relay.clock import Clock
from relay.errors import QueueError
from relay.queue.base import Queue
from relay.queue.jetstream.queue import JetStreamQueue
from tests.contract.jetstream.replicas import came_back
from tests.fakes.nats import NatsServer
from tests.fakes.proxy import TcpProxy

_TURN = 0.0005  # real seconds between two looks at what another thread or process does


class Engine(Protocol):
    """Of one replica."""

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The section `queue` of a configuration."""
        ...

    async def start(self) -> None:
        """Before a queue is opened."""
        ...

    async def catch_up(self, queue: Queue, clock: Clock) -> None:
        """Give real time to those that time has passed for: what they began to store is stored."""
        ...

    async def kill(self, queue: Queue, stop: Callable[[], Awaitable[None]]) -> None:
        """Leave what is stored at this moment and end the relay by *stop*, which must not add to it."""
        ...

    async def close(self) -> None:
        """The test is over."""
        ...


class SqliteEngine:
    """A file in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {"type": "sqlite", "path": str(self._folder / "relay.db"), "min_free_disk": 0, **changes}

    async def start(self) -> None: ...

    async def catch_up(self, queue: Queue, clock: Clock) -> None:
        with suppress(QueueError):  # a commit: whatever was to be stored before is stored
            await queue.ping()

    async def kill(self, queue: Queue, stop: Callable[[], Awaitable[None]]) -> None:
        """What is on disk now is put back when the relay has ended."""
        image = self._folder / "image"
        shutil.rmtree(image, ignore_errors=True)
        image.mkdir()
        for path in self._folder.glob("relay.db*"):
            if not path.name.endswith(".lock"):
                shutil.copy2(path, image)
        await stop()
        for path in self._folder.glob("relay.db*"):
            path.unlink()
        for path in image.iterdir():
            shutil.copy2(path, self._folder)

    async def close(self) -> None: ...


class JetStreamEngine:
    """Streams on *server*, reached through a proxy of this replica's own. Replicas share a *stream*."""

    def __init__(self, server: NatsServer, stream: str | None = None) -> None:
        self.stream = stream or f"t{uuid4().hex[:12]}"
        self._server = server
        self._ours = stream is None
        self._proxy = TcpProxy(server.port)

    def settings(self, **changes: Any) -> dict[str, Any]:
        where = {"servers": [self._proxy.url], "stream": self.stream, "replicas": 1}
        return {"type": "jetstream", **where, **changes}

    async def start(self) -> None:
        await self._proxy.close()
        await self._proxy.start()

    async def catch_up(self, queue: Queue, clock: Clock) -> None:
        """Wait for the last heartbeat to come back, and with it all that was stored before it."""
        assert isinstance(queue, JetStreamQueue)
        while True:
            if not queue._link.client.is_connected or await came_back(queue._members, clock):
                return
            await asyncio.sleep(_TURN)

    async def kill(self, queue: Queue, stop: Callable[[], Awaitable[None]]) -> None:
        assert isinstance(queue, JetStreamQueue)
        await self._proxy.close()
        await queue._stop_tasks()
        await queue._link.client.close()
        await stop()

    async def close(self) -> None:
        await self._proxy.close()
        if self._ours:
            for name in (self.stream, f"KV_{self.stream}-state"):
                await self._server.api(f"STREAM.DELETE.{name}")
