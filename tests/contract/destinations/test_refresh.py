"""Destinations with tokens: what a send does when the token, or the endpoint that gives it, is no good."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Mapping

import pytest
import trustme

from relay.destinations.base import Delivered, Misconfigured, Throttled, Transient
from tests.contract.destinations.kit import KINDS, NOW, Kind, opened, token_answer
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.clock import FakeClock
from tests.fakes.siem import Answer, Siem

CHUNK = chunk_of(sample("cef")[:3], sample("json")[:2])

every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.label) for kind in KINDS if kind.has_tokens]
)


def endpoint(siem: Siem) -> Siem:
    """*siem* as a token endpoint that numbers its tokens from 1."""
    return siem.then(lambda _: Answer(200, token_answer(f"token-{len(siem.requests)}").encode()))


def offered(siem: Siem) -> list[str]:
    """The tokens of every request that came."""
    return [request.headers["Authorization"] for request in siem.requests]


def settings(tokens: Siem, **more: object) -> Mapping[str, object]:
    return {"token_url": tokens.url, **more}


@every_kind
async def test_token_expired_early(kind: Kind) -> None:
    """A 401 costs the token; the same events go out once more with a fresh one."""
    async with Siem() as siem, endpoint(Siem()) as tokens:
        siem.answer(401).then(kind.take)
        async with opened(kind.config(siem, **settings(tokens))) as destination:
            outcomes = [await destination.send(CHUNK) for _ in range(2)]

    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered]
    assert offered(siem) == ["Bearer token-1", "Bearer token-2", "Bearer token-2"]
    assert siem.requests[0].raw == siem.requests[1].raw


@every_kind
async def test_refused_again(kind: Kind) -> None:
    """A fresh token that is refused too is a fault of the configuration; there is no third request."""
    async with Siem() as siem, endpoint(Siem()) as tokens:
        siem.then(401)
        async with opened(kind.config(siem, **settings(tokens))) as destination:
            outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert "it refuses a fresh token" in outcome.response.detail
    assert offered(siem) == ["Bearer token-1", "Bearer token-2"]


@every_kind
async def test_all_are_refused_at_once(kind: Kind) -> None:
    """Several sends whose common token is refused share the new one."""
    release = asyncio.Event()
    async with Siem() as siem, endpoint(Siem()) as tokens:
        siem.act(Answer(401, after=release), times=3).then(kind.take)
        config = kind.config(siem, max_in_flight=3, **settings(tokens))
        async with opened(config) as destination, asyncio.TaskGroup() as tasks:
            sends = [tasks.create_task(destination.send(CHUNK)) for _ in range(3)]
            await siem.received(3)
            release.set()

    assert all(isinstance(send.result(), Delivered) for send in sends)
    assert sorted(offered(siem)) == ["Bearer token-1"] * 3 + ["Bearer token-2"] * 3
    assert len(tokens.requests) == 2


@every_kind
async def test_renewed_in_time(kind: Kind) -> None:
    """A token is renewed before it expires, so that no send meets a 401 for it."""
    clock = FakeClock(NOW)
    async with Siem() as siem, endpoint(Siem()) as tokens:
        siem.then(kind.take)
        async with opened(kind.config(siem, **settings(tokens)), clock) as destination:
            await destination.send(CHUNK)
            await clock.advance(3299)
            await destination.send(CHUNK)
            await clock.advance(1)
            await destination.send(CHUNK)

    assert offered(siem) == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


@every_kind
async def test_no_token_no_events(kind: Kind) -> None:
    """Without a token nothing is sent; the endpoint's answer says what becomes of the events."""
    async with Siem() as siem, Siem() as tokens:
        siem.then(kind.take)
        tokens.answer(429, headers={"Retry-After": "30"}).answer(503).hang()
        tokens.answer(400, body='{"error":"invalid_client"}').answer(200, body="<html>").answer(400)
        tokens.then(200, body=token_answer("good"))
        async with opened(kind.config(siem, timeout=1, **settings(tokens))) as destination:
            outcomes = [await destination.send(CHUNK) for _ in range(6)]
            assert siem.requests == []
            last = await destination.send(CHUNK)

    assert [type(outcome) for outcome in outcomes] == [Throttled, Transient, Transient, *[Misconfigured] * 3]
    assert all(outcome.response.detail.startswith("no access token: ") for outcome in outcomes)
    assert isinstance(outcomes[0], Throttled)
    assert outcomes[0].retry_after == 30.0
    assert isinstance(last, Delivered)


@every_kind
async def test_endpoint_is_down(kind: Kind) -> None:
    """A token endpoint that refuses the connection is waited for, and a probe says what is wrong."""
    async with Siem() as siem, Siem() as tokens:
        config = kind.config(siem, **settings(tokens))
        await tokens.close()
        async with opened(config) as destination:
            outcome, report = await destination.send(CHUNK), await destination.probe()

    assert isinstance(outcome, Transient)
    assert report.detail == "no access token: cannot connect: Connection refused"
    assert not report.ok


@every_kind
async def test_endpoint_is_not_trusted(kind: Kind) -> None:
    """No secret is sent to a token endpoint whose certificate nobody vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with Siem() as siem, Siem(tls=context) as tokens:
        async with opened(kind.config(siem, **settings(tokens))) as destination:
            outcome = await destination.send(CHUNK)
        assert tokens.requests == []

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail.startswith("no access token: its certificate is not trusted: ")


@every_kind
async def test_secrets(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint that repeats what it was sent brings no secret into an outcome, a report or a log line."""
    caplog.set_level(logging.DEBUG)
    async with Siem() as siem, Siem() as tokens:
        tokens.then(lambda request: Answer(400, b"you said " + request.body))
        config = kind.config(siem, **settings(tokens))
        async with opened(config) as destination:
            said = [await destination.send(CHUNK), await destination.probe()]

    shown = f"{said!r} {destination!r} {config!r} {caplog.text}"
    bodies = [request.body.decode() for request in tokens.requests]
    sent = {value for body in bodies for value in (part.partition("=")[2] for part in body.split("&"))}
    proofs = {value for value in sent if value.startswith(("cl1ent", "eyJ"))}
    assert proofs
    for secret in (*proofs, *kind.all_secrets()[: len(kind.secrets)]):
        assert secret not in shown
    assert json.loads(config.model_dump_json())["token_url"] != tokens.url
