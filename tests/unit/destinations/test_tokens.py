"""Tokens: when one is fetched, when it is kept, and what becomes of an endpoint that gives none."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import pytest
from yarl import URL

from relay.destinations.base import Misconfigured, Throttled, Transient
from relay.destinations.posting import NoReply
from relay.destinations.sentinel import SentinelConfig
from relay.destinations.tokens import Grant, TokenSource
from tests.contract.destinations.kit import token_answer
from tests.fakes.clock import FakeClock
from tests.fakes.siem import TIME_LIMIT, Answer, Received, Siem

SECRET = "s3cret/with+odd characters"
CONFIG = {
    "name": "siem",
    "type": "sentinel",
    "url": "https://dce.example.com",
    "dcr": "dcr-0",
    "stream": "Custom-Konnect",
    "tenant_id": "acme",
    "client_id": "relay",
    "client_secret": SECRET,
}


@dataclass
class Rig:
    """A token source and the endpoint it asks."""

    endpoint: Siem
    source: TokenSource
    clock: FakeClock = field(default_factory=FakeClock)

    async def token(self) -> str:
        """The token it offers, which has to be one."""
        headers = await self.source.headers()
        assert isinstance(headers, Mapping)
        return str(headers["Authorization"])

    async def failure(self) -> NoReply:
        """Why it has none."""
        outcome = await self.source.headers()
        assert not isinstance(outcome, Mapping)
        return outcome


@asynccontextmanager
async def rigged(*, timeout: float = 5.0, hints: Mapping[str, str] | None = None) -> AsyncIterator[Rig]:
    """A source whose endpoint numbers its tokens from 1."""
    config = SentinelConfig.model_validate({**CONFIG, "timeout": timeout})
    form = {"grant_type": "client_credentials", "client_secret": SECRET}
    async with Siem(path="/tenant/token") as endpoint:
        endpoint.then(lambda _: Answer(200, token_answer(f"token-{len(endpoint.requests)}").encode()))
        grant = Grant(URL(endpoint.url), lambda _: form, frozenset({"client_secret"}), hints or {})
        clock = FakeClock()
        source = TokenSource(config, grant, clock=clock)
        await source.open()
        try:
            yield Rig(endpoint, source, clock)
        finally:
            await source.close()


async def test_kept_until_five_minutes_before_its_end() -> None:
    """A token serves until shortly before it expires, by elapsed time whatever the wall clock says."""
    async with rigged() as rig:
        tokens = [await rig.token()]
        await rig.clock.advance(3299.9)
        rig.clock.jump(-86400)
        tokens.append(await rig.token())
        await rig.clock.advance(0.1)
        tokens.append(await rig.token())

    assert tokens == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize(
    ("lifetime", "kept"), [(3599, 3299), ("3599", 3299), (60, 30), (None, 300), ("soon", 300), (-1, 300)]
)
async def test_lifetimes(lifetime: object, kept: float) -> None:
    """A short-lived token serves for half its life, one that does not tell for five minutes."""
    async with rigged() as rig:
        rig.endpoint.answer(200, body=token_answer("first", lifetime))
        await rig.token()
        await rig.clock.advance(kept - 0.5)
        before = await rig.token()
        await rig.clock.advance(0.5)
        after = await rig.token()

    assert (before, after) == ("Bearer first", "Bearer token-2")


async def test_one_fetch_for_all() -> None:
    """However many sends ask at once, the endpoint is asked once."""
    release = asyncio.Event()
    async with rigged() as rig:
        rig.endpoint.answer(200, body=token_answer("shared"), after=release)
        async with asyncio.TaskGroup() as tasks:
            sends = [tasks.create_task(rig.token()) for _ in range(10)]
            await rig.endpoint.received(1)
            release.set()

        assert {send.result() for send in sends} == {"Bearer shared"}
        assert len(rig.endpoint.requests) == 1


async def test_one_cancelled_waiter() -> None:
    """A send that is cancelled while it waits for the token takes it from nobody else."""
    release = asyncio.Event()
    async with rigged() as rig:
        rig.endpoint.answer(200, body=token_answer("shared"), after=release)
        async with asyncio.TaskGroup() as tasks:
            first, second = tasks.create_task(rig.token()), tasks.create_task(rig.token())
            await rig.endpoint.received(1)
            first.cancel()
            release.set()

        assert first.cancelled()
        assert second.result() == "Bearer shared"
        assert await rig.token() == "Bearer shared"
        assert len(rig.endpoint.requests) == 1


async def test_closed_while_fetching() -> None:
    """Closing ends a fetch that hangs, and its connection."""
    async with rigged(timeout=60.0) as rig:
        rig.endpoint.hang()
        async with asyncio.TaskGroup() as tasks:
            send = tasks.create_task(rig.token())
            await rig.endpoint.received(1)
            send.cancel()
        async with asyncio.timeout(TIME_LIMIT):
            await rig.source.close()

        await rig.endpoint.disconnected()


async def test_refused() -> None:
    """A refused token is dropped once: word of the old one does not cost the new one."""
    async with rigged() as rig:
        old = await rig.source.headers()
        assert isinstance(old, Mapping)
        rig.source.refused(old)
        new = await rig.token()
        rig.source.refused(old)

        assert (new, await rig.token()) == ("Bearer token-2", "Bearer token-2")
        assert len(rig.endpoint.requests) == 2


async def test_request() -> None:
    """The form is posted as RFC 6749 wants it, odd characters and all."""
    async with rigged() as rig:
        await rig.token()
    (request,) = rig.endpoint.requests

    assert request.method == "POST"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["client_credentials"],
        "client_secret": [SECRET],
    }


async def test_long_token() -> None:
    """A token of many claims is read whole."""
    async with rigged() as rig:
        rig.endpoint.answer(200, body=token_answer("x" * 100_000))

        assert await rig.token() == "Bearer " + "x" * 100_000


@pytest.mark.parametrize(
    ("status", "body", "kind", "detail"),
    [
        (400, '{"error":"invalid_client"}', Misconfigured, "it refuses the client id or the secret"),
        (401, '{"error":"invalid_client"}', Misconfigured, "it refuses the client id or the secret"),
        (400, '{"error":"invalid_grant"}', Misconfigured, "the key, or this machine's clock is wrong"),
        (400, '{"error":"unauthorized_client"}', Misconfigured, "this client may not have a token"),
        (400, '{"error":"invalid_client","x":"E123"}', Misconfigured, "the secret has expired"),
        (400, "gibberish", Misconfigured, "answered 400 Bad Request"),
        (413, "", Misconfigured, "answered 413"),
        (401, "", Misconfigured, "it refuses our credentials"),
        (403, "[]", Misconfigured, "it refuses our credentials"),
        (404, "", Misconfigured, "there is no token endpoint at this address"),
        (302, "", Misconfigured, "a redirect, which is never followed"),
        (400, '{"error":"temporarily_unavailable"}', Transient, "answered 400 Bad Request"),
        (408, "", Transient, "answered 408"),
        (500, "", Transient, "answered 500"),
        (503, '{"error":"invalid_client"}', Transient, "answered 503"),
        (429, "", Throttled, "answered 429"),
    ],
)
async def test_refusals(status: int, body: str, kind: type[NoReply], detail: str) -> None:
    """A refusal says what is wrong in plain words, is never blamed on events, and is forgotten at once."""
    async with rigged(hints={"E123": "the secret has expired"}) as rig:
        rig.endpoint.answer(status, body=body, headers={"Retry-After": "7"})
        outcome = await rig.failure()
        again = await rig.token()

    assert type(outcome) is kind
    assert outcome.response.status == status
    assert outcome.response.detail.startswith("no access token: ")
    assert detail in outcome.response.detail
    assert outcome.response.excerpt == body.encode()
    if not isinstance(outcome, Misconfigured):
        assert outcome.retry_after == 7.0
    assert again == "Bearer token-2"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>Log in</html>",
        "[]",
        '{"accessToken":"t0ken-0123"}',
        '{"access_token":["t0ken-0123"]}',
        '{"access_token":""}',
        '{"access_token":"t0ken-0123\\r\\nX-Evil: 1"}',
        '{"access_token":"t0ken-0123',
    ],
)
async def test_nonsense(body: str) -> None:
    """A success without a usable token is no token endpoint's, and nothing of it is kept."""
    async with rigged() as rig:
        rig.endpoint.answer(200, body=body)
        outcome = await rig.failure()

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail == (
        "no access token: answered 200 OK: but this is not how a token endpoint answers"
    )
    assert outcome.response.excerpt == b""


async def test_another_success() -> None:
    """A token behind a 201 is not trusted and not shown."""
    async with rigged() as rig:
        rig.endpoint.answer(201, body=token_answer("t0ken-0123"))
        outcome = await rig.failure()

    assert isinstance(outcome, Misconfigured)
    assert "t0ken-0123" not in repr(outcome)


async def test_hang() -> None:
    """An endpoint that never answers costs the destination's time-out; all who wait hear of it."""
    async with rigged(timeout=2) as rig:
        rig.endpoint.hang()
        outcomes = await asyncio.gather(rig.failure(), rig.failure())

        assert [type(outcome) for outcome in outcomes] == [Transient, Transient]
        assert outcomes[0].response.detail == "no access token: no complete answer within 2 s"
        assert len(rig.endpoint.requests) == 1
        assert await rig.token() == "Bearer token-2"


@pytest.mark.parametrize("cut_after", [0, 5])
async def test_reset(cut_after: int) -> None:
    """An answer that breaks off holds no token."""
    async with rigged() as rig:
        rig.endpoint.reset(cut_after=cut_after)

        assert isinstance(await rig.failure(), Transient)


async def test_nobody_listens() -> None:
    """A refused connection may be better later."""
    async with rigged() as rig:
        await rig.endpoint.close()
        outcome = await rig.failure()

    assert isinstance(outcome, Transient)
    assert outcome.response.status is None
    assert outcome.response.detail == "no access token: cannot connect: Connection refused"


def _echo(request: Received) -> Answer:
    """A careless error page: the body as it came, and what was read from it."""
    said = {"error": "invalid_client", "sent": request.body.decode(), "read": parse_qs(request.body.decode())}
    return Answer(400, json.dumps(said).encode())


async def test_secrets_are_blotted_out(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the secret nor its form on the wire comes back in an outcome, a repr or a log line."""
    caplog.set_level(logging.DEBUG)
    async with rigged() as rig:
        rig.endpoint.act(_echo)
        outcome = await rig.failure()
        token = await rig.token()
        shown = f"{outcome!r} {rig.source!r} {vars(rig.source)!r} {caplog.text}"

    assert outcome.response.excerpt
    for secret in (SECRET, "s3cret%2Fwith%2Bodd+characters", token, token.removeprefix("Bearer ")):
        assert secret not in shown
