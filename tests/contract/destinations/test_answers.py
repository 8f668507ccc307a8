"""What every HTTP destination makes of an answer, and of the absence of one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from tests.contract.destinations.kit import Kind, every_kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Answer, Siem

CHUNK = chunk_of(sample("cef")[:3], sample("json")[:2])


@every_kind
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, Throttled),
        (408, Transient),
        (500, Transient),
        (502, Transient),
        (503, Transient),
        (504, Transient),
        (413, TooLarge),
        (400, Rejected),
        (422, Rejected),
        (301, Misconfigured),
        (307, Misconfigured),
        (401, Misconfigured),
        (403, Misconfigured),
        (404, Misconfigured),
        (405, Misconfigured),
        (410, Misconfigured),
        (415, Misconfigured),
        (501, Misconfigured),
    ],
)
async def test_status_table(kind: Kind, status: int, expected: type[Outcome]) -> None:
    """Each failure status means the same for every type, and the next send starts afresh."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        times = 2 if status == 401 and kind.has_tokens else 1
        siem.answer(status, body="some words", times=times).then(kind.take)

        outcome = await destination.send(CHUNK)
        again = await destination.send(CHUNK)

    assert type(outcome) is expected
    assert outcome.response.status == status
    assert outcome.response.excerpt == b"some words"
    assert isinstance(again, Delivered)


@every_kind
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "expected"), [("7", 7.0), ("Wed, 21 Oct 2015 07:29:30 GMT", 90.0), ("soon", None)]
)
async def test_retry_after(kind: Kind, status: int, header: str, expected: float | None) -> None:
    """A wish to be left alone arrives in seconds, however it was written."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.answer(status, headers={"Retry-After": header})

        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Throttled | Transient)
    assert outcome.retry_after == expected


@every_kind
async def test_redirect_is_not_followed(kind: Kind) -> None:
    """The credentials never go where the configured address points to."""
    async with Siem() as siem, Siem() as elsewhere, opened(kind.config(siem)) as destination:
        siem.answer(307, headers={"Location": elsewhere.url})

        outcome = await destination.send(CHUNK)

        assert isinstance(outcome, Misconfigured)
        assert elsewhere.requests == []


@every_kind
async def test_nobody_listens(kind: Kind) -> None:
    """A refused connection may be better later; it comes without a status."""
    async with Siem() as siem:
        config = kind.config(siem)
    async with opened(config) as destination:
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Transient)
    assert outcome.response.status is None
    assert outcome.response.detail == "cannot connect: Connection refused"


@every_kind
async def test_hang(kind: Kind) -> None:
    """A destination that takes the request and never answers costs the time-out and its connection."""
    async with Siem() as siem, opened(kind.config(siem, timeout=1)) as destination:
        siem.hang().then(kind.take)

        outcome = await destination.send(CHUNK)
        await siem.disconnected()
        again = await destination.send(CHUNK)

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == "no complete answer within 1 s"
    assert isinstance(again, Delivered)


@every_kind
@pytest.mark.parametrize("cut_after", [0, 5])
async def test_reset_in_a_success(kind: Kind, cut_after: int) -> None:
    """A success that breaks off proves nothing: the events are sent again."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.reset(cut_after=cut_after).then(kind.take)

        outcome = await destination.send(CHUNK)
        again = await destination.send(CHUNK)

    assert isinstance(outcome, Transient)
    assert outcome.response.status is None
    assert isinstance(again, Delivered)


@every_kind
async def test_reset_in_a_refusal(kind: Kind) -> None:
    """A refusal stands even where its body breaks off."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.act(Answer(413, b"too much of it", cut_after=8))

        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, TooLarge)
    assert outcome.response.excerpt == b"too much"


@every_kind
async def test_answer_before_the_body_was_read(kind: Kind) -> None:
    """Servers refuse large requests early and close; the refusal is understood all the same."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.act(Answer(413, unread=True))

        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, TooLarge)


@every_kind
async def test_endless_answer(kind: Kind) -> None:
    """An answer of megabytes is read for its first bytes only, and the next send has a fresh connection."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.answer(400, body=b"x" * 10_000_000).then(kind.take)

        outcome = await destination.send(CHUNK)
        again = await destination.send(CHUNK)

    assert isinstance(outcome, Rejected)
    assert outcome.response.excerpt == b"x" * 1024
    assert isinstance(again, Delivered)


@every_kind
async def test_no_http(kind: Kind) -> None:
    """Something that speaks another protocol is no reason to give up on the events."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    siem = Siem()
    siem.port = server.sockets[0].getsockname()[1]
    async with server, opened(kind.config(siem)) as destination:
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Transient)


@every_kind
async def test_cancelled_send(kind: Kind) -> None:
    """A send cancelled by shutdown leaves no open connection behind."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.hang()
        async with asyncio.TaskGroup() as tasks:
            send = tasks.create_task(destination.send(CHUNK))
            await siem.received(1)
            send.cancel()

        await siem.disconnected()
        assert siem.accepted == []


@every_kind
async def test_connections_are_kept(kind: Kind) -> None:
    """One send after another uses one connection, also after failures; close lets go of it."""
    async with Siem() as siem:
        siem.answer(503, body="later", times=2).then(kind.take)
        async with opened(kind.config(siem)) as destination:
            for _ in range(4):
                await destination.send(CHUNK)

            assert siem.connections == 1
        await siem.disconnected()


@every_kind
async def test_connections_are_bounded(kind: Kind) -> None:
    """However many sends are under way, there are no more connections than `max_in_flight`."""
    release = asyncio.Event()
    async with Siem() as siem, opened(kind.config(siem, max_in_flight=2)) as destination:
        siem.then(lambda request: replace(kind.take(request), after=release))
        async with asyncio.TaskGroup() as tasks:
            sends = [tasks.create_task(destination.send(CHUNK)) for _ in range(5)]
            await siem.received(2)
            assert siem.connections == 2
            release.set()

    assert all(isinstance(send.result(), Delivered) for send in sends)
