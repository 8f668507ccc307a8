"""A syslog server whose manners a test chooses: strict about frames, and able to hang, close or reset.

Owns the reading of both framings, by the letter of RFC 6587 and RFC 5425: whatever is not a frame fails the
test. Knows nothing of what is in a message.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self, cast

from tests.fakes.process import free_port

TIME_LIMIT = 30.0  # seconds a test waits for what must come

Framing = Literal["lf", "octet_counting"]


class BadFrame(Exception):
    """What came is no frame."""


class FrameReader:
    """Cuts a stream into messages."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._buffer = b""

    @property
    def torn(self) -> bytes:
        """The beginning of a frame whose end has not come."""
        return self._buffer

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        if self._framing == "lf":
            *messages, self._buffer = self._buffer.split(b"\n")
            if not all(messages):
                raise BadFrame("an empty line")
            return messages
        messages = []
        while (message := self._counted()) is not None:
            messages.append(message)
        return messages

    def _counted(self) -> bytes | None:
        length, blank, rest = self._buffer.partition(b" ")
        if not blank:
            if len(length) > 6 or (length and not length.isdigit()):
                raise BadFrame(f"no length: {length[:40]!r}")
            return None
        if not length.isdigit() or length.startswith(b"0"):
            raise BadFrame(f"no length: {length[:40]!r}")
        if len(rest) < int(length):
            return None
        self._buffer = rest[int(length) :]
        return rest[: int(length)]


@dataclass(frozen=True, slots=True)
class Manners:
    """How one connection is treated."""

    reads: bool = True  # False: takes the connection and reads nothing
    after: int | None = None  # ends the connection once so many messages have come on it
    ending: Literal["close", "reset"] = "close"


@dataclass(eq=False, slots=True)
class Line:
    """One connection, as the server sees it."""

    manners: Manners
    writer: asyncio.StreamWriter
    reader: FrameReader
    messages: list[bytes] = field(default_factory=list)
    ended: bool = False  # the sender closed it

    def reset(self) -> None:
        """End it as a process does that dies with bytes unread."""
        if self.writer.transport.is_closing():
            return
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """End it as a process does that has read everything."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


class SyslogServer:
    """Listens on loopback.

    async with SyslogServer(framing="lf") as server:
        server.next.append(Manners(after=3, ending="reset"))
        ...
        await server.got(10)
    """

    def __init__(
        self, framing: Framing = "lf", *, tls: ssl.SSLContext | None = None, manners: Manners | None = None
    ) -> None:
        self.port = free_port()
        self.lines: list[Line] = []
        self.next: deque[Manners] = deque()  # for the connections to come; then well-behaved ones
        self._manners = manners or Manners()
        self._framing = framing
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self._failures: list[Exception] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if error is None and self._failures:
            raise self._failures[0]

    async def start(self) -> None:
        # A small limit: what hangs must leave bytes in the kernel and not in Python.
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls, limit=4096
        )

    async def stop(self) -> None:
        """Stop listening and reset every connection."""
        if self._server is not None:
            self._server.close()
            for line in self.lines:
                line.reset()
            await self._server.wait_closed()
            self._server = None

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    @property
    def messages(self) -> list[bytes]:
        """Every message of every connection, in order of the connections."""
        return [message for line in self.lines for message in line.messages]

    async def got(self, count: int) -> list[bytes]:
        """Wait for so many messages; all that have come."""
        await self._until(lambda: len(self.messages) >= count)
        return self.messages

    async def connected(self, count: int) -> None:
        """Wait until so many connections have been made."""
        await self._until(lambda: len(self.lines) >= count)

    async def left(self, count: int = 1) -> None:
        """Wait until the sender has closed so many connections."""
        await self._until(lambda: sum(line.ended for line in self.lines) >= count)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIME_LIMIT):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        manners = self.next.popleft() if self.next else self._manners
        line = Line(manners, writer, FrameReader(self._framing))
        self.lines.append(line)
        self._changed.set()
        if not manners.reads:
            cast("asyncio.ReadTransport", writer.transport).pause_reading()
            return
        try:
            await self._read(line, reader)
        except BadFrame as error:
            self._failures.append(error)
            line.reset()
        except OSError:
            pass  # the sender broke off
        self._changed.set()

    async def _read(self, line: Line, reader: asyncio.StreamReader) -> None:
        after = line.manners.after
        while data := await reader.read(65_536):
            messages = line.reader.feed(data)
            line.messages += messages if after is None else messages[: after - len(line.messages)]
            if after is not None and len(line.messages) >= after:
                if line.manners.ending == "reset":
                    line.reset()
                await line.close()
                return
            self._changed.set()
        line.ended = True
        await line.close()
