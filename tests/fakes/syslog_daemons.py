"""rsyslog and syslog-ng as child processes: servers that nobody here wrote, writing what they get to a file.

Owns their configurations and their lives. Talks to them only as an operator would: a configuration file,
signals, and the file they write.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.fakes.process import free_port, until
from tests.fakes.syslog import Framing

START_LIMIT = 30.0  # seconds until it must listen
_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of a server that asks its clients for theirs."""

    ca: Path
    cert: Path
    key: Path


class Daemon(ABC):
    """One server on loopback. Started by `async with`, killed at the end."""

    program: ClassVar[str]

    def __init__(self, folder: Path, framing: Framing, certificates: Certificates | None = None) -> None:
        self.port = free_port()
        self.output = folder / "received"
        self._folder = folder
        self._framing = framing
        self._certificates = certificates
        self._log = folder / "daemon.log"
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    def installed(cls) -> bool:
        return shutil.which(cls.program, path=_PATH) is not None

    @abstractmethod
    def _configuration(self) -> str: ...

    @abstractmethod
    def _arguments(self, configuration: Path) -> list[str]: ...

    async def __aenter__(self) -> Self:
        (self._folder / "conf").write_text(self._configuration())
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"--- {self._log}\n{self._log.read_text(errors='replace')[-4000:]}\n")
        await self.kill()

    async def start(self) -> None:
        """Start it and wait until it listens."""
        program = shutil.which(self.program, path=_PATH)
        assert program is not None
        (self._folder / "pid").unlink(missing_ok=True)  # a killed one leaves it behind
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                program, *self._arguments(self._folder / "conf"), stdout=log, stderr=log
            )
        await until(self._listens, START_LIMIT, f"{self.program} listening")

    async def kill(self) -> None:
        """SIGKILL, and wait for the end: what it had read and not written is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and wait for the end: it writes what it has."""
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(START_LIMIT):
            await self._process.wait()

    def freeze(self) -> None:
        """Leave its connections to the kernel, which goes on acknowledging."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def received(self) -> list[bytes]:
        """The messages it has written so far, as they came."""
        try:
            return self.output.read_bytes().splitlines()
        except FileNotFoundError:
            return []

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self._log.read_text()
        with socket.socket() as asking, suppress(OSError):
            asking.connect(("127.0.0.1", self.port))
            return True
        return False


class Rsyslog(Daemon):
    """rsyslogd with imtcp, which tells the framings apart by itself."""

    program = "rsyslogd"

    def _configuration(self) -> str:
        tls = input_tls = ""
        if self._certificates is not None:
            tls = (
                f'defaultNetstreamDriverCAFile="{self._certificates.ca}" '
                f'defaultNetstreamDriverCertFile="{self._certificates.cert}" '
                f'defaultNetstreamDriverKeyFile="{self._certificates.key}"'
            )
            input_tls = (
                'StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid"'
            )
        return f"""
global(workDirectory="{self._folder}" maxMessageSize="64k" {tls}
       parser.escapeControlCharactersOnReceive="off")
module(load="imtcp" {input_tls})
template(name="as_it_came" type="string" string="%rawmsg%\\n")
input(type="imtcp" address="127.0.0.1" port="{self.port}" ruleset="all")
ruleset(name="all") {{ action(type="omfile" file="{self.output}" template="as_it_came") }}
"""

    def _arguments(self, configuration: Path) -> list[str]:
        return ["-n", "-f", str(configuration), "-i", str(self._folder / "pid")]


class SyslogNg(Daemon):
    """syslog-ng: `syslog()` for counted frames, `network()` for lines."""

    program = "syslog-ng"

    def _configuration(self) -> str:
        driver = "syslog" if self._framing == "octet_counting" else "network"
        transport = 'transport("tcp")'
        if self._certificates is not None:
            transport = (
                f'transport("tls") tls(ca-file("{self._certificates.ca}") '
                f'cert-file("{self._certificates.cert}") key-file("{self._certificates.key}") '
                "peer-verify(required-trusted))"
            )
        return f"""
@version: 3.38
options {{ use-dns(no); dns-cache(no); log-msg-size(65536); stats-freq(0); }};
source all {{ {driver}(ip("127.0.0.1") port({self.port}) {transport} flags(no-parse)); }};
destination received {{ file("{self.output}" template("${{MSG}}\\n")); }};
log {{ source(all); destination(received); }};
"""

    def _arguments(self, configuration: Path) -> list[str]:
        own = {"-R": "persist", "-c": "control", "-p": "pid"}
        files = [part for flag, name in own.items() for part in (flag, str(self._folder / name))]
        return ["-F", "--no-caps", "-f", str(configuration), *files]
