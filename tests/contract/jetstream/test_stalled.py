"""A replica that cannot read the log any more: it says so, stays small, and leaves the work to others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from relay.admin.readiness import Readiness
from relay.admin.status import relay_status
from relay.errors import QueueError
from relay.queue.jetstream import log
from relay.queue.jetstream.janitor import JanitorLease
from relay.queue.jetstream.link import Outgoing
from tests.contract.jetstream.relays import LIMIT, Relay, Relays, deliver_all
from tests.fakes.control import OperatedRelay
from tests.fakes.events import batch, lines
from tests.fakes.nats import NatsServer
from tests.fakes.process import until

STALLED = log._STALLED_SECONDS + 2  # the clock stands still while a relay notices
SIZE = 5  # events of a batch


@pytest.fixture
async def relays(nats_server: NatsServer, prefix: str) -> AsyncIterator[Relays]:
    """None yet, on streams of their own."""
    async with Relays(nats_server, prefix) as relays:
        yield relays


async def accept(relay: Relay, first: int) -> list[bytes]:
    """A batch of five events; its lines."""
    events = lines(SIZE, first=first)
    assert (await relay.queue.append([batch(events)])).accepted == SIZE
    return events


async def write_as_newer(relay: Relay) -> int:
    """A message in a form that only a later version of the relay can read; its sequence."""
    about = {"v": 2, "at": relay.relays.clock.now(), "formats": {"cef": 4}, "crc": 7}
    headers = {"Relay-Batch": orjson.dumps(about).decode()}
    message = Outgoing(f"{relay.relays.prefix}.events.eu.0.0", b"new", headers)
    return (await relay.queue._link.publish(message)).seq


async def remove(relays: Relays, seq: int) -> None:
    """As an operator does it."""
    answer = await relays.server.api(f"STREAM.MSG.DELETE.{relays.prefix}", {"seq": seq})
    assert answer.get("success"), answer


def stalls(relay: Relay) -> bool:
    return relay.queue._log.trouble is not None


def follows(relay: Relay) -> bool:
    return relay.queue._log.trouble is None


async def test_what_a_newer_relay_wrote_ends_accepting_and_delivering(relays: Relays) -> None:
    """After some seconds: readiness, senders and the lease all tell; and it ends with the cause."""
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one, 0)
    assert await deliver_all(reader) == sent
    unreadable = await write_as_newer(one)
    await until(lambda: stalls(one), LIMIT, "the trouble being noticed")
    late = await accept(one, 100)  # it could be a matter of a moment
    await one.queue.ping()

    await relays.pass_(STALLED)

    with pytest.raises(QueueError, match=rf"message {unreadable} was written by a newer relay"):
        await one.queue.append([batch(lines(SIZE, first=200))])
    with pytest.raises(QueueError, match="cannot be followed"):
        await one.queue.ping()
    assert one.leases["siem"].lost.is_set()
    assert [line["detail"] for line in one.logged("queue.follow_failed")] == [
        f"message {unreadable} was written by a newer relay (version 2)"
    ], "said once"
    assert one.logged("queue.follows") == []
    await one.give_back()
    waiting = one.start_taking()
    await relays.pass_(3)
    assert not waiting.done()

    await remove(relays, unreadable)
    await until(lambda: follows(one), LIMIT, "the log being followed again")
    await relays.pass_(1)
    reader = await waiting
    late += await accept(one, 300)
    await one.queue.ping()
    assert await deliver_all(reader) == late
    assert (await relays.books()).delivered == len(sent + late)


async def test_status_says_what_readiness_says(tmp_path: Path) -> None:
    """Nothing is called well while nothing can be stored, and no disk is measured that nobody can see."""
    async with NatsServer(tmp_path) as server, Relays(server, "audit") as relays:
        [one] = await relays.add("one")
        await one.queue.attach("siem", "now")
        readiness = Readiness(one.queue, relays.clock)
        control = OperatedRelay(one.queue, relays.clock, ["eu"], ["siem"])
        well = (await relay_status(control, relays.clock.now(), await readiness.trouble())).queue
        assert (well.accepting, well.trouble, well.disk_free_bytes) == (True, None, None)

        await server.kill()
        await relays.clock.advance(2)
        trouble = await readiness.trouble()
        assert trouble is not None
        ill = (await relay_status(control, relays.clock.now(), trouble)).queue
        assert (ill.accepting, ill.trouble) == (False, trouble)

        await server.start()
        await until(lambda: one.connected, LIMIT, "connecting again")
        assert await readiness.trouble() is None


async def test_what_is_accepted_meanwhile_takes_no_room(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what the cache may hold only its figures are remembered, and it is delivered all the same."""
    most = 5_000
    monkeypatch.setattr(log, "_CACHE_BYTES", most)
    [one] = await relays.add("one")
    reader = await one.take()
    unreadable = await write_as_newer(one)
    sent = [line for n in range(40) for line in await accept(one, n * SIZE)]

    kept = one.queue._log._own.values()
    assert len(kept) == 40
    assert 0 < sum(own.nbytes for own in kept) == one.queue._log._own_bytes <= most
    assert any(own.payload is None and own.meta.hashes is None for own in kept)

    await remove(relays, unreadable)
    await relays.followed()
    assert (one.queue._log._own_bytes, len(one.queue._log._own)) == (0, 0)
    assert await deliver_all(reader) == sent
    assert (await relays.books()).delivered == len(sent)


async def test_accepting_ends_before_the_figures_take_room(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly the log comes back, and whatever the reason."""
    monkeypatch.setattr(log, "_MOST_OWN", 3)
    [one] = await relays.add("one")
    unreadable = await write_as_newer(one)
    for n in range(3):
        await accept(one, n * SIZE)

    with pytest.raises(QueueError, match="too far ahead"):
        await accept(one, 100)

    await remove(relays, unreadable)
    await relays.followed()
    await accept(one, 100)


async def test_a_replica_that_may_not_follow_leaves_the_work_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Destinations and housekeeping alike; when it may again it is like any other."""
    follow = "$JS.API.CONSUMER.CREATE.audit"

    def users(*denied: str) -> dict[str, object]:
        rights = {"publish": {"deny": list(denied)}} if denied else {}
        one = {"user": "one", "password": "p", "permissions": rights}
        return {"users": [one, {"user": "other", "password": "p"}]}

    settings = {"authorization": users(), "no_auth_user": "other"}
    async with NatsServer(tmp_path, settings=settings) as server, Relays(server, "audit") as relays:
        relays.settings |= {"user": "one", "password": "p"}
        [one] = await relays.add("one")
        sent = await deliver_all(await one.take())
        assert await one.queue._janitor.ours()
        relays.settings |= {"user": "other"}
        [two] = await relays.add("two")
        waiting = two.start_taking()

        await server.reload(authorization=users(follow))
        # A consumer that exists is not affected by it: that one ends with the connection.
        one.proxy.cut()
        one.proxy.heal()
        await until(lambda: stalls(one) and one.connected, LIMIT, "the trouble being noticed")
        await relays.pass_(STALLED)
        assert one.leases["siem"].lost.is_set()
        await one.give_back()
        await relays.pass_(1)
        reader = await waiting
        await until(two.queue._janitor.ours, LIMIT, "the janitor's work being handed on")
        with monkeypatch.context() as impatient:
            impatient.setattr(log, "_MEET_SECONDS", 0.2)  # how long a sender waits for it
            with pytest.raises(QueueError, match="may not publish"):
                await accept(one, 100)
        sent += await accept(two, 200)
        assert await deliver_all(reader) == sent
        entry = await two.queue._bucket.get(JanitorLease.KEY)
        assert entry is not None
        assert entry.value == b"two"
        assert two.queue._members.is_alive("one"), "it was not waited for"

        await server.reload(authorization=users())
        await until(lambda: follows(one), LIMIT, "the log being followed again")
        await relays.pass_(1)
        sent += await accept(one, 300)
        await relays.settled()
        assert len(await deliver_all(reader)) == SIZE
        assert (await relays.books()).delivered == len(sent)
