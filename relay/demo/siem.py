"""A SIEM for the demonstration: takes lines over HTTP, and is down for a while now and then if asked to be.

Owns which events it has and how many came twice. Delivery is at least once, so some may.
"""

from __future__ import annotations

import gzip
import re
from typing import Final

from aiohttp import web

from relay.clock import Clock

_NUMBER: Final = re.compile(rb" trace_id=(\d+)")


class DemoSiem:
    """Listens on loopback."""

    def __init__(self, name: str, clock: Clock, *, flaps: float | None = None) -> None:
        """*flaps*: up and down by turns, so many seconds each, until `steady`; None: always up."""
        self.name = name
        self.events: set[int] = set()
        self.twice = 0  # copies beyond the first
        self.refused = 0  # requests
        self.port = 0
        self._clock = clock
        self._flaps = flaps
        self._begun = clock.monotonic()
        self._runner: web.AppRunner

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    @property
    def is_up(self) -> bool:
        if self._flaps is None:
            return True
        return int((self._clock.monotonic() - self._begun) / self._flaps) % 2 == 0

    def steady(self) -> None:
        """From now on it stays up."""
        self._flaps = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/events", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not self.is_up:
            self.refused += 1
            return web.Response(status=503)
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        for found in _NUMBER.finditer(body):
            number = int(found[1])
            self.twice += number in self.events
            self.events.add(number)
        return web.Response()
