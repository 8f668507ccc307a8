"""The relay of the demonstration: a real process with its own configuration, started, killed and asked."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout

from relay.clock import Clock
from relay.demo.konnect import AUTHORIZATION, TOKEN
from relay.demo.siem import DemoSiem
from relay.errors import RelayError

SOURCE: Final = "konnect-us"
_START_LIMIT: Final = 30.0  # seconds
_STOP_LIMIT: Final = 15.0  # seconds
_POLL: Final = 0.1  # seconds


class CannotStart(RelayError):
    """The relay of the demonstration does not start."""


class DemoRelay:
    """`python -m relay run` in *folder*."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.port, self.admin_port = _free_port(), _free_port()
        self.log = folder / "relay.log"
        self._folder = folder
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._session = ClientSession(timeout=ClientTimeout(total=3.0))

    @property
    def intake(self) -> str:
        return f"http://127.0.0.1:{self.port}/audit-logs/{SOURCE}"

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def configure(self, konnect: str, siems: Sequence[DemoSiem]) -> None:
        """Write its configuration. *konnect* is where the control API is."""
        retry = {"min_wait": "200ms", "max_wait": "1s", "max_retries": 2, "probe_interval": "500ms"}
        document = {
            "server": {"host": "127.0.0.1", "port": self.port},
            "admin": {"host": "127.0.0.1", "port": self.admin_port},
            "sources": [{"name": SOURCE, "authorization": AUTHORIZATION}],
            "queue": {"type": "sqlite", "path": str(self._folder / "relay.db"), "min_free_disk": 0},
            "destinations": [
                {"name": siem.name, "type": "http", "url": siem.url, "retry": retry} for siem in siems
            ],
            "recovery": {
                "konnect": {
                    "region": "us",
                    "token": TOKEN,
                    "regional_url": konnect,
                    "global_url": konnect,
                    "margin": "1s",
                    "status_interval": "1s",
                    "job_interval": "500ms",
                }
            },
        }
        (self._folder / "relay.yaml").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))

    async def start(self) -> None:
        """Start it unless it runs, and wait until it is ready. Raises `CannotStart` after half a minute."""
        if not self.is_up:
            await self._spawn()
        deadline = self._clock.monotonic() + _START_LIMIT
        while await self.ask("/readyz") is None:
            if not self.is_up or self._clock.monotonic() > deadline:
                raise CannotStart(f"the relay did not start:\n{self.log.read_text()[-2000:]}")
            await self._clock.sleep(_POLL)

    async def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "relay", "run", "-c", str(self._folder / "relay.yaml"),
                stdout=log, stderr=log, start_new_session=True,  # Ctrl-C is for the demonstration
            )  # fmt: skip

    async def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None and self.is_up:
            self._process.kill()
            await self._process.wait()

    async def close(self) -> None:
        await self._session.close()
        if self._process is not None and self.is_up:
            self._process.terminate()
            try:
                async with asyncio.timeout(_STOP_LIMIT):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()

    async def ask(self, path: str) -> Any:
        """What its admin API answers; None where it does not."""
        try:
            async with self._session.get(f"http://127.0.0.1:{self.admin_port}{path}") as response:
                return orjson.loads(await response.read()) if response.status == 200 else None
        except (ClientError, TimeoutError):
            return None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
