"""Who may use the admin API.

With a token, whoever shows it. Without one the listener is on loopback (the configuration sees to
that), and the danger is the operator's own browser: a foreign page may post to 127.0.0.1 or point
its own name there (DNS rebinding). So the Host must be a loopback name and the Origin our own.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import Final

from aiohttp import hdrs
from aiohttp.web import Request
from yarl import URL

from relay.admin.problems import Forbidden, Unauthorized

# Health says nothing beyond yes or no, and the console's page is the same for everyone: what it
# shows it has to fetch, with the token.
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/"})
_SAFE_METHODS: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})


class Guard:
    """Lets a request through or raises `Unauthorized` or `Forbidden`. *token* None: loopback only."""

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else f"Bearer {token}".encode()

    def admit(self, request: Request) -> None:
        if request.path in OPEN_PATHS and request.method in _SAFE_METHODS:
            return
        if self._expected is not None:
            given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, self._expected):
                raise Unauthorized
        elif not is_loopback(request.host):
            raise Forbidden(f"Without an admin token only loopback names are served, not {request.host!r}.")
        origin = request.headers.get(hdrs.ORIGIN)
        if request.method not in _SAFE_METHODS and origin not in (None, f"http://{request.host}"):
            raise Forbidden(f"A page from {origin!r} may not change anything here.")


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine to itself: `localhost`, 127.0.0.0/8 or ::1."""
    try:
        name = URL.build(scheme="http", authority=host).host or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
