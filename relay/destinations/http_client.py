"""One destination's HTTP connections, and the border where other people's exceptions end.

Owns the connection pool, TLS, the time-out and the reading of a bounded answer. Never retries,
follows no redirect, keeps no cookie, and never says more about a failure than a secret-free
sentence: aiohttp's own messages hold the URL, and a URL may be a credential.
"""

from __future__ import annotations

import asyncio
import io
import os
import ssl
from collections import deque
from collections.abc import Iterable, Mapping

import aiohttp
from yarl import URL

from relay import __version__, gzipped
from relay.destinations.base import Misconfigured, Transient
from relay.destinations.certificates import certificate_refusal
from relay.destinations.classify import Reply
from relay.destinations.http_config import HttpConfigBase, credential_parts, secrets_in
from relay.model import Response
from relay.resolving import ThreadResolver
from relay.tls import client_context

BODY_LIMIT = 16 * 1024  # bytes read of an answer; every vendor's verdict fits many times over

_INLINE_GZIP = 256 * 1024  # bytes; about half a millisecond of the event loop
_BARE_BYTES = 1024 * 1024  # aiohttp wants anything larger as a file, written piece by piece

_SHORTEST_SECRET = 4  # blotting out anything shorter would only make answers unreadable
_PASSING_SECRETS = (
    8  # the last ones: an answer may repeat the token before the present one, hardly older ones
)


async def zipped(body: bytes) -> bytes:
    """*body* gzip'd, off the event loop when large (the compressor lets go of the interpreter lock)."""
    if len(body) <= _INLINE_GZIP:
        return gzipped.compress(body)
    return await asyncio.to_thread(gzipped.compress, body)


class HttpClient:
    """The connections of one destination; shared with nothing."""

    def __init__(
        self,
        config: HttpConfigBase,
        *,
        headers: Mapping[str, str],
        secrets: Iterable[str] = (),
        url: URL | None = None,
    ) -> None:
        """*headers* go with every request; *url* stands in for the configured address, e.g. a token endpoint.

        They, the URL and *secrets* are blotted out of what the other side answers. The configured
        `timeout` bounds a request from waiting for a connection to the last byte read.
        """
        address = url or config.address()
        self._timeout = config.timeout
        self._connections = config.max_in_flight
        self._tls = config.tls if address.scheme == "https" else None
        self._headers = {
            "User-Agent": f"konnect-relay/{__version__}",
            "Accept-Encoding": "identity",  # an answer is read by its first bytes
            **headers,
        }
        self._secrets = _longest_first(secrets_in(address, headers).union(secrets))
        self._passing: deque[str] = deque(maxlen=_PASSING_SECRETS)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Read the certificates and make the pool. Raises `ConfigError` when a file is unusable."""
        # Without TLS there is no use for the system's authorities, which take 20 ms to load.
        context = True if self._tls is None else await asyncio.to_thread(client_context, self._tls)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=context, resolver=ThreadResolver()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout, ceil_threshold=self._timeout),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def keep_secret(self, value: str) -> None:
        """Blot out a header's *value* too, one that was not known in the beginning, e.g. a token."""
        if value not in self._passing:
            self._passing.append(value)

    async def request(
        self,
        method: str,
        url: URL,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        max_answer: int = BODY_LIMIT,
    ) -> Reply | Transient | Misconfigured:
        """Send one request and return what was answered, or why nothing usable was.

        Of the answer *max_answer* bytes are read.
        """
        if self._session is None:
            raise RuntimeError("request before open")
        data = body if len(body) <= _BARE_BYTES else io.BytesIO(body)
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                answer = await _beginning(response, max_answer)
                given = response.headers
                return Reply(response.status, given.get("Retry-After"), self._blot(answer), given.get("Date"))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return _no_answer(error, self._timeout)
        except ValueError:  # e.g. a host name that cannot be encoded; its text might hold the address
            return Misconfigured(Response("the address cannot be used: it is not a valid URL"))

    def _blot(self, text: bytes) -> bytes:
        for secret in (*_longest_first(set().union(*map(credential_parts, self._passing))), *self._secrets):
            text = text.replace(secret, b"<secret>")
        return text


def _longest_first(secrets: set[str]) -> list[bytes]:
    """`Bearer x` before the `x` inside it."""
    found = [text.encode() for text in secrets if len(text) >= _SHORTEST_SECRET]
    return sorted(found, key=len, reverse=True)


async def _beginning(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The first *limit* bytes of the body; a longer one costs the connection, not memory.

    A refusal stands even when its body breaks off (servers that answer 413 while the request is
    still being written often reset). A success that breaks off does not: its body may say otherwise.
    """
    body = bytearray()
    try:
        while (room := limit - len(body)) and (part := await response.content.read(room)):
            body += part
    except (aiohttp.ClientError, OSError):
        if response.status < 400:
            raise
    return bytes(body)


def _no_answer(error: BaseException, timeout: float) -> Transient | Misconfigured:
    """The border: every way a request can fail without an answer, in our own words."""
    refusal = certificate_refusal(error)
    if refusal is not None:
        return Misconfigured(Response(refusal))
    match error:
        case TimeoutError():
            sentence = f"no complete answer within {timeout:g} s"
        case aiohttp.ClientConnectorDNSError():
            sentence = f"the name {error.host} cannot be resolved"
        case aiohttp.ClientConnectorSSLError():
            sentence = "the TLS handshake failed"
        case aiohttp.ClientConnectorError():
            sentence = f"cannot connect: {_system_words(error)}"
        case aiohttp.ClientPayloadError():
            sentence = "the answer broke off"
        case aiohttp.ServerDisconnectedError():
            sentence = "the connection was closed before an answer came"
        case aiohttp.ClientResponseError():
            sentence = "the answer is not HTTP"
        case OSError() if isinstance(error.__cause__, ssl.SSLError):
            sentence = "the TLS connection broke"
        case OSError():
            sentence = f"the connection broke: {_system_words(error)}"
        case _:
            sentence = f"the request failed ({type(error).__name__})"
    return Transient(Response(sentence))


def _system_words(error: OSError) -> str:
    """The operating system's phrase for the error number, which cannot hold a URL."""
    return os.strerror(error.errno) if error.errno else "closed by the other side"
