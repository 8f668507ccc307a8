"""Reading from a cluster whose servers are not all equally far."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from relay.observe import logs
from relay.queue.jetstream import fetch, follow
from relay.queue.jetstream.by_sequence import last_sequence
from relay.queue.jetstream.fetch import Pull, scan
from relay.queue.jetstream.follow import Follow
from relay.queue.jetstream.link import Link, Outgoing
from relay.queue.jetstream.tape import ConsumerSpec, Tape
from tests.fakes.nats import NatsServer

PREFIX = "LAGGING.API"
DURABLE = {"durable_name": "siem", "ack_policy": "explicit"}


class Cluster:
    """JetStream as it answers while its leader, and the server asked beside it, have not stored the newest.

    A stand-in between the relay and a real server: on one machine the moment is too short to be caught.
    """

    def __init__(self, client: Client, stored: int) -> None:
        self._client = client
        self._stored = stored  # what both have while they lag
        self.lags = 3  # looks at the leader until it has everything

    async def answer(self, message: Msg) -> None:
        subject = message.subject.replace(PREFIX, "$JS.API")
        if not self.lags or ".CONSUMER.CREATE." in subject or ".CONSUMER.INFO." in subject:
            await self._client.publish(subject, message.data, message.reply)
        elif ".STREAM." in subject:
            self.lags -= ".INFO." in subject
            found = json.loads((await self._client.request(subject, message.data)).data)
            await message.respond(json.dumps(self._aged(found)).encode())
        else:  # of a consumer, or a direct get
            await self._client.publish(message.reply, b"", headers={"Status": "404"})

    def _aged(self, found: dict[str, Any]) -> dict[str, Any]:
        if "state" in found:
            return {**found, "state": {**found["state"], "last_seq": self._stored}}
        if "message" in found and found["message"]["seq"] > self._stored:
            return {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
        return found


@asynccontextmanager
async def lagging(server: NatsServer, stored: int) -> AsyncIterator[Link]:
    """A connection to such a cluster."""
    between = await nats.connect(server.url)
    cluster = Cluster(between, stored)
    await between.subscribe(f"{PREFIX}.>", cb=cluster.answer)
    await between.flush()
    link = await Link.open(await nats.connect(server.url), api_prefix=PREFIX)
    try:
        yield link
    finally:
        await link.close()
        await between.close()


@pytest.fixture
async def stream(nats_server: NatsServer, prefix: str) -> str:
    """Five messages."""
    client = await nats.connect(nats_server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(name=prefix, subjects=[f"{prefix}.>"], allow_direct=True)
    for number in range(5):
        await jetstream.publish(f"{prefix}.a", b"%d" % number)
    await client.close()
    return prefix


def tape_of(link: Link, stream: str, start: int) -> Tape:
    return Tape(
        link,
        stream,
        ConsumerSpec("siem", start, manage=True),
        log=logs.configure("info", stream=io.BytesIO()),
    )


async def test_what_the_leader_stores_a_moment_later_is_waited_for(
    nats_server: NatsServer, stream: str
) -> None:
    """Another server told of it already; the leader does not have it yet, which does not make it gone."""
    async with lagging(nats_server, stored=2) as link:
        tape = tape_of(link, stream, 3)
        found, following = await tape.read(3, 10)
        await tape.close()

    assert ([message.seq for message in found], following) == ([3, 4, 5], 6)


async def test_a_hole_that_only_seems_to_be_one_is_filled(nats_server: NatsServer, stream: str) -> None:
    """The consumer gave it to a replica that is gone, and nobody who is asked has it yet."""
    async with lagging(nats_server, stored=2) as link:
        tape = tape_of(link, stream, 6)
        await tape.open()
        tape._delivered = 5
        found, following = await tape.read(3, 10)
        await tape.close()

    assert ([message.seq for message in found], following) == ([3, 4, 5], 6)


async def test_what_was_deleted_is_passed(nats_server: NatsServer, stream: str) -> None:
    """Up to the end that the leader knows, not to what may have been stored since it was asked."""
    client = await nats.connect(nats_server.url)
    for seq in (4, 5):
        await client.jetstream().delete_msg(stream, seq)
    link = await Link.open(client)
    tape = tape_of(link, stream, 4)

    assert await tape.read(4, 10) == ([], 6)

    await tape.close()
    await link.close()


async def test_a_leader_that_never_gets_there(
    nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some seconds its word counts: the cluster has lost something."""
    monkeypatch.setattr("relay.queue.jetstream.by_sequence.ATTEMPTS", 3)
    async with lagging(nats_server, stored=2) as link:
        assert await last_sequence(link, stream, known=5) == 2
        assert await last_sequence(link, stream, known=5) == 5


@pytest.fixture
async def hundred(nats_server: NatsServer, stream: str) -> AsyncIterator[Link]:
    """A hundred messages, and a connection."""
    link = await Link.open(await nats.connect(nats_server.url))
    for number in range(95):
        await link.publish(Outgoing(f"{stream}.a", b"%d" % number, {}))
    yield link
    await link.close()


async def test_many_small_requests_follow_each_other(hundred: Link, stream: str) -> None:
    """What the server says at the end of one is not taken for an answer to the next."""
    made = await hundred.api(f"CONSUMER.CREATE.{stream}.siem", {"stream_name": stream, "config": DURABLE})
    pull = Pull(hundred, stream, made["name"])
    found = [message.seq for _ in range(50) for message in await pull.take(2)]
    await pull.close()

    assert found == list(range(1, 101))


async def test_a_follower_asks_again_and_again(
    hundred: Link, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request brings a few messages; none of them is the end."""
    monkeypatch.setattr(Follow, "BATCH", 7)
    found: list[int] = []
    async with aclosing(Follow(hundred, stream).run(1)) as lists:
        async for some in lists:
            found += [message.seq for message in some]
            if not some:
                break

    assert found == list(range(1, 101))


async def test_requests_that_are_full_go_on_with_the_next(
    hundred: Link, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes end a request before messages do: nothing is passed over, by those who scan and who follow."""
    for module in (fetch, follow):
        monkeypatch.setattr(module, "request_bytes", lambda _: 500)
    async with aclosing(scan(hundred, stream)) as messages:
        scanned = [message.seq async for message in messages]
    followed: list[int] = []
    async with aclosing(Follow(hundred, stream).run(1)) as lists:
        async for some in lists:
            followed += [message.seq for message in some]
            if not some:
                break

    assert scanned == followed == list(range(1, 101))
