"""Walking through the log where the server that answers is not the leader, and lags behind it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from relay.errors import QueueError
from relay.queue.jetstream import walk
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.record import Mark
from tests.fakes.nats import NatsServer

PREFIX = "LAGGING.API"
LAST = 5  # sequence of the leader's last message
SUBJECT = "log.events"


@asynccontextmanager
async def lagging(server: NatsServer, has: Sequence[int], gone: Sequence[int] = ()) -> AsyncIterator[Link]:
    """A stream of which each server that is asked in turn *has* so many messages, and the last one all.

    The messages are laid in the inbox, because a server passes on nobody else's acknowledgement subjects.
    """
    client = await nats.connect(server.url)
    link = await Link.open(client, api_prefix=PREFIX)
    left = [*has]
    there: list[int] = []  # what the present server's consumer gives

    async def answer(message: Msg) -> None:
        nonlocal there
        asked = json.loads(message.data or b"{}")
        said: dict[str, Any] = {"success": True}
        if ".STREAM.INFO." in message.subject:
            said = {"state": {"last_seq": LAST}}
        elif ".CONSUMER.CREATE." in message.subject:
            most = (left.pop(0) if len(left) > 1 else left[0]) + 1
            there = [seq for seq in range(asked["config"]["opt_start_seq"], most) if seq not in gone]
            said = {"name": "c", "num_pending": len(there)}
        elif ".STREAM.MSG.GET." in message.subject:
            following = [seq for seq in range(asked["seq"], LAST + 1) if seq not in gone]
            said = {"error": {"code": 404, "err_code": 10037}}
            if following:
                data = base64.b64encode(b"x").decode()
                said = {"message": {"seq": following[0], "subject": SUBJECT, "data": data}}
        elif ".CONSUMER.MSG.NEXT." in message.subject:
            (inbox,) = link.inboxes
            for n, seq in enumerate(there, 1):
                inbox.put_nowait(Msg(client, SUBJECT, f"$JS.ACK.log.c.1.{seq}.{n}.1.{len(there) - n}", b""))
            end = {"Status": "408", "Nats-Pending-Messages": str(asked["batch"] - len(there))}
            inbox.put_nowait(Msg(client, headers=end))
            return
        await message.respond(json.dumps(said).encode())

    await client.subscribe(f"{PREFIX}.>", cb=answer)
    try:
        yield link
    finally:
        await client.close()


async def walked(link: Link, start: int = 1) -> list[int]:
    async with aclosing(walk.walk(link, "log", Mark(start, 1))) as steps:
        return [step.seq async for step in steps]


@pytest.mark.parametrize("has", [[5], [2, 5], [0, 5], [0, 2, 2, 4, 5]])
async def test_what_a_server_lacks_is_asked_for_again(nats_server: NatsServer, has: list[int]) -> None:
    """Nothing is left out, and nothing comes twice."""
    async with lagging(nats_server, has) as link:
        assert await walked(link) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("gone", "left"), [([4, 5], [1, 2, 3]), ([1, 3], [2, 4, 5]), ([1, 2, 3, 4, 5], [])])
async def test_what_is_deleted_is_not_waited_for(
    nats_server: NatsServer, gone: list[int], left: list[int]
) -> None:
    """The leader says that nothing follows."""
    async with lagging(nats_server, [5], gone) as link:
        assert await walked(link) == left


async def test_a_server_that_does_not_catch_up(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is better to say so than to call a part the whole."""
    monkeypatch.setattr(walk, "ATTEMPTS", 3)
    async with lagging(nats_server, [2]) as link:
        with pytest.raises(QueueError, match="lag behind"):
            await walked(link)
