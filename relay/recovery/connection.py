"""One host of Konnect's control API: a request in, a JSON document or a typed error out.

Owns the border between HTTP and the rest: the token, time-outs (each call is bounded), the reading of errors.
Never retries, follows no redirect (the token would leak), and tells no secret. Only aiohttp itself sends a
GET, PUT or DELETE a second time when the connection breaks under it: a job that answers 409 may be our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import orjson
from yarl import URL

from relay.clock import Clock
from relay.config.secret import Secret
from relay.destinations.base import Misconfigured, Transient
from relay.destinations.classify import Reply, retry_after
from relay.destinations.http_client import HttpClient
from relay.destinations.http_config import UrlConfig
from relay.recovery.errors import (
    KonnectConflict,
    KonnectError,
    KonnectForbidden,
    KonnectNotFound,
    KonnectRefused,
    KonnectThrottled,
    KonnectUnauthorised,
    KonnectUnavailable,
    KonnectUnreachable,
)

_MAX_ANSWER: Final = 32 * 1024 * 1024  # bytes; a thousand pulled entries take about one
_MAX_DETAIL: Final = 300  # characters of Konnect's own words
_LATER: Final = frozenset({408, 425})

_HINTS: Final[Mapping[int, str]] = {
    401: "make a new personal or system account access token",
    403: "the token's account needs the role Audit Logs / Admin",
}


class Connection:
    """The connections to one host."""

    def __init__(self, base: str, token: Secret, *, clock: Clock, timeout: float) -> None:
        """*base* is scheme, host and, for tests, a path; *timeout* bounds each call, in seconds."""
        config = UrlConfig.model_validate(
            {"name": "konnect", "type": "konnect", "url": base, "timeout": timeout, "max_in_flight": 4}
        )
        self._base = base.rstrip("/")
        self._host = config.url.host
        headers = {"Authorization": f"Bearer {token.reveal()}", "Accept": "application/json"}
        self._client = HttpClient(config, headers=headers)
        self._clock = clock
        self.skew: float | None = None  # seconds Konnect's clock is ahead of ours, by its last answer

    async def open(self) -> None:
        await self._client.open()

    async def close(self) -> None:
        await self._client.close()

    def keep_secret(self, secret: Secret) -> None:
        """Never let it come back in an error of Konnect's."""
        self._client.keep_secret(secret.reveal())

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Mapping[str, object]:
        """The object that is answered; an empty one where there is no body. Raises `KonnectError`."""
        url = URL(self._base + path, encoded=True).with_query(query)
        headers = None if body is None else {"Content-Type": "application/json"}
        content = b"" if body is None else orjson.dumps(body)
        reply = await self._client.request(method, url, content, headers, max_answer=_MAX_ANSWER)
        what = f"{method} {path} at {self._host}"
        if isinstance(reply, Transient | Misconfigured):
            raise KonnectUnreachable(f"Konnect cannot be reached ({what}): {reply.response.detail}.")
        self._compare_clocks(reply.date)
        if not 200 <= reply.status < 300:
            raise _failure(reply, what, self._clock.now())
        return _document(reply, what)

    def _compare_clocks(self, date: str | None) -> None:
        try:
            self.skew = parsedate_to_datetime(date or "").timestamp() - self._clock.now()
        except (ValueError, OverflowError):
            self.skew = None


def _document(reply: Reply, what: str) -> Mapping[str, object]:
    if not reply.body.strip():
        return {}
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise unreadable(what, reply.status)
    return document


def unreadable(what: str, status: int | None = None) -> KonnectUnavailable:
    """For an answer that is not as published."""
    return KonnectUnavailable(f"What answered is not Konnect's API as published ({what}).", status=status)


def _failure(reply: Reply, what: str, now: float) -> KonnectError:
    """The typed error of an answer that is no 2xx."""
    status = reply.status
    text = f"Konnect answered {status} {_phrase(status)} ({what}){_detail(reply.body)}"
    if hint := _HINTS.get(status):
        text += f"; {hint}"
    text += "."
    wait = retry_after(reply.retry_after, now)
    if status == 429:
        return KonnectThrottled(text, status=status, retry_after=wait)
    if status >= 500 or status in _LATER:
        return KonnectUnavailable(text, status=status, retry_after=wait)
    return _REFUSALS.get(status, KonnectRefused)(text, status=status)


_REFUSALS: Final[Mapping[int, Callable[..., KonnectError]]] = {
    401: KonnectUnauthorised,
    403: KonnectForbidden,
    404: KonnectNotFound,
    409: KonnectConflict,
}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _detail(body: bytes) -> str:
    """Konnect's own words from problem+json, in one line."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(document, dict):
        return ""
    words = [document.get("detail") or document.get("title")]
    parameters = document.get("invalid_parameters")
    if isinstance(parameters, list):
        words += [f"{it.get('field')}: {it.get('reason')}" for it in parameters if isinstance(it, dict)]
    text = "; ".join(word for word in words if isinstance(word, str))
    text = " ".join("".join(char for char in text if char.isprintable() or char.isspace()).split())
    return f": {text[:_MAX_DETAIL].rstrip('.')}" if text else ""
