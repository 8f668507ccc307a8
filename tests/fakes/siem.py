"""A SIEM on loopback that does what the test tells it to and remembers what it was sent.

    async with Siem() as siem:
        siem.answer(503, times=2).then(200)      # two failures, then well for good
        ...
        await siem.received_lines(10)            # waits for ten accepted lines, under a time limit

A real HTTP server on a real socket, plain or TLS: time-outs, resets and half answers are what they
are in life. Behaviours queue up and each request uses one; when the queue is empty the last `then`
applies, which is a plain 200 in the beginning.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web
from multidict import CIMultiDictProxy

from tests.fakes.process import free_port

TIME_LIMIT = 30.0  # seconds any wait may take before the test fails


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str  # with the query
    headers: CIMultiDictProxy[str]
    raw: bytes  # the body on the wire
    body: bytes  # the body after gzip

    def lines(self) -> list[bytes]:
        """The body's lines without their ends; a missing last line end is not forgiven."""
        if not self.body:
            return []
        *lines, rest = self.body.split(b"\n")
        assert rest == b"", f"the body does not end with a line end but with {rest[-80:]!r}"
        return lines


@dataclass(frozen=True, slots=True)
class Answer:
    """What to do with one request. The defaults are a plain, empty 200."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: asyncio.Event | None = None  # wait for this before answering
    hang: bool = False  # never answer
    cut_after: int | None = None  # send the head and so many bytes of the body, then reset
    unread: bool = False  # answer and reset without reading the request body

    @property
    def accepts(self) -> bool:
        """Whether a sender may take this as success."""
        return not self.hang and self.cut_after is None and 200 <= self.status < 300


Behaviour = Answer | Callable[[Received], Answer]


class Siem:
    """The server. `requests` is everything that came, `accepted` what was answered with a 2xx."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, path: str = "/intake") -> None:
        self.requests: list[Received] = []
        self.accepted: list[Received] = []
        self._path = path
        self._tls = tls
        self._script: deque[Behaviour] = deque()
        self._afterwards: Behaviour = Answer()
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()
        self._gone = asyncio.Event()  # a connection was closed
        self._runner: web.ServerRunner | None = None
        self._server: _Server | None = None
        self._site: web.TCPSite | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, port: int | None = None) -> None:
        """Listen; with *port* on the one a test freed before, to come back from the dead."""
        self._closing.clear()
        self._server = _Server(self._handle, self._disconnect)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.1)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", port or free_port(), ssl_context=self._tls)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening and drop every connection; `start(siem.port)` brings it back."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # Where it is

    @property
    def base(self) -> str:
        """Scheme, host and port. With TLS the host is the name the test certificate is for."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.base + self._path

    # What it does

    def answer(
        self,
        status: int = 200,
        *,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        after: asyncio.Event | None = None,
        times: int = 1,
    ) -> Self:
        """Answer the next *times* requests like this, once *after* is set where it is given."""
        raw = body.encode() if isinstance(body, str) else body
        return self.act(Answer(status, raw, headers or {}, after), times=times)

    def hang(self, *, times: int = 1) -> Self:
        """Take the request and never answer."""
        return self.act(Answer(hang=True), times=times)

    def reset(self, *, cut_after: int = 0, times: int = 1) -> Self:
        """Begin a 200 answer and reset the connection after so many bytes of its body."""
        return self.act(Answer(body=b"x" * (cut_after + 1), cut_after=cut_after), times=times)

    def act(self, behaviour: Behaviour, *, times: int = 1) -> Self:
        """Use *behaviour*, an answer or a function of the request, for the next *times* requests."""
        self._script.extend([behaviour] * times)
        return self

    def then(
        self,
        behaviour: int | Behaviour,
        *,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """What every request gets when the script is at its end."""
        if isinstance(behaviour, int):
            raw = body.encode() if isinstance(body, str) else body
            behaviour = Answer(behaviour, raw, headers or {})
        self._afterwards = behaviour
        return self

    # What it saw

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self._server.open if self._server else 0

    def lines(self) -> list[bytes]:
        """Every line of every accepted request, in order of arrival."""
        return [line for request in self.accepted for line in request.lines()]

    async def received(self, count: int, *, within: float = TIME_LIMIT) -> list[Received]:
        """Wait until *count* requests have come, answered or not."""
        await self._until(lambda: len(self.requests) >= count, within)
        return self.requests

    async def received_lines(self, count: int, *, within: float = TIME_LIMIT) -> list[bytes]:
        """Wait until *count* lines were accepted."""
        await self._until(lambda: len(self.lines()) >= count, within)
        return self.lines()

    async def disconnected(self, *, within: float = TIME_LIMIT) -> None:
        """Wait until no connection is open."""
        async with asyncio.timeout(within):
            while self.connections:
                self._gone.clear()
                await self._gone.wait()

    def _disconnect(self) -> None:
        self._gone.set()

    async def _until(self, true: Callable[[], bool], within: float) -> None:
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(true)

    # The server's side

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        behaviour = self._script.popleft() if self._script else self._afterwards
        if isinstance(behaviour, Answer) and behaviour.unread:
            return await self._refuse_unread(request, behaviour)
        received = await self._read(request)
        async with self._changed:
            self.requests.append(received)
            self._changed.notify_all()
        answer = behaviour if isinstance(behaviour, Answer) else behaviour(received)
        if answer.after is not None:
            await self._either(answer.after)
        if answer.hang:
            await self._closing.wait()
        if answer.accepts:
            async with self._changed:
                self.accepted.append(received)
                self._changed.notify_all()
        if answer.cut_after is not None:
            return await self._cut(request, answer)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async def _read(self, request: web.BaseRequest) -> Received:
        raw = await request.content.read()
        zipped = request.headers.get("Content-Encoding") == "gzip"
        body = gzip.decompress(raw) if zipped else raw
        return Received(request.method, request.path_qs, request.headers, raw, body)

    async def _either(self, event: asyncio.Event) -> None:
        """Wait for *event* or for the end of the test, whichever is first."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._closing.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _cut(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(answer.body[: answer.cut_after])
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _refuse_unread(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        """Answer while the sender still writes, then close, as servers do with a body they will not take."""
        response = web.Response(
            status=answer.status, body=answer.body, headers={**answer.headers, "Connection": "close"}
        )
        response.force_close()
        await response.prepare(request)
        await response.write_eof()
        return response


class _Server(web.Server):
    """aiohttp's low-level server, which counts its connections and tells when one is gone."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], gone: Callable[[], None]
    ) -> None:
        super().__init__(handler, auto_decompress=False, handler_cancellation=True, access_log=None)
        self._on_gone = gone
        self.open = 0

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self.open += 1

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.open -= 1
        self._on_gone()
