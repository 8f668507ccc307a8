"""aiohttp's connections with what they lack: a limit on a request's head, and an end in good order.

Owns the time limits of connections and the count of requests in progress. Never sees a request's
content.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

from aiohttp import web
from aiohttp.web import BaseRequest

from relay.clock import Clock
from relay.ingest.answers import Answer, Answers

_LINGER = 5.0  # seconds; how long the rest of a refused body is read and thrown away
_MAX_FIELD = 16 * 1024  # bytes of one header field; authorizations may be long
_CUT_LIMIT = 0.5  # seconds a request that is cut off gets to notice


class Connection(web.RequestHandler):
    """One sender's connection."""

    __slots__ = ("_answers", "_clock", "begun_at", "busy")

    def __init__(
        self, listener: Listener, answers: Answers, clock: Clock, loop: asyncio.AbstractEventLoop, idle: float
    ) -> None:
        super().__init__(
            listener,
            loop=loop,
            # The raw gzip is what the queue keeps, and aiohttp would inflate it inside the event loop.
            auto_decompress=False,
            keepalive_timeout=idle,
            # An answer sent before the body was read would be lost with it if the connection were closed
            # at once: closing with unread data resets, and a reset overtakes the answer.
            lingering_time=_LINGER,
            max_field_size=_MAX_FIELD,
            access_log=None,  # type: ignore[arg-type]  # documented as the way to switch it off
        )
        self._answers = answers
        self._clock = clock
        self.busy = False  # a request is being handled
        self.begun_at: float | None = None  # when the head that is still incomplete began, monotonic

    def data_received(self, data: bytes) -> None:
        # aiohttp calls this without data, too, to go on parsing what it has.
        if data and not self.busy and self.begun_at is None:
            self.begun_at = self._clock.monotonic()
        super().data_received(data)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP. aiohttp would log a stack trace for each, and anyone can send them."""
        return self._answers.malformed()


class Listener(web.Server):
    """Makes connections, closes those that take too long, and knows which have work in progress."""

    def __init__(
        self,
        handler: Callable[[BaseRequest], Awaitable[Answer]],
        answers: Answers,
        *,
        clock: Clock,
        idle_timeout: float,
        head_timeout: float,
    ) -> None:
        super().__init__(self._serve)
        self._handler = handler
        self._answers = answers
        self._clock = clock
        self._idle_timeout = idle_timeout
        self._head_timeout = head_timeout
        self._in_progress = 0
        self._last_done: asyncio.Event | None = None  # while draining: no request is in progress any more

    def __call__(self) -> Connection:
        return Connection(self, self._answers, self._clock, self._loop, self._idle_timeout)

    def close_overdue(self) -> None:
        """Close connections whose request head has been arriving for too long."""
        since = self._clock.monotonic() - self._head_timeout
        for connection in self._open():
            if not connection.busy and connection.begun_at is not None and connection.begun_at <= since:
                connection.force_close()

    async def drain(self, grace: float) -> int:
        """Let requests in progress end, at most *grace* seconds, then close every connection.

        The socket must be closed already. Returns how many requests were cut off.
        """
        self._last_done = asyncio.Event()
        await self._clock.sleep(0)  # requests that have just been read get to their handler
        for connection in self._open():
            if not connection.busy and connection.begun_at is None:
                connection.force_close()
        if self._in_progress:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._last_done.wait()
        cut_off = self._in_progress
        await self.shutdown(_CUT_LIMIT)
        return cut_off

    async def _serve(self, request: BaseRequest) -> Answer:
        connection = cast("Connection", request.protocol)
        connection.busy, connection.begun_at = True, None
        self._in_progress += 1
        try:
            answer = await self._handler(request)
            if self._last_done is not None:
                answer.force_close()
            return answer
        finally:
            connection.busy = False
            self._in_progress -= 1
            if self._last_done is not None and not self._in_progress:
                self._last_done.set()

    def _open(self) -> list[Connection]:
        return cast("list[Connection]", self.connections)
