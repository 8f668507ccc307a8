"""What a server says besides messages, and when: the ends of requests, also ahead of what they gave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from relay.queue.jetstream import fetch
from relay.queue.jetstream.fetch import Pull, Unanswered
from relay.queue.jetstream.follow import Follow
from relay.queue.jetstream.link import Link, Outgoing
from tests.fakes.nats import NatsCluster, NatsServer

PREFIX = "OVERTAKING.API"
MOST = 10  # messages asked for
COMPLETED = {"Status": "409", "Description": "Batch Completed", "Nats-Pending-Messages": "0"}
TIMEOUT = {"Status": "408", "Description": "Request Timeout"}
TOO_BIG = {"Status": "409", "Description": "Message Size Exceeds MaxBytes"}
NONE = {"Status": "404", "Description": "No Messages"}


async def fill(link: Link, stream: str, messages: int, *, replicas: int = 1) -> None:
    subject = f"{stream}.events"
    await link.api(
        f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [subject], "num_replicas": replicas}
    )
    for n in range(messages):
        await link.publish(Outgoing(subject, b"%d" % n, {}))


async def test_a_follower_goes_on_behind_the_end_of_a_request(
    nats_server: NatsServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is over after so many messages; the next one goes to the same consumer."""
    monkeypatch.setattr(Follow, "BATCH", 3)
    client = await nats.connect(nats_server.url)
    try:
        link = await Link.open(client)
        await fill(link, prefix, 10)
        stored = 10
        seen: list[int] = []
        async with aclosing(Follow(link, prefix).run(1)) as following:
            async for messages in following:
                seen += [message.seq for message in messages]
                if len(seen) == 20:
                    break
                # Of two that are stored the first may come alone, as the last that there is at that moment.
                if not messages and stored < 20:
                    for _ in range(2):
                        await link.publish(Outgoing(f"{prefix}.events", b"", {}))
                    stored += 2

        assert seen == list(range(1, 21))
        await link.api(f"STREAM.DELETE.{prefix}")
    finally:
        await client.close()


async def test_everything_asked_of_a_replicated_consumer_comes(tmp_path: Path) -> None:
    """Its messages wait for a quorum, and the server tells the end of the request at once."""
    async with NatsCluster(tmp_path) as cluster:
        client = await nats.connect(cluster.servers[0].url)
        link = await Link.open(client)
        await fill(link, "audit", 35, replicas=3)
        consumer = {"durable_name": "siem", "ack_policy": "explicit"}
        await link.api("CONSUMER.CREATE.audit.siem", {"stream_name": "audit", "config": consumer})
        pull = Pull(link, "audit", "siem")

        taken = [[message.seq for message in await pull.take(MOST)] for _ in range(5)]

        sequences = list(range(1, 36))
        assert taken == [sequences[:10], sequences[10:20], sequences[20:30], sequences[30:], []]
        await client.close()


@asynccontextmanager
async def overtaking(server: NatsServer, end: dict[str, str], given: int) -> AsyncIterator[Pull]:
    """A consumer that tells the end of a request first, and gives so many messages afterwards.

    They are laid in the inbox, because a server passes on nobody else's acknowledgement subjects.
    """
    client = await nats.connect(server.url)
    link = await Link.open(client, api_prefix=PREFIX)

    async def answer(_: Msg) -> None:
        (inbox,) = link.inboxes
        inbox.put_nowait(Msg(client, headers=end))
        for seq in range(1, given + 1):
            inbox.put_nowait(Msg(client, reply=f"$JS.ACK.audit.siem.1.{seq}.{seq}.1.0"))

    await client.subscribe(f"{PREFIX}.>", cb=answer)
    try:
        yield Pull(link, "audit", "siem")
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("end", "given"),
    [
        (COMPLETED, 10),
        (TIMEOUT | {"Nats-Pending-Messages": "7"}, 3),
        (TIMEOUT | {"Nats-Pending-Messages": "10"}, 0),
        (TIMEOUT, 0),
        (TOO_BIG | {"Nats-Pending-Messages": "6"}, 4),
        (NONE, 0),
    ],
)
async def test_the_end_of_a_request_tells_how_many_to_wait_for(
    nats_server: NatsServer, end: dict[str, str], given: int
) -> None:
    """Whatever ends it, and although it comes before them."""
    async with overtaking(nats_server, end, given) as pull:
        assert len(await pull.take(MOST)) == given


async def test_messages_that_do_not_come_any_more_are_done_without(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that lost its quorum has told the end of a request, and gives only what was agreed upon."""
    monkeypatch.setattr(fetch, "_LATE_SECONDS", 0.2)
    async with overtaking(nats_server, COMPLETED, 4) as pull:
        assert len(await pull.take(MOST)) == 4


async def test_a_message_without_room_is_told(nats_server: NatsServer) -> None:
    """Asking again would be of no use."""
    end = TOO_BIG | {"Nats-Pending-Messages": str(MOST)}
    async with overtaking(nats_server, end, 0) as pull:
        with pytest.raises(Unanswered, match="MaxBytes"):
            await pull.take(MOST)
