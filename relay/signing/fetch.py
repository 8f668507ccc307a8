"""Getting a key set from its URL, and the border where aiohttp's exceptions end.

Owns one request: bounded in time and size, no redirect, no cookie. Never retries and never says more about a
failure than a sentence without the URL, which somebody may have put a credential into.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
from yarl import URL

from relay import __version__
from relay.config.secret import Secret, SecretUrl
from relay.errors import KeysUnusable
from relay.resolving import ThreadResolver

TIMEOUT: Final = 10.0  # seconds, from connecting to the last byte
_MOST_BYTES: Final = 256 * 1024
_HEADERS: Final = {"User-Agent": f"konnect-relay/{__version__}", "Accept": "application/json"}
_REFUSED: Final = (401, 403)
_KONNECT: Final = ".api.konghq.com"


async def fetch(url: str, *, token: Secret | None = None, timeout: float = TIMEOUT) -> bytes:
    """The document at *url*. Raises `KeysUnusable` with one sentence.

    Kong's documentation asks for no credentials there (docs/signatures.md). Where it is refused all
    the same, it is asked for once more with *token*, which must therefore belong to that host.
    """
    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=ThreadResolver()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=timeout, ceil_threshold=timeout),
            trust_env=False,
        ) as session:
            status, body = await _get(session, url, {})
            if status in _REFUSED and token is not None:
                status, body = await _get(session, url, {"Authorization": f"Bearer {token.reveal()}"})
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        raise KeysUnusable(_sentence(error, timeout)) from None
    except ValueError:  # e.g. a host name that cannot be encoded
        raise KeysUnusable("the address cannot be used: it is not a valid URL") from None
    if status != 200:
        raise KeysUnusable(f"answered {status}{' without credentials' if status in _REFUSED else ''}")
    if len(body) > _MOST_BYTES:
        raise KeysUnusable(f"answered with more than {_MOST_BYTES} bytes")
    return body


def with_token(token: Secret | None, konnect: SecretUrl | None) -> Callable[[str], Awaitable[bytes]]:
    """`fetch`, which shows *token* to Konnect alone: its own hosts, and the one configured for its API."""

    async def fetch_with_token(url: str) -> bytes:
        target = SecretUrl.parse(url)
        ours = target.scheme == "https" and target.host.endswith(_KONNECT)
        configured = konnect is not None and (target.scheme, target.host) == (konnect.scheme, konnect.host)
        return await fetch(url, token=token if ours or configured else None)

    return fetch_with_token


async def _get(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    async with session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response:
        body = bytearray()
        while len(body) <= _MOST_BYTES and (part := await response.content.read(_MOST_BYTES)):
            body += part
        return response.status, bytes(body)


def _sentence(error: BaseException, timeout: float) -> str:
    match error:
        case TimeoutError():
            return f"no complete answer within {timeout:g} s"
        case aiohttp.ClientConnectorDNSError():
            return "its name cannot be resolved"
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "its certificate is not trusted"
        case aiohttp.ClientConnectorSSLError():
            return "the TLS handshake failed"
        case aiohttp.ClientConnectorError() if error.errno:
            return f"cannot connect: {os.strerror(error.errno)}"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before an answer came"
        case aiohttp.ClientResponseError():
            return "the answer is not HTTP"
        case _:
            return f"the request failed ({type(error).__name__})"
