"""Three nats-servers that run with deploy/compose-cluster/nats.conf, on loopback instead of in containers.

Only addresses and folders are replaced; limits, accounts, permissions and durability are those that ship.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp

from relay.config.secret import Secret
from relay.queue.jetstream.identity import Identity
from tests.fakes.nats import BINARY, START_LIMIT
from tests.fakes.process import free_port, until

FOLDER = Path(__file__).parents[2] / "deploy" / "compose-cluster"
NAMES = ("nats-1", "nats-2", "nats-3")


_USER_SEED = bytes((18 << 3 | 5, 0))  # prefix of a seed, and of a user; prints as SU


def new_user() -> Identity:
    """A new NKEY, as `nk -gen user` makes it."""
    data = _USER_SEED + os.urandom(32)
    checked = data + binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return Identity(Secret(base64.b32encode(checked).rstrip(b"=").decode()))


class ShippedCluster:
    """See the module. `urls` and `monitoring` are in the order of the servers."""

    def __init__(self, folder: Path) -> None:
        self.relay = new_user()
        self.operator = new_user()
        self._folder = folder
        self._clients, self._routes, self._monitors = (
            {name: free_port() for name in NAMES} for _ in range(3)
        )
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{port}" for port in self._clients.values()]

    @property
    def monitoring(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._monitors.values()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ShippedCluster]:
        """Until the block ends; begins when every server is healthy and follows the cluster's leader."""
        try:
            for name in NAMES:
                self._start(name)
            async with aiohttp.ClientSession() as session:
                for url in self.monitoring:
                    await until(partial(_healthy, session, url), START_LIMIT, f"{url} being healthy")
            yield self
        finally:
            for process in self._processes:
                process.kill()
            for process in self._processes:
                process.wait()

    def environment(self, name: str) -> dict[str, str]:
        """What compose.yaml gives the server."""
        return {
            "NATS_SERVER_NAME": name,
            "RELAY_NKEY": self.relay.public_key(),
            "OPERATOR_NKEY": self.operator.public_key(),
        }

    def _start(self, name: str) -> None:
        text = (FOLDER / "nats.conf").read_text()
        text = text.replace("0.0.0.0:4222", f"127.0.0.1:{self._clients[name]}")
        text = text.replace("0.0.0.0:8222", f"127.0.0.1:{self._monitors[name]}")
        text = text.replace("0.0.0.0:6222", f"127.0.0.1:{self._routes[name]}")
        text = re.sub(r"nats://(nats-\d):6222", lambda m: f"nats://127.0.0.1:{self._routes[m[1]]}", text)
        text = text.replace("store_dir: /data", f"store_dir: {self._folder / name}")
        file = self._folder / f"{name}.conf"
        file.write_text(text)
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [BINARY, "--config", file],
                env={**os.environ, **self.environment(name)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)


async def _healthy(session: aiohttp.ClientSession, url: str) -> bool:
    """What compose.yaml asks, and whether there is a leader: a question before that gets no answer."""
    with suppress(aiohttp.ClientError):
        async with session.get(f"{url}/healthz?js-server-only=true") as health:
            if health.status != 200:
                return False
        async with session.get(f"{url}/jsz") as figures:
            return bool((await figures.json()).get("meta_cluster", {}).get("leader"))
    return False
