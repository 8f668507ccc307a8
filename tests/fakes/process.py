"""The real relay as a child process, and what can be known about it from outside.

Owns starting, stopping, killing and asking; talks to the relay only through its contract: the
configuration file, the two listeners, signals, exit status and /proc. Never imports relay code.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

START_LIMIT = 40.0  # seconds until a started relay must be ready
STOP_LIMIT = 40.0  # seconds until a terminated relay must be gone
_FIRST_PORT, _LAST_PORT = 20_000, 32_000  # below what Linux numbers outgoing connections from, by default
_BLOCK = 400  # ports of one process
_POLL = 0.02  # seconds between two looks at another process, which cannot wake us

_SERIES = re.compile(r"^(\w+(?:\{.*\})?) (\S+)$", re.MULTILINE)
_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, and that no other process of a test run is given.

    Outside the range from which the system numbers outgoing connections: one of those could take the port
    between our looking and the listening, or while a server is being restarted. The one above is free as
    well: there goes the admin listener of `--role ingest`.
    """
    for port in islice(_our_ports, _BLOCK // 2):
        if _is_free(port) and _is_free(port + 1):
            return port
    raise AssertionError("every port of ours is in use")


def _ports_of_this_process() -> Iterator[int]:
    """Every other port of a block that this process has for itself, over and over again."""
    folder = Path(tempfile.gettempdir()) / "konnect-relay-test-ports"
    folder.mkdir(exist_ok=True)
    for block in range(_FIRST_PORT, _LAST_PORT, _BLOCK):
        lock = os.open(folder / str(block), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the process ends, however it ends
        except BlockingIOError:
            os.close(lock)
        else:
            yield from cycle(range(block, block + _BLOCK, 2))
    raise AssertionError("other test runs have all blocks of ports")


_our_ports = _ports_of_this_process()


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As servers do it: what is left of a connection of an earlier one is no hindrance.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return True
    return False


async def until(
    true: Callable[[], Awaitable[bool] | bool], within: float, what: str = "the condition"
) -> None:
    """Wait for something another process does; fails after *within* seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = true()
        if answer if isinstance(answer, bool) else await answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {within} s")
        await asyncio.sleep(_POLL)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel has on a process."""

    cpu: float  # user and system seconds since it started
    rss: int  # bytes, now
    peak_rss: int  # bytes


def usage(pid: int) -> Usage:
    """Read /proc. Raises `FileNotFoundError` when the process is gone."""
    proc = Path("/proc") / str(pid)
    # The command name may hold blanks; what follows its closing bracket does not.
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    status = dict(re.findall(r"^(\w+):\s+(\d+) kB$", (proc / "status").read_text(), re.MULTILINE))
    return Usage(
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        rss=int(status["VmRSS"]) * 1024,
        peak_rss=int(status["VmHWM"]) * 1024,
    )


class RelayProcess:
    """`python -m relay run`, from the outside.

    async with RelayProcess(config, tmp_path) as relay:
        await relay.post(body)
        await relay.kill()
        await relay.start()
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        *,
        role: str = "all",
        name: str = "relay",
        working_folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port: int = config["server"]["port"]
        # Two roles on one machine share a configuration; the intake's admin listener is one higher.
        self.admin_port: int = config["admin"]["port"] + (role == "ingest")
        self.log = folder / f"{name}.log"
        self._config = folder / f"{name}.yaml"
        self._role = role
        self._working_folder = working_folder
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None
        self.up = asyncio.Event()  # ready, and neither killed nor told to stop since
        self._session: aiohttp.ClientSession | None = None
        self.configure(config)

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
            sys.stderr.write(f"--- end of {self.log}\n{self.log_tail()}\n")
        await self.close()

    async def close(self) -> None:
        """Kill what still runs and let go of connections."""
        await self.kill()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration file; a running relay reads it on SIGHUP."""
        self._config.write_text(json.dumps(config, indent=2))  # JSON is YAML

    def configure_text(self, text: str) -> None:
        """Write the configuration file as it is, valid or not."""
        self._config.write_text(text)

    # Life and death

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, *, within: float = START_LIMIT) -> float:
        """Start it and wait until it is ready; how many seconds that took."""
        started = time.monotonic()
        await self.spawn()
        await self.ready(within=within)
        return time.monotonic() - started

    async def spawn(self) -> None:
        """Start it and do not wait."""
        assert not self.running
        command = [sys.executable, "-m", "relay", "run", "-c", str(self._config)]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                "--role",
                self._role,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._working_folder,
            )

    async def ready(self, *, within: float = START_LIMIT) -> None:
        """Wait until it can commit, or fail with the end of its log when it exits first."""

        async def is_ready() -> bool:
            assert self._process is not None
            if self._process.returncode is not None:
                raise AssertionError(f"the relay exited with {self.returncode}:\n{self.log_tail()}")
            try:
                status, _ = await self.get("/readyz")
            except aiohttp.ClientError:
                return False
            return status == 200

        await until(is_ready, within, "readiness")
        self.up.set()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.up.clear()
        if self.running:
            self.signal(signal.SIGKILL)
            await self.ended()

    async def stop(self, *, within: float = STOP_LIMIT) -> int:
        """SIGTERM, and wait for the end; the exit status."""
        self.up.clear()
        self.signal(signal.SIGTERM)
        return await self.ended(within=within)

    async def ended(self, *, within: float = STOP_LIMIT) -> int:
        """Wait until it has exited; the exit status, negative for a signal."""
        assert self._process is not None
        async with asyncio.timeout(within):
            return await self._process.wait()

    def log_tail(self, count: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def log_records(self) -> list[dict[str, Any]]:
        """Every JSON line of the log so far."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    # Asking it

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        return self._session

    async def post(self, body: bytes, source: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a body to a source's path; status and answer. Raises `aiohttp.ClientError` for neither."""
        url = f"http://127.0.0.1:{self.port}/audit-logs/{source}"
        async with self.session.post(url, data=body, headers=headers) as response:
            return response.status, await response.read()

    async def get(self, path: str) -> tuple[int, bytes]:
        """Ask the admin listener."""
        async with self.session.get(f"http://127.0.0.1:{self.admin_port}{path}") as response:
            return response.status, await response.read()

    async def metrics(self) -> dict[str, float]:
        """Every series of /metrics by its name with labels, as exposed."""
        status, text = await self.get("/metrics")
        assert status == 200, text
        return {name: float(value) for name, value in _SERIES.findall(text.decode())}

    async def status(self) -> dict[str, Any]:
        status, text = await self.get("/api/v1/status")
        assert status == 200, text
        parsed: dict[str, Any] = json.loads(text)
        return parsed

    async def becomes(self, destination: str, state: str, *, within: float = 40.0) -> None:
        """Wait until a destination is in a state such as `held`."""

        async def is_it() -> bool:
            of = {each["name"]: each["state"] for each in (await self.status())["destinations"]}
            return bool(of[destination] == state)

        await until(is_it, within, f"{destination} {state}")

    def usage(self) -> Usage:
        return usage(self.pid)

    async def command(self, *arguments: str, within: float = 60.0) -> tuple[int, str, str]:
        """Run `python -m relay …` with this relay's configuration; exit status, output, errors."""
        command = [sys.executable, "-m", "relay", *arguments, "-c", str(self._config)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=self._environment
        )
        async with asyncio.timeout(within):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()
