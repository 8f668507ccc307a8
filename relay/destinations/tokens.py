"""Access tokens of OAuth 2: fetched once for all sends, kept until shortly before they expire.

Owns the token, its age and the reading of what a token endpoint answers; implements the `Credentials` of
`relay.destinations.posting`. What a token is asked for with is the vendor's, told by a `Grant`. Never
retries, never keeps a failure, and never lets a secret, an assertion or a token into an outcome.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import quote_plus, urlencode

import orjson
from yarl import URL

from relay.clock import Clock
from relay.destinations.base import Misconfigured, Throttled, Transient
from relay.destinations.classify import Reply, classify, respond, retry_after
from relay.destinations.http_client import HttpClient
from relay.destinations.http_config import HttpConfigBase
from relay.destinations.posting import NoReply
from relay.model import Response

_EARLY = 300.0  # seconds before its end that a token is renewed, so that none expires on its way
_LIFETIME = 600.0  # seconds, where the answer does not tell (RFC 6749 section 5.1 only recommends it)
_MAX_ANSWER = 1024 * 1024  # bytes; a token is read whole, and those with many claims are long
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1
_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}

# RFC 6749 section 5.2, in words for the one who wrote the configuration.
_ERRORS = {
    "invalid_client": "it refuses the client id or the secret",
    "invalid_grant": "it refuses the key, or this machine's clock is wrong",
    "invalid_request": "it does not understand the request: is the tenant or the address right?",
    "invalid_scope": "it does not know the scope: is this the right cloud?",
    "unauthorized_client": "this client may not have a token",
    "unsupported_grant_type": "it gives no tokens for this kind of credentials",
}
_ADDRESSES = dict.fromkeys((404, 405, 410), "there is no token endpoint at this address")
_LATER = frozenset({"temporarily_unavailable", "server_error"})


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is asked for with."""

    url: URL
    form: Callable[[float], Mapping[str, str]]  # what is posted at this time, seconds since the epoch
    secret_fields: frozenset[str]  # of the form
    hints: Mapping[str, str] = field(default_factory=dict)  # a vendor's error codes, in plain words


@dataclass(frozen=True, slots=True, repr=False)
class _Token:
    header: str
    renew_at: float  # by the monotonic clock

    @classmethod
    def read(cls, body: bytes, asked_at: float) -> Self | None:
        """None where *body* is not how a token endpoint answers."""
        said = _object(body)
        token = said.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return None
        lifetime = _seconds(said.get("expires_in"))
        # A token that lives for a few minutes only is renewed after half of them.
        return cls(f"Bearer {token}", asked_at + max(lifetime - _EARLY, lifetime / 2))


class TokenSource:
    """The tokens of one destination."""

    def __init__(self, config: HttpConfigBase, grant: Grant, *, clock: Clock) -> None:
        self._name = config.name
        self._grant = grant
        self._clock = clock
        self._client = HttpClient(config, headers={}, url=grant.url)
        self._token: _Token | None = None
        self._fetch: asyncio.Task[_Token | NoReply] | None = None

    def __repr__(self) -> str:
        return f"<TokenSource {self._name}>"

    async def open(self) -> None:
        await self._client.open()

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait([self._fetch])
        await self._client.close()

    async def headers(self) -> Mapping[str, str] | NoReply:
        """The `Authorization` header. However many sends ask at once, one request is made for them all."""
        if self._token is not None and self._clock.monotonic() < self._token.renew_at:
            return {"Authorization": self._token.header}
        if self._fetch is None or self._fetch.done():
            # No send owns the task: one that is cancelled must not take the token from the others.
            # It is bounded by the time-out of its request and awaited in `close`.
            self._fetch = asyncio.create_task(self._ask())  # noqa: TID251  # as just said
        answer = await asyncio.shield(self._fetch)
        return {"Authorization": answer.header} if isinstance(answer, _Token) else answer

    def refused(self, headers: Mapping[str, str]) -> None:
        if self._token is not None and self._token.header == headers.get("Authorization"):
            self._token = None

    async def _ask(self) -> _Token | NoReply:
        """One request. Only a token is kept; a failure is told to those who wait and forgotten."""
        asked_at = self._clock.monotonic()
        form = self._grant.form(self._clock.now())
        for name in self._grant.secret_fields:
            # An error page may show the body that was sent, or what it read from it.
            self._client.keep_secret(form[name])
            self._client.keep_secret(quote_plus(form[name]))
        body = urlencode(form).encode()
        reply = await self._client.request("POST", self._grant.url, body, _FORM, max_answer=_MAX_ANSWER)
        self._token = None
        if not isinstance(reply, Reply):
            return _failed(reply)
        if reply.status == 200:
            self._token = _Token.read(reply.body, asked_at)
        return self._token or _failed(_judge(reply, self._clock.now(), self._grant.hints))


def _judge(reply: Reply, now: float, hints: Mapping[str, str]) -> NoReply:
    """What an answer without a token means. No event is ever to blame for it."""
    if reply.status < 300:
        # Nothing of such an answer is kept: there may be a token in it all the same.
        remark = "but this is not how a token endpoint answers"
        return Misconfigured(respond(replace(reply, body=b""), remark))
    outcome = classify(reply, now=now, success=())
    if isinstance(outcome, Throttled | Transient):
        return outcome
    error = str(_object(reply.body).get("error"))
    if error in _LATER:
        return Transient(respond(reply), retry_after(reply.retry_after, now))
    text = reply.body.decode(errors="replace")
    hint = next((words for code, words in hints.items() if code in text), None)
    words = hint or _ERRORS.get(error) or _ADDRESSES.get(reply.status)
    if words is not None:
        return Misconfigured(respond(reply, words))
    return outcome if isinstance(outcome, Misconfigured) else Misconfigured(respond(reply))


def _failed(outcome: NoReply) -> NoReply:
    """*outcome* in words that cannot be taken for what the destination itself answered."""
    said: Response = outcome.response
    return replace(outcome, response=replace(said, detail=f"no access token: {said.detail}"))


def _object(body: bytes) -> Mapping[str, object]:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _seconds(lifetime: object) -> float:
    """`expires_in`: a number; Microsoft's first endpoints wrote it as a string."""
    try:
        seconds = float(lifetime) if isinstance(lifetime, int | float | str) else _LIFETIME
    except ValueError:
        return _LIFETIME
    return seconds if 0 < seconds < float("inf") else _LIFETIME
