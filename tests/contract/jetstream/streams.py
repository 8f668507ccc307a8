"""The two streams of a queue and replicas that reach them, each by a proxy of its own that can be cut."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import nats
import orjson
from nats.aio.client import Client

from relay.observe import logs
from relay.queue.jetstream.bucket import Bucket, Entry
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.watch import Watch
from tests.fakes.nats import NatsServer, TcpProxy
from tests.fakes.process import until

LIMIT = 30.0  # real seconds anything may take
_COMMON = {"storage": "file", "discard": "new", "allow_direct": True, "allow_atomic": True}


@asynccontextmanager
async def streams(server: NatsServer, prefix: str, **events: object) -> AsyncIterator[None]:
    """*events* are settings of the stream of events."""
    state = {
        "name": f"KV_{prefix}-state",
        "subjects": [f"$KV.{prefix}-state.>"],
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
    }
    for config in ({"name": prefix, "subjects": [f"{prefix}.events.>"]} | events, state):
        answer = await server.api(f"STREAM.CREATE.{config['name']}", _COMMON | config)
        assert "error" not in answer, answer
    yield
    for name in (prefix, f"KV_{prefix}-state"):
        await server.api(f"STREAM.DELETE.{name}")


class Site:
    """A replica's connection, and its watch over the state bucket."""

    client: Client
    link: Link
    bucket: Bucket

    def __init__(self, server: NatsServer, prefix: str) -> None:
        self.prefix = prefix
        self.proxy = TcpProxy(server.port)
        self.stream = io.BytesIO()
        self.log = logs.configure("info", stream=self.stream)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, server: NatsServer, prefix: str) -> AsyncIterator[Site]:
        site = cls(server, prefix)
        async with site.proxy:
            site.client = await nats.connect(
                site.proxy.url, max_reconnect_attempts=-1, reconnect_time_wait=0.01, error_cb=_ignore
            )
            site.link = await Link.open(site.client)
            site.bucket = Bucket(site.link, f"{prefix}-state")
            try:
                yield site
            finally:
                for task in site._tasks:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                await site.client.close()

    async def watch(self, **owners: Callable[[Entry], None]) -> None:
        """Returns when everything that is there was seen."""
        watch = Watch(self.link, self.bucket, owners, log=self.log, changed=_nothing, lost=_nothing)
        self.run(watch.run())
        async with asyncio.timeout(LIMIT):
            await watch.complete.wait()

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [orjson.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def run(self, loop: Coroutine[Any, Any, None]) -> None:
        """Until the site closes."""
        # Kept, and awaited when the site closes.
        self._tasks.append(asyncio.create_task(loop))

    async def cut_off(self) -> None:
        """Nobody can be reached any more."""
        # Connections are refused. Were they accepted and closed, as by `TcpProxy.cut`, the client would leave
        # a socket open with each attempt.
        await self.proxy.close()
        await until(lambda: not self.client.is_connected, LIMIT, "noticing the cut")

    async def come_back(self) -> None:
        await self.proxy.start()
        await until(lambda: self.client.is_connected, LIMIT, "connecting again")


def _nothing() -> None: ...


async def _ignore(_: Exception) -> None: ...
