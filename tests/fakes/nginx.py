"""nginx as a sink: TLS, a client certificate required, every body kept as a file.

Owns an nginx in the foreground, with a process group of its own, and all its files in one folder. What it is
sent it answers with 204 once it has the whole body on disk. Not written by us, so it is no part of what we
believe of HTTP.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import signal
import socket
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme

from tests.e2e.support import give_up
from tests.fakes.process import free_port, until

START_LIMIT = 30.0  # seconds

_CONFIGURATION = """\
daemon off;
{user}
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    client_max_body_size 16m;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        ssl_client_certificate {folder}/ca.pem;
        ssl_verify_client on;
        location / {{
            client_body_in_file_only on;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass http://127.0.0.1:{inner};
        }}
    }}
    server {{
        listen 127.0.0.1:{inner};
        return 204;
    }}
}}
"""


class Nginx:
    """One nginx; `kill` and `start` as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.authority = trustme.CA()
        self._folder = folder / "nginx"
        self._process: asyncio.subprocess.Process | None = None
        self._bodies = self._folder / "bodies"
        self._prepare()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/intake"

    def tls(self, *, by: trustme.CA | None = None) -> dict[str, Any]:
        """The `tls` section of a destination whose certificate this nginx, or *by*, has issued."""
        ours = (by or self.authority).issue_cert("relay.example.com")
        cert, key = self._folder / f"{id(ours)}.pem", self._folder / f"{id(ours)}.key"
        ours.cert_chain_pems[0].write_to_path(str(cert))
        ours.private_key_pem.write_to_path(str(key))
        return {"ca_file": str(self._folder / "ca.pem"), "cert": str(cert), "key": str(key)}

    # Life and death

    async def start(self) -> None:
        """Start it and wait until it listens."""
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            give_up("nginx is not installed (Debian package nginx-light)")
        self._process = await asyncio.create_subprocess_exec(
            program,
            *("-c", str(self._folder / "nginx.conf"), "-e", str(self._folder / "error.log")),
            start_new_session=True,
        )
        await until(self._listens, START_LIMIT, "nginx listening")

    def reload(self) -> None:
        """New workers, as `nginx -s reload`: the old ones end when their requests are answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    async def kill(self) -> None:
        """SIGKILL for the master and its workers, which would go on without it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._process = None

    def reloads(self) -> int:
        """How many reloads it is done with."""
        return (self._folder / "error.log").read_text().count("reconfiguring")

    # What it has

    def bodies(self) -> list[bytes]:
        """Every body of which it has all, as it was sent."""
        return [file.read_bytes() for file in sorted(self._bodies.iterdir()) if file.is_file()]

    def lines(self) -> list[bytes]:
        """The lines of every whole gzip body. One that breaks off was never answered."""
        found: list[bytes] = []
        for body in self.bodies():
            try:
                *lines, rest = gzip.decompress(body).split(b"\n")
            except (EOFError, zlib.error, gzip.BadGzipFile):
                continue
            assert rest == b""
            found += lines
        return found

    def _prepare(self) -> None:
        self._bodies.mkdir(parents=True)
        self.authority.cert_pem.write_to_path(str(self._folder / "ca.pem"))
        server = self.authority.issue_cert("localhost")
        server.private_key_and_cert_chain_pem.write_to_path(str(self._folder / "server.pem"))
        # As root it would give its workers to another user, who may not write here.
        user = "user root;" if os.geteuid() == 0 else ""
        text = _CONFIGURATION.format(folder=self._folder, port=self.port, inner=self.port + 1, user=user)
        (self._folder / "nginx.conf").write_text(text)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, (self._folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
