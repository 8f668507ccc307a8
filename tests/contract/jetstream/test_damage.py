"""What is damaged, deleted or lost in NATS is booked, and everything else goes on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from relay.errors import QueueError
from relay.model import Position, Reason
from relay.queue.base import DeadLetterFilter
from relay.queue.jetstream import tape
from relay.queue.jetstream.link import Outgoing
from relay.queue.jetstream.record import VERSION, dump
from tests.contract.jetstream.relays import LIMIT, Relay, Relays, deliver_all, fate, read_all
from tests.fakes.events import batch, lines
from tests.fakes.nats import NatsServer
from tests.fakes.process import until

SIZE = 5  # events of a batch


@pytest.fixture
async def relays(nats_server: NatsServer, prefix: str) -> AsyncIterator[Relays]:
    """None yet, on streams of their own."""
    async with Relays(nats_server, prefix) as relays:
        yield relays


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """To be stopped and damaged."""
    async with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
async def alone(own_server: NatsServer) -> AsyncIterator[Relays]:
    """Replicas on a server that the test may do anything to."""
    async with Relays(own_server, "relay") as relays:
        yield relays


async def accept(relay: Relay, batches: int = 1, *, first: int = 0) -> list[list[bytes]]:
    """Batches of five events; their lines."""
    found = []
    for n in range(batches):
        events = lines(SIZE, first=first + n * SIZE)
        assert (await relay.queue.append([batch(events)])).accepted == SIZE
        found.append(events)
    return found


def joined(batches: list[list[bytes]]) -> list[bytes]:
    return [line for events in batches for line in events]


async def corrupt(relay: Relay) -> list[int]:
    """How many events the dead letters of this reason stand for."""
    found = await relay.queue.dead_letters(DeadLetterFilter(reason=Reason.CORRUPT))
    return [letter.count for letter in found]


# -- messages --------------------------------------------------------------------------------


async def test_a_batch_with_a_wrong_checksum_is_booked_and_kept(relays: Relays) -> None:
    """Its events become one dead letter, its bytes go to quarantine, its neighbours are delivered."""
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one)
    subject = f"{relays.prefix}.events.eu.0.0"
    about = {"v": 1, "at": relays.clock.now(), "formats": {"cef": 4}, "crc": 7}
    headers = {"Relay-Batch": orjson.dumps(about).decode()}
    await one.queue._link.publish(Outgoing(subject, b"not gzip", headers))
    sent += await accept(one, first=100)
    await relays.followed()

    assert joined(sent) == await deliver_all(reader)

    assert await corrupt(one) == [4]
    books = await relays.books()
    assert (books.owed, books.delivered, books.dead, books.backlog) == (14, 10, 4, 0)
    assert (one.queue.stats().corrupt_batches, one.queue.stats().quarantined_bodies) == (1, 1)


@pytest.mark.parametrize("headers", [{}, {"Relay-Batch": "{"}, {"Relay-Batch": '{"v":1,"at":0}'}])
async def test_a_foreign_message_is_passed_over(relays: Relays, headers: dict[str, str]) -> None:
    """What somebody else wrote into the stream counts for nothing and stops nobody."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    sent = await accept(one)
    await one.queue._link.publish(Outgoing(f"{relays.prefix}.events.eu.0.0", b"hello", headers))
    sent += await accept(two, first=100)
    await relays.followed()

    assert joined(sent) == await deliver_all(reader)
    books = await relays.books()
    assert (books.owed, books.delivered, books.dead, books.backlog) == (10, 10, 0, 0)


async def test_a_message_of_a_newer_relay_stops_delivery_and_nothing_else(relays: Relays) -> None:
    """Nobody passes over what a newer relay accepted; accepting goes on, and so does the process."""
    [one] = await relays.add("one")
    reader = await one.take()
    await accept(one)
    about = {"v": 2, "at": relays.clock.now(), "formats": {"cef": 4}, "crc": 7}
    headers = {"Relay-Batch": orjson.dumps(about).decode()}
    await one.queue._link.publish(Outgoing(f"{relays.prefix}.events.eu.0.0", b"new", headers))
    await accept(one, first=100)

    ((stored, _),) = await reader.read(1)
    await reader.settle(fate(stored))
    with pytest.raises(QueueError, match="newer relay"):
        await read_all(reader)
    await accept(one, first=200)


@pytest.mark.parametrize("gone", [[2], [2, 3], [1], [4], [3, 4], [1, 2, 3, 4]])
@pytest.mark.parametrize("before", [True, False])
async def test_deleted_messages_are_booked(relays: Relays, gone: list[int], before: bool) -> None:
    """Wherever they lay, also those that a reader takes back after it had read them."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    sent = await accept(one, 4)
    if before:
        assert len(await read_all(reader)) == 4
    for seq in gone:
        await relays.server.api(f"STREAM.MSG.DELETE.{relays.prefix}", {"seq": seq})
    reader.rewind()

    left = [events for seq, events in enumerate(sent, 1) if seq not in gone]
    assert joined(left) == await deliver_all(reader)

    assert sum(await corrupt(one)) == SIZE * len(gone)
    books = await relays.books()
    assert (books.owed, books.delivered, books.backlog) == (20, len(left) * SIZE, 0)
    later = await accept(two, first=100)
    await relays.followed()
    assert joined(later) == await deliver_all(reader)


async def test_a_reader_in_the_middle_of_a_deleted_batch(relays: Relays) -> None:
    """What it had settled of the batch stays delivered, the rest is lost."""
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one, 2)
    ((stored, _),) = await reader.read(1)
    await reader.settle(fate(stored, 0, 2))
    await relays.server.api(f"STREAM.MSG.DELETE.{relays.prefix}", {"seq": 1})
    reader.rewind()

    assert sent[1] == await deliver_all(reader)
    books = await relays.books()
    assert (books.delivered, books.dead, books.backlog) == (7, 3, 0)


@pytest.mark.parametrize("keep", [0, 1])
async def test_a_purge_behind_the_relays_back_is_booked(relays: Relays, keep: int) -> None:
    """Everything that was owed and is gone is dead, and what follows is delivered."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    await accept(one, 4)
    await relays.server.api(f"STREAM.PURGE.{relays.prefix}", {"keep": keep} if keep else {})
    sent = await accept(two, 2, first=100)
    await relays.followed()

    assert joined(sent) == (await deliver_all(reader))[keep * SIZE :]
    books = await relays.books()
    assert (books.owed, books.dead, books.backlog) == (30, (4 - keep) * SIZE, 0)

    for relay in (one, two):
        await relay.close()
    [three] = await relays.add("three")
    await three.take()
    assert three.queue.books("siem") == books


# -- consumers -------------------------------------------------------------------------------


async def test_a_consumer_deleted_while_in_use_is_made_again(relays: Relays) -> None:
    """A reader that finds it gone says so once, and goes on with a new one after its next lease."""
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one, 2)
    assert joined(sent) == await deliver_all(reader)
    await relays.server.api(f"CONSUMER.DELETE.{relays.prefix}.siem")
    sent = await accept(one, 2, first=100)

    got: list[bytes] = []
    try:
        got = await deliver_all(reader)
    except QueueError:  # as a worker would
        await one.give_back()
        reader = await one.take()
        got = await deliver_all(reader)

    assert joined(sent) == got
    await relays.settled()

    async def floor_reached() -> bool:
        return await relays.ack_floor() == 4

    await until(floor_reached, LIMIT, "everything being acknowledged")


async def test_a_consumer_that_is_stuck_is_made_up_for(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead holder's unacknowledged messages may fill the consumer: everything is read all the same."""
    monkeypatch.setattr(tape, "MAX_ACK_PENDING", 3)
    one, two = await relays.add("one", "two")
    reader = await one.take()
    sent = await accept(one, 3)
    assert len(await read_all(reader)) == 3
    waiting = two.start_taking()
    await relays.pass_(6)
    await one.kill()
    await relays.pass_(8)
    reader = await waiting
    sent += await accept(two, 5, first=100)

    assert joined(sent) == await deliver_all(reader)
    await relays.settled()


# -- unmanaged -------------------------------------------------------------------------------


async def test_unmanaged_streams_and_consumers_are_used_as_they_are(relays: Relays) -> None:
    """Made by somebody else, with names of their choice for nothing but what the relay expects."""
    [maker] = await relays.add("maker")
    await maker.close()
    consumer = {"durable_name": "siem", "ack_policy": "explicit", "deliver_policy": "all"}
    answer = await relays.server.api(
        f"CONSUMER.CREATE.{relays.prefix}.siem", {"stream_name": relays.prefix, "config": consumer}
    )
    assert "error" not in answer
    relays.settings["manage"] = False
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one, 3)

    assert joined(sent) == await deliver_all(reader)
    await relays.settled()
    assert await relays.ack_floor() == 3
    await one.queue.forget("siem")
    assert "error" not in await relays.server.api(f"CONSUMER.INFO.{relays.prefix}.siem")


async def test_a_missing_consumer_is_told_and_tried_for_once_a_second(relays: Relays) -> None:
    """Unmanaged, it is somebody else's to make; until then the destination waits, without a rush."""
    [maker] = await relays.add("maker")
    await maker.close()
    relays.settings["manage"] = False
    [one] = await relays.add("one")
    waiting = one.start_taking()
    await relays.pass_(5)

    told = one.logged("lease.unprepared")
    assert 3 <= len(told) <= 8
    assert "has no consumer siem" in str(told[0]["detail"])

    consumer = {"durable_name": "siem", "ack_policy": "explicit", "deliver_policy": "all"}
    await relays.server.api(
        f"CONSUMER.CREATE.{relays.prefix}.siem", {"stream_name": relays.prefix, "config": consumer}
    )
    await relays.pass_(3)
    async with asyncio.timeout(LIMIT):
        await waiting


# -- state -----------------------------------------------------------------------------------


async def test_a_deleted_ledger_is_written_again(relays: Relays) -> None:
    """As long as nothing was purged the log itself says the same."""
    one, two = await relays.add("one", "two")
    await one.take()
    await accept(one, 3)
    await relays.pass_(3)
    assert await one.queue._bucket.get("ledger") is not None

    await one.queue._bucket.delete("ledger")
    await accept(two, 2, first=100)
    await relays.followed()
    await relays.pass_(3)

    assert await one.queue._bucket.get("ledger") is not None
    for relay in (one, two):
        await relay.close()
    [three] = await relays.add("three")
    assert sum(three.queue.accepted().values()) == 25
    await three.take()
    assert three.queue.books("siem").backlog == 25


async def test_an_account_of_a_newer_version_is_left_alone(relays: Relays) -> None:
    """It is told in the log; the other destinations are delivered to."""
    one, two = await relays.add("one", "two")
    await one.take("siem")
    await one.take("other")
    account = await relays.account("siem")
    await two.queue._bucket.put("destination.siem", dump(replace(account, v=VERSION + 1)))
    await until(lambda: bool(one.logged("queue.record_unreadable")), LIMIT)

    sent = await accept(two)
    await relays.followed()
    assert joined(sent) == await deliver_all(one.live("other"))
    entry = await two.queue._bucket.get("destination.siem")
    assert entry is not None
    with pytest.raises(QueueError, match="newer relay"):
        async with asyncio.timeout(LIMIT):
            await one.queue._roster.store("siem")
            for stored, offset in await one.live("siem").read(10):
                await one.live("siem").settle(fate(stored, offset))
            await one.queue._roster.store("siem")
    assert entry == await two.queue._bucket.get("destination.siem")
