"""A server of key sets on loopback, as Konnect's regional one; and one that fails in every way."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.fakes.process import free_port
from tests.fakes.signing import TEST, Signer, jwks

PATH = "/v2/audit-log-webhook/jwks.json"


class KeyServer:
    """Answers with the keys of *signers*; every attribute may be changed while it runs."""

    def __init__(self, *signers: Signer) -> None:
        self.body = jwks(*(signers or (TEST,)))
        self.status = 200
        self.headers: dict[str, str] = {}
        self.token: str | None = None  # demanded
        self.hangs = False
        self.asked: list[str | None] = []  # the Authorization of each request
        self.release = asyncio.Event()  # lets those go that hang
        self.arrived = asyncio.Event()
        self._runner: web.ServerRunner | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    def publish(self, *signers: Signer) -> None:
        self.body = jwks(*signers)

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()

    async def stop(self) -> None:
        """From now on connections are refused; `start` has the same port again."""
        self.release.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.headers.get("Authorization"))
        self.arrived.set()
        if self.hangs:
            await self.release.wait()
        if self.token is not None and self.asked[-1] != f"Bearer {self.token}":
            return web.Response(status=401)
        if request.path != PATH:
            return web.Response(status=404)
        return web.Response(status=self.status, body=self.body, headers=self.headers)
