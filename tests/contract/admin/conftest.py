"""A real admin listener over a real queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import structlog

from relay.admin.server import AdminServer
from relay.config.queue import SqliteQueueConfig
from relay.config.schema import Admin
from relay.model import DeadLetter, Position, Reason, Response, Role, Settlement
from relay.observe.metrics import Metrics
from relay.queue.sqlite import SqliteQueue
from tests.fakes.clock import FakeClock
from tests.fakes.control import OperatedRelay
from tests.fakes.events import NOW, batch, lines

TOKEN = "correct horse battery staple"


class Admined:
    """The listener, what is behind it, and a client of it."""

    def __init__(self, folder: Path, clock: FakeClock, token: str | None) -> None:
        self.clock = clock
        self.metrics = Metrics(["eu", "us"], ["splunk", "sumo"])
        self.logged = structlog.testing.CapturingLogger()
        self._folder = folder
        self._admin = Admin(host="127.0.0.1", port=1, token=token).model_copy(update={"port": 0})
        self._token = token

    async def __aenter__(self) -> Self:
        self.session = aiohttp.ClientSession()
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        await self.session.close()

    async def open(self, role: Role = "all") -> None:
        self._lost = False
        config = SqliteQueueConfig(path=self._folder / "relay.db", min_free_disk=0)
        self.queue = await SqliteQueue.open(
            config,
            clock=self.clock,
            metrics=self.metrics,
            deduplicate={"eu": 3600.0, "us": None},
            role=role,
        )
        for name in ("splunk", "sumo"):
            await self.queue.attach(name, "now")
        self.metrics.bind(self.queue, clock=self.clock)
        self.control = OperatedRelay(self.queue, self.clock, ["eu", "us"], ["splunk", "sumo"])
        log = structlog.wrap_logger(self.logged, processors=[], wrapper_class=structlog.BoundLogger)
        self._server = AdminServer(self._admin, self.control, self.metrics, clock=self.clock, log=log)
        await self._server.start()

    async def close(self) -> None:
        await self._server.stop()
        if not self._lost:
            await self.queue.close()

    async def stop_listening(self) -> None:
        await self._server.stop()

    async def lose_queue(self) -> None:
        """From now on nothing can be committed."""
        await self.queue.close()
        self._lost = True

    async def restart(self, role: Role = "all") -> None:
        """A new process on the same queue."""
        await self.close()
        self.metrics = Metrics(["eu", "us"], ["splunk", "sumo"])
        await self.open(role)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Ask with the right token unless *headers* say otherwise; status and parsed answer."""
        if self._token:
            headers.setdefault("Authorization", f"Bearer {self._token}")
        async with self.session.request(method, self.url + path, json=body, headers=headers) as response:
            text = await response.read()
            parsed = (
                await response.json(content_type=None)
                if response.content_type.endswith(("/json", "+json"))
                else text
            )
            return response.status, parsed

    async def get(self, path: str) -> Any:
        status, answer = await self.ask("GET", path)
        assert status == 200, answer
        return answer

    async def series(self) -> dict[str, float]:
        """/metrics, by name with labels as exposed."""
        text = (await self.get("/metrics")).decode()
        pairs = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    async def accept(self, count: int, *, first: int = 0, source: str = "eu") -> None:
        """Events come in."""
        await self.queue.append([batch(lines(count, first=first), source=source, at=self.clock.now())])

    async def settle(
        self,
        destination: str,
        *,
        delivered: int,
        dead: int = 0,
        filtered: int = 0,
        reason: Reason = Reason.REJECTED,
    ) -> None:
        """The next events of the one batch that is waiting meet their fate, in this order."""
        reader = self.queue.readers(destination)[0]
        (stored, offset) = (await reader.read(1))[0]
        end = offset + delivered + dead + filtered
        await reader.settle(
            Settlement(
                Position(stored.sequence, offset),
                Position(stored.sequence, end),
                delivered=delivered,
                filtered=filtered,
                dead=tuple(
                    DeadLetter(
                        Position(stored.sequence, n),
                        stored.event(n),
                        reason,
                        Response("It says no.", 400, b'{"error":"no"}', 1),
                    )
                    for n in range(offset + delivered, offset + delivered + dead)
                ),
            )
        )


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admined]:
    """With a token."""
    async with Admined(tmp_path, FakeClock(NOW), TOKEN) as admined:
        yield admined


@pytest.fixture
async def open_admin(tmp_path: Path) -> AsyncIterator[Admined]:
    """On loopback without a token."""
    async with Admined(tmp_path, FakeClock(NOW), None) as admined:
        yield admined
