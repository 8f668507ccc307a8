"""Real nats-server processes on loopback.

    async with NatsServer(tmp_path) as server:
        ... server.url ...
        await server.kill()
        await server.start()                  # same folder, same port

    async with NatsCluster(tmp_path, partitions=True) as cluster:
        leader = await cluster.leader_of("orders")
        cluster.isolate(leader)
        ...
        cluster.heal()

Owns starting, stopping, killing and freezing; what is stored in them is the test's affair. A server's
process belongs to no event loop, so that a fixture of the whole session may keep one for all tests.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import nats

from tests.fakes.process import free_port, until
from tests.fakes.proxy import TcpProxy

__all__ = ["NatsCluster", "NatsServer", "TcpProxy"]

BINARY = Path(sys.executable).with_name("nats-server")
START_LIMIT = 40.0  # seconds until a server takes connections, or a cluster has a leader
STOP_LIMIT = 40.0  # seconds until a server is gone
_ANSWER_LIMIT = 30  # seconds a server may take to answer
_LOOK_LIMIT = 1.0  # seconds after which one that does not answer is passed over, and looked at again later
_PR_SET_PDEATHSIG = 1


class NatsServer:
    """One process. Made without starting it; `start` and `stop` may follow each other as often as wished.

    *settings* goes into the server's configuration as it stands: `authorization`, `tls`, `max_payload`,
    `server_tags`, `accounts` … *jetstream* holds settings of that section, `sync_interval` for example; None
    leaves JetStream off.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "nats",
        jetstream: Mapping[str, object] | None = None,
        with_jetstream: bool = True,
        sync_always: bool = False,
        monitoring: bool = False,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.port = free_port()
        self.monitoring_port = free_port() if monitoring else None
        self.folder = folder / name
        self.log = folder / f"{name}.log"
        self._file = folder / f"{name}.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, object] = {
            "server_name": name,
            "host": "127.0.0.1",
            "port": self.port,
            **(settings or {}),
        }
        if self.monitoring_port is not None:
            self.settings["http"] = f"127.0.0.1:{self.monitoring_port}"
        if with_jetstream:
            limits = {"max_memory_store": 256 << 20, "max_file_store": 1 << 44}
            store = {"store_dir": str(self.folder), **limits, **(jetstream or {})}
            self.settings["jetstream"] = store | ({"sync_interval": "always"} if sync_always else {})

    def __repr__(self) -> str:
        return f"<NatsServer {self.name} {self.url} {'up' if self.running else 'down'}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"--- end of {self.log}\n{self.log_tail()}\n")
        await self.kill()

    @property
    def url(self) -> str:
        return f"{'tls' if 'tls' in self.settings else 'nats'}://127.0.0.1:{self.port}"

    @property
    def monitoring_url(self) -> str:
        assert self.monitoring_port is not None, "made without monitoring=True"
        return f"http://127.0.0.1:{self.monitoring_port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    # Its life

    async def start(self) -> None:
        """Returns when it takes connections and has read back what it had stored."""
        self.launch()
        await self.ready()

    def launch(self) -> None:
        """Start without waiting for it, as the servers of a cluster have to."""
        assert not self.running, f"{self.name} runs already"
        self._file.write_text(json.dumps(self.settings, indent=2))  # JSON is NATS configuration
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [BINARY, "--config", self._file],
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_us,  # noqa: PLW1509 - one system call, which takes no lock
            )

    async def ready(self) -> None:
        """Wait for a launched server."""

        def up() -> bool:
            assert self.running, f"nats-server ended:\n{self.log_tail()}"
            return b"Server is ready" in self.log.read_bytes()

        await until(up, START_LIMIT, f"{self.name} being ready")

    async def stop(self) -> None:
        """SIGTERM: it writes out what it holds and ends."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL: what the kernel has not been given is lost."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def reload(self, **settings: object) -> None:
        """Change settings of the running server, as `nats-server --signal reload` does."""
        self.settings.update(settings)
        self._file.write_text(json.dumps(self.settings, indent=2))
        reloads = self.log.read_bytes().count(b"Reloaded server configuration")
        self._signal(signal.SIGHUP)
        await until(
            lambda: self.log.read_bytes().count(b"Reloaded server configuration") > reloads,
            START_LIMIT,
            f"{self.name} reloading",
        )

    # What it says

    def log_tail(self, lines: int = 25) -> str:
        with suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"

    async def api(
        self, subject: str, body: Mapping[str, object] | None = None, **credentials: Any
    ) -> dict[str, Any]:
        """Ask its JetStream on a connection of the test's own, e.g. `STREAM.INFO.orders`.

        Refusals are returned as they are. *credentials* are options of `nats.connect`.
        """
        client = await nats.connect(
            self.url, allow_reconnect=False, connect_timeout=_ANSWER_LIMIT, **credentials
        )
        try:
            payload = json.dumps(body).encode() if body is not None else b""
            answer = await client.request(f"$JS.API.{subject}", payload, timeout=_ANSWER_LIMIT)
            found: dict[str, Any] = json.loads(answer.data)
            return found
        finally:
            await client.close()

    async def monitor(self, path: str, *, within: float = _ANSWER_LIMIT) -> dict[str, Any]:
        """What its monitoring endpoint says, e.g. `jsz?config=true`. A paused server is a `TimeoutError`."""
        url = f"{self.monitoring_url}/{path}"
        async with asyncio.timeout(within), aiohttp.ClientSession() as session, session.get(url) as answer:
            found: dict[str, Any] = await answer.json()
            return found

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process = self._process
        if process.poll() is None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # a paused process would not see the other one
            await until(lambda: process.poll() is not None, STOP_LIMIT, f"the end of {self.name}")
        self._process = None


class NatsCluster:
    """Some servers with routes to each other; started together, then `servers[i]` are killed one by one.

    With *partitions* every route goes through a proxy, so that `isolate` can cut one server off from the rest
    while clients still reach it; such a cluster lives in the event loop that started it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        size: int = 3,
        partitions: bool = False,
        sync_always: bool = False,
        jetstream: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        each: Sequence[Mapping[str, object]] = (),
    ) -> None:
        """*settings* are those of every server, *each* further ones by position."""
        names = [f"n{number}" for number in range(1, size + 1)]
        self._routes = {name: free_port() for name in names}
        self._proxies: dict[tuple[str, str], TcpProxy] = {}
        if partitions:
            self._proxies = {
                (one, other): TcpProxy(self._routes[other])
                for one in names
                for other in names
                if one != other
            }
        self._common = settings or {}
        self.servers = [
            NatsServer(
                folder,
                name=name,
                jetstream=jetstream,
                sync_always=sync_always,
                monitoring=True,
                settings={**self._common, **(each[number] if number < len(each) else {})},
            )
            for number, name in enumerate(names)
        ]

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for server in self.servers:
                sys.stderr.write(f"--- end of {server.log}\n{server.log_tail()}\n")
        await self.close()

    async def start(self) -> None:
        """Returns when the cluster has a leader that sees every server."""
        for proxy in self._proxies.values():
            await proxy.start()
        for server in self.servers:
            server.settings["cluster"] = self._cluster(server.name)
            server.launch()
        for server in self.servers:
            await server.ready()
        await self.whole()

    async def close(self) -> None:
        for server in self.servers:
            await server.kill()
        for proxy in self._proxies.values():
            await proxy.close()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def __getitem__(self, name: str) -> NatsServer:
        return next(server for server in self.servers if server.name == name)

    def __iter__(self) -> Iterator[NatsServer]:
        return iter(self.servers)

    async def whole(self) -> None:
        """Wait until a leader is elected and every running server is up to date with it."""

        async def elected() -> bool:
            running = [server for server in self.servers if server.running]
            for server in running:
                with suppress(aiohttp.ClientError, TimeoutError):
                    meta = (await server.monitor("jsz", within=_LOOK_LIMIT)).get("meta_cluster", {})
                    peers = meta.get("replicas", ())
                    # A leader elected a moment ago may still take a server for gone that it has heard of.
                    current = [each for each in peers if each.get("current") and not each.get("offline")]
                    if meta.get("leader") == server.name and len(current) >= len(running) - 1:
                        return True
            return False

        await until(elected, START_LIMIT, "a leader that sees the whole cluster")

    async def leader_of(self, stream: str, *, other_than: NatsServer | None = None) -> NatsServer:
        """Wait until most of the servers that hold *stream* agree on its leader; the server that it is.

        After a server was isolated the others take it for the leader some more seconds: *other_than*.
        """
        leader: list[str] = []

        async def led() -> bool:
            views = await self._views(stream)
            for name, votes in Counter([view.get("leader") for view in views.values()]).items():
                if name not in self._routes or votes * 2 <= _replicas(views):
                    continue
                if self[name].running and self[name] is not other_than:
                    leader.append(name)
            return bool(leader)

        await until(led, START_LIMIT, f"a leader of {stream}")
        return self[leader[-1]]

    async def in_step(self, stream: str) -> None:
        """Wait until every replica of *stream* holds all of it."""

        async def current() -> bool:
            leader = await self.leader_of(stream)
            view = (await self._views(stream)).get(leader.name, {})
            others = view.get("replicas") or ()
            complete = len(others) + 1 == view.get("wanted")
            return complete and all(each.get("current") and not each.get("lag") for each in others)

        await until(current, START_LIMIT, f"all replicas of {stream} being current")

    async def _views(self, stream: str) -> dict[str, dict[str, Any]]:
        """What each server that holds *stream* and answers takes for the stream's replicas and leader."""
        found = {}
        for server in self.servers:
            with suppress(aiohttp.ClientError, TimeoutError):
                said = await server.monitor("jsz?accounts=true&streams=true&config=true", within=_LOOK_LIMIT)
                for account in said.get("account_details", ()):
                    for each in account.get("stream_detail", ()):
                        if each["name"] == stream:
                            replicas = each["config"]["num_replicas"]
                            found[server.name] = {**each.get("cluster", {}), "wanted": replicas}
        return found

    def isolate(self, server: NatsServer) -> None:
        """Cut *server* off from all others; who is connected to it stays so."""
        assert self._proxies, "made without partitions=True"
        for ends, proxy in self._proxies.items():
            if server.name in ends:
                proxy.cut()

    def heal(self) -> None:
        """Join again what was cut."""
        for proxy in self._proxies.values():
            proxy.heal()

    def _cluster(self, name: str) -> dict[str, object]:
        def port(other: str) -> int:
            return self._proxies[name, other].port if self._proxies else self._routes[other]

        section: dict[str, object] = {
            "name": "test",
            "host": "127.0.0.1",
            "port": self._routes[name],
            "routes": [f"nats://127.0.0.1:{port(other)}" for other in self._routes if other != name],
        }
        if self._proxies:
            # Servers tell each other where others listen; told the truth they would go past the proxies.
            section["advertise"] = "127.0.0.1:1"
        return section


def _replicas(views: Mapping[str, Mapping[str, Any]]) -> int:
    """How many replicas the stream has, or is about to get."""
    return max([view["wanted"] for view in views.values()], default=1)


def _die_with_us() -> None:
    """Have the kernel kill the server when the test run dies, however it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
