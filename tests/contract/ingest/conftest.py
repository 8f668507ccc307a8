"""A listening intake over a real queue, and senders to it."""

from __future__ import annotations

import asyncio
import sqlite3
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest
import structlog
import uvloop
from structlog.typing import EventDict, WrappedLogger

from relay.clock import Clock, SystemClock
from relay.config.queue import SqliteQueueConfig
from relay.config.schema import Server, Source
from relay.ingest.server import IngestServer
from relay.observe.metrics import Metrics
from relay.queue.base import Reader
from relay.queue.sqlite import SqliteQueue

TIME_LIMIT = 30.0  # seconds any wait may take before the test fails
SECRET = "Bearer s3cret"


@dataclass
class Answer:
    """What came back over the wire."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class Sender:
    """One raw connection: what a test sends is exactly what is on the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> Self:
        host = "localhost" if tls else None
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=host))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def post(self, body: bytes, **kwargs: Any) -> Answer:
        """Send one request; keyword arguments are those of `head`."""
        self.write(head(len(body), **kwargs) + body)
        return await self.answer()

    async def answer(self, *, bodiless: bool = False) -> Answer:
        async with asyncio.timeout(TIME_LIMIT):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            first, *rest = text.rstrip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
            length = 0 if bodiless else int(headers.get("content-length", 0))
            return Answer(int(first.split()[1]), headers, await self._reader.readexactly(length))

    async def ended(self) -> bytes:
        """Wait until the relay closes the connection; what it sent before that."""
        async with asyncio.timeout(TIME_LIMIT):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    def half_close(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError, ssl.SSLError):  # the relay was faster
            await self._writer.wait_closed()

    def peer_certificate(self) -> dict[str, Any]:
        certificate: dict[str, Any] = self._writer.get_extra_info("peercert")
        return certificate

    def abort(self) -> None:
        self._writer.transport.abort()


def head(
    length: int | None,
    *,
    method: str = "POST",
    path: str = "/audit-logs/eu",
    authorization: str | None = SECRET,
    content_type: str = "text/plain",
    fields: str = "",
) -> bytes:
    """A request's head; *length* None announces chunks."""
    lines = [f"{method} {path} HTTP/1.1", "Host: relay.test", f"Content-Type: {content_type}"]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    return ("\r\n".join(lines) + f"\r\n{fields}\r\n").encode()


class Record:
    """The log's lines, and a way to wait for more of them."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._more = asyncio.Event()

    def __call__(self, _: WrappedLogger, level: str, event: EventDict) -> NoReturn:
        self.entries.append({**event, "level": level})
        self._more.set()
        raise structlog.DropEvent

    def named(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["event"] == event]

    async def requests(self, count: int) -> list[dict[str, Any]]:
        """Wait until *count* requests are over; their lines."""
        async with asyncio.timeout(TIME_LIMIT):
            while len(found := self.named("ingest.request")) < count:
                self._more.clear()
                await self._more.wait()
        return found


@dataclass
class Rig:
    """An intake at work."""

    intake: IngestServer
    queue: SqliteQueue
    metrics: Metrics
    path: Path
    reader: Reader
    log: Record
    exits: AsyncExitStack
    broken: bool = False

    async def sender(self, tls: ssl.SSLContext | None = None) -> Sender:
        sender = await Sender.connect(self.intake.port, tls)
        self.exits.push_async_callback(sender.close)
        return sender

    async def post(self, body: bytes, **kwargs: Any) -> Answer:
        """Send one request over a connection of its own."""
        return await (await self.sender()).post(body, **kwargs)

    async def stored(self) -> list[bytes]:
        """Every line in the queue, in order."""
        self.reader.rewind()
        found = []
        while batches := await self.reader.read(10_000):
            found += [line for batch, offset in batches for line in batch.lines[offset:]]
        return found

    async def gap_causes(self) -> list[str]:
        return [gap.cause for gap in await self.queue.gaps()]

    async def break_queue(self) -> None:
        """From now on nothing can be stored."""
        await self.queue.close()
        self.broken = True

    async def close_queue(self) -> None:
        if not self.broken:
            await self.queue.close()

    def lock_database(self) -> sqlite3.Connection:
        """Keep the queue from committing until the connection is closed."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        return other


Launch = Callable[..., Awaitable[Rig]]


def source(name: str, *authorization: str) -> Source:
    return Source.model_validate({"name": name, "authorization": list(authorization) or [SECRET]})


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Connections are tested on the event loop the relay runs on; it ends them in ways of its own."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Start an intake; keyword arguments are those of the `server` section."""
    async with AsyncExitStack() as exits:

        async def start(
            *,
            sources: Sequence[Source] = (source("eu"), source("us", "Bearer us")),
            clock: Clock | None = None,
            queue_bytes: int = 1 << 30,
            **server: object,
        ) -> Rig:
            clock = clock or SystemClock()
            names = [each.name for each in sources]
            path = tmp_path / "relay.db"
            config = SqliteQueueConfig(path=path, max_bytes=queue_bytes, min_free_disk=0, when_full="reject")
            queue = await SqliteQueue.open(config, clock=clock, deduplicate=dict.fromkeys(names, 86400.0))
            reader = (await queue.attach("siem", "now"))[0]
            metrics = Metrics(names, ["siem"])
            log = Record()
            intake = IngestServer(
                Server.model_validate({"host": "127.0.0.1", "port": 0, **server}),
                sources,
                queue,
                clock=clock,
                metrics=metrics,
                log=structlog.wrap_logger(
                    None, processors=[log], wrapper_class=structlog.make_filtering_bound_logger(0)
                ),
            )
            rig = Rig(intake, queue, metrics, path, reader, log, exits)
            exits.push_async_callback(rig.close_queue)
            await intake.start()
            exits.push_async_callback(intake.stop, 0.5)
            return rig

        yield start


@pytest.fixture
async def rig(launch: Launch) -> Rig:
    return await launch()
