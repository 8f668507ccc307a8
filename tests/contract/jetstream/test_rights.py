"""A right that is missing in nats.conf: it is named, by whoever needed it, as one would have to write it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.errors import QueueError, QueueFull
from relay.queue.jetstream import queue
from relay.queue.jetstream.link import Forbidden, Outgoing
from tests.contract.jetstream.relays import LIMIT, Relays
from tests.fakes.events import batch, lines
from tests.fakes.nats import NatsServer
from tests.fakes.process import until


def settings(*denied: str) -> dict[str, object]:
    """A user `relay` that may do everything else; whoever gives no name may do everything."""
    relay = {"user": "relay", "password": "p", "permissions": {"publish": {"deny": [*denied, "nothing"]}}}
    return {
        "authorization": {"users": [relay, {"user": "operator", "password": "p"}]},
        "no_auth_user": "operator",
    }


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.INFO.audit",
        "$JS.API.STREAM.CREATE.KV_audit-state",
        "$JS.API.STREAM.MSG.GET.KV_audit-state",
        "$JS.API.CONSUMER.CREATE.KV_audit-state",
        "$JS.API.CONSUMER.CREATE.audit",
    ],
)
async def test_a_start_ends_with_the_missing_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    """Not with something that follows from it, such as a leader nobody has."""
    monkeypatch.setattr(queue, "_READY_SECONDS", 5.0)
    async with NatsServer(tmp_path, settings=settings(subject)) as server:
        relays = Relays(server, "audit", user="relay", password="p")
        with pytest.raises(QueueError) as raised:
            await relays.add("one")
        for relay in relays.alive():
            await relay.proxy.close()

    assert str(raised.value).endswith(f'NATS: the relay may not publish to "{subject}"')


async def test_senders_are_told_at_once(tmp_path: Path) -> None:
    """Of a right that was taken away while the relay runs, a request is not kept waiting for."""
    async with (
        NatsServer(tmp_path, settings=settings()) as server,
        Relays(server, "audit", user="relay", password="p") as relays,
    ):
        [one] = await relays.add("one")
        await server.reload(**settings("audit.events.>"))
        await until(lambda: one.connected, LIMIT, "being connected")

        with pytest.raises(QueueError, match=r'the relay may not publish to "audit\.events\.eu') as refused:
            await one.queue.append([batch(lines(5))])
        assert not isinstance(refused.value, QueueFull), "room has nothing to do with it"

        link = one.queue._link
        together = [Outgoing(f"audit.events.eu.{n}", b"x", {}) for n in range(3)]
        async with asyncio.timeout(LIMIT):
            with pytest.raises(Forbidden):
                await link.publish_together(together)
        assert not link._subjects
        details = {line["detail"] for line in one.logged("queue.connection_failed")}
        assert any('"audit.events.eu.' in str(detail) for detail in details)
