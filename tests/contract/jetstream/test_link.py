"""What a connection makes of questions that get lost and of leaders that come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import nats
import pytest
from nats.aio.msg import Msg

from relay.queue.jetstream import link
from relay.queue.jetstream.client import Client
from relay.queue.jetstream.link import Link, Outgoing
from tests.fakes.nats import NatsServer

Responder = Callable[[Msg], Awaitable[None]]


@asynccontextmanager
async def linked(server: NatsServer, subject: str, responder: Responder) -> AsyncIterator[Link]:
    """A link, and somebody on the same server who answers on *subject* in JetStream's place."""
    other = await nats.connect(server.url, allow_reconnect=False)
    await other.subscribe(subject, cb=responder)
    await other.flush()
    client = Client(encrypted=False, identity=None)
    await client.connect(server.url, allow_reconnect=False)
    opened = await Link.open(client, api_prefix="test.api")
    try:
        yield opened
    finally:
        await opened.close()
        await other.close()


async def test_a_lost_question_is_asked_again(nats_server: NatsServer) -> None:
    """A server that dies with a question in its hands, or a stream that is being made, costs two seconds."""
    asked: list[bytes] = []

    async def answer(message: Msg) -> None:
        asked.append(message.data)
        if len(asked) > 1:
            await message.respond(b'{"found":1}')

    async with linked(nats_server, "test.api.>", answer) as asking:
        found = await asking.api("STREAM.INFO.orders", {"page": 1})

    assert found == {"found": 1}
    assert asked == [b'{"page":1}'] * 2


async def test_a_batch_is_offered_under_a_new_name_until_there_is_a_leader(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an election takes: a name is never used twice and never longer than servers take."""
    monkeypatch.setattr(link, "_ANSWER_SECONDS", 60.0)  # forty attempts, with a pause after each
    names: list[str] = []

    async def answer(message: Msg) -> None:
        headers = message.headers or {}
        if headers["Nats-Batch-Sequence"] == "1":
            names.append(headers["Nats-Batch-Id"])
            await message.respond(b"")
        elif len(names) == 1:  # the beginning went to another leader
            refusal = b'{"code":400,"err_code":10176,"description":"atomic publish batch is incomplete"}'
            await message.respond(b'{"error":%b}' % refusal)
        elif len(names) < 40:
            await message.respond(b'{"error":{"code":503,"err_code":10008,"description":"no leader"}}')
        else:
            await message.respond(b'{"stream":"orders","seq":7,"batch":"x","count":2}')

    messages = [Outgoing("test.orders", b"one", {}), Outgoing("test.orders", b"two", {})]
    async with linked(nats_server, "test.orders", answer) as offering:
        ack = await offering.publish_together(messages)

    assert ack.seq == 7
    assert len(set(names)) == len(names) == 40
    assert max(map(len, names)) <= 64
