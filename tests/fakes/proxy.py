"""A TCP proxy on loopback that breaks when it is told to.

async with TcpProxy(server.port) as proxy:
    ... connect to proxy.port ...
    proxy.stall()                         # the network swallows packets
    proxy.cut()                           # connections are reset
    proxy.heal()
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from tests.fakes.process import free_port


class TcpProxy:
    """Passes bytes on to a port on loopback until it is told to break.

    Listens on `port` from `start` to `close`, also while it is cut: the port must not become somebody else's.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut = False
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._drop()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection, and every new one at once."""
        self._cut = True
        self._drop()

    def stall(self) -> None:
        """Keep connections and take new ones, but pass nothing on: a network that swallows packets."""
        self._flowing.clear()

    def heal(self) -> None:
        """Pass on again, what was held back first."""
        self._cut = False
        self._flowing.set()

    def _drop(self) -> None:
        for connection in self._connections:
            connection.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        outward: asyncio.StreamWriter | None = None
        try:
            if self._cut:
                return
            inward, outward = await asyncio.open_connection("127.0.0.1", self.target)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass_on(reader, outward))
                ways.create_task(self._pass_on(inward, writer))
        except (asyncio.CancelledError, ExceptionGroup, OSError):
            pass  # ends this connection, as it is meant to; the streams' own task must not end cancelled
        finally:
            self._connections.discard(connection)
            for each in (writer, outward):
                if each is not None:
                    each.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction. Its end is the end of both: neither side of NATS closes only half."""
        while data := await reader.read(1 << 16):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
