"""Talks to a running relay's admin API.

Owns the connection and the sentences for what goes wrong with it. Blocking on purpose: a command
asks one thing and waits for it, and starting without aiohttp is several times faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlencode, urlsplit

import orjson

from relay.cli.options import DEFAULT_CONFIG
from relay.errors import ConfigError, RelayError

# Everything the API does is quick but a probe (`destinations test`), which may take the destination's
# own time-out.
_TIMEOUT: Final = 120.0  # seconds
_BLOCK: Final = 1 << 18  # bytes of a stream read at once


class CommandFailed(RelayError):
    """The relay did not do what was asked."""


class AdminClient:
    """One connection to one relay."""

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError([f"--admin-url: {url!r} is no admin URL; it looks like http://127.0.0.1:8072"])
        self.url = url
        connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = connect(parts.hostname, port, timeout=timeout)
        self._base = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **query: object) -> Any:
        """The JSON answer to a GET; query parameters that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path, None)

    def post(self, path: str, body: object = None) -> Any:
        """The JSON answer to a POST."""
        return self._ask("POST", path, None if body is None else orjson.dumps(body))

    def stream(self, path: str, **query: object) -> Iterator[Any]:
        """The documents of a stream of JSON lines, as they come. The caller has to see that it is whole."""
        given = {name: value for name, value in query.items() if value is not None}
        with self._failing():
            self._connection.request("GET", f"{self._base}{path}?{urlencode(given)}", headers=self._headers)
            response = self._connection.getresponse()
            if response.status != 200:
                self._refused(response.status, response.read())
            rest = b""
            while block := response.read1(_BLOCK):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    if line:
                        yield orjson.loads(line)

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {**self._headers, "Content-Type": "application/json"} if body else self._headers
        with self._failing():
            self._connection.request(method, self._base + path, body, headers)
            response = self._connection.getresponse()
            status, content = response.status, response.read()
            return self._refused(status, content) if status >= 400 else orjson.loads(content)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """The sentences for a relay that does not answer, or for something that is none."""
        try:
            yield
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CommandFailed(f"No relay answers at {self.url} ({reason}). Is it running?") from error
        except orjson.JSONDecodeError as error:
            raise CommandFailed(f"What answers at {self.url} is not a relay's admin API.") from error

    def _refused(self, status: int, content: bytes) -> NoReturn:
        if status == 401:
            raise CommandFailed(f"The relay at {self.url} does not accept the admin token.")
        document = orjson.loads(content)
        raise CommandFailed(str(document.get("detail", f"The relay answered {status}.")))


@contextmanager
def reach(
    config: Path, admin_url: str | None, admin_token: str | None, *, timeout: float = _TIMEOUT
) -> Iterator[AdminClient]:
    """The relay at *admin_url*, or the one that *config* describes. An answer may take *timeout* seconds."""
    if admin_token and not admin_token.isascii():
        raise ConfigError(["--admin-token: holds characters that a header cannot"])
    client = AdminClient(admin_url, admin_token, timeout) if admin_url else _configured(config, timeout)
    try:
        yield client
    finally:
        client.close()


def _configured(path: Path, timeout: float) -> AdminClient:
    from relay.cli.configuration import load_config

    if path == DEFAULT_CONFIG and not path.exists():
        raise ConfigError([f"{path}: there is none here; give -c FILE, or --admin-url to reach the relay"])
    admin = load_config(path).config.admin
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(admin.host, admin.host)
    netloc = f"[{host}]" if ":" in host else host
    token = admin.token.reveal() if admin.token else None
    return AdminClient(f"http://{netloc}:{admin.port}", token, timeout)
