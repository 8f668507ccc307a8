"""Looking names up without holding up anybody else.

uvloop looks names up in libuv's thread pool and connects through it as well: two lookups that hang, for a
name server that does not answer, stall every new connection of the process, also to addresses that need none.
So each lookup gets a thread of its own. Owns nothing else; aiohttp keeps the answers.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

_MOST = 4  # lookups of one resolver at a time; those beyond wait, under the time limit of their request


class ThreadResolver(AbstractResolver):
    """For one `aiohttp.TCPConnector`.

    Its threads are daemons: one that hangs keeps neither the connector from being closed nor the process from
    ending.
    """

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_MOST)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of *host*. Raises `OSError`, as `socket.getaddrinfo` does."""
        async with self._room:
            found = await addresses(host, port, family=family, flags=socket.AI_ADDRCONFIG)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Nothing to let go of."""


async def addresses(
    host: str, port: int, *, family: int = 0, kind: int = socket.SOCK_STREAM, flags: int = 0
) -> list[Any]:
    """What `socket.getaddrinfo` says. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Any]] = loop.create_future()

    def settle(found: list[Any] | None, error: Exception | None) -> None:
        if answer.done():  # whoever asked has given up
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found or [])

    def look_up() -> None:
        found: list[Any] | None = None
        failure: Exception | None = None
        try:
            found = socket.getaddrinfo(host, port, family=family, type=kind, flags=flags)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, found, failure)

    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    return await answer
