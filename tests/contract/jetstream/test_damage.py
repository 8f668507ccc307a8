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
from relay.model import Reason, Receipt
from relay.queue.base import DeadLetterFilter
from relay.queue.jetstream import by_sequence, fetch, log, tape
from relay.queue.jetstream.link import Link, Outgoing
from relay.queue.jetstream.record import VERSION, LeaseLost, dump
from tests.contract.jetstream.relays import LIMIT, Relay, Relays, deliver_all, fate, read_all
from tests.fakes.events import NOW, batch, lines
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
async def alone(own_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Relays]:
    """Replicas on a server that the test may do anything to."""
    monkeypatch.setattr(by_sequence, "ATTEMPTS", 3)  # to wait for a leader that is not quite up to date
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


async def test_what_others_accepted_is_counted_after_a_false_alarm(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader of yesterday tells of a shorter stream, just when our own acknowledgements came first.

    It cannot prove it, so nothing is given away, and what lies between is still to be followed.
    """
    one, two = await relays.add("one", "two")
    await accept(one)
    await relays.followed()
    before = await relays.last_seq()
    true_last_sequence = by_sequence.last_sequence

    async def behind(*_: object) -> int:
        await accept(one, first=100)
        await accept(two, first=200)
        raise QueueError("nobody answers")

    async def stale(*_: object) -> int:
        return before

    said = [behind, stale]

    async def last_sequence(link: Link, stream: str, *, known: int) -> int:
        if link is two.queue._link and said:
            return await said.pop(0)(link, stream)
        return await true_last_sequence(link, stream, known=known)

    monkeypatch.setattr(log, "last_sequence", last_sequence)
    found = await relays.server.api(f"CONSUMER.NAMES.{relays.prefix}")
    for name in found["consumers"]:
        await relays.server.api(f"CONSUMER.DELETE.{relays.prefix}.{name}")
    await until(lambda: not said, LIMIT, "the false alarm")
    await relays.followed()

    assert sum(two.queue.accepted().values()) == 3 * SIZE
    assert two.queue.accepted() == one.queue.accepted()
    assert not two.logged("queue.lost_batches")


@pytest.mark.parametrize("by", [0, 1])
async def test_a_retry_of_a_request_that_is_gone_is_stored(relays: Relays, by: int) -> None:
    """The server remembers its message id for two minutes longer, and calls the retry a duplicate."""
    replicas = await relays.add("one", "two")
    reader = await replicas[0].take()
    sent = await accept(replicas[0], 3)
    await relays.server.api(f"STREAM.MSG.DELETE.{relays.prefix}", {"seq": 2})

    assert await replicas[by].queue.append([batch(sent[1])]) == Receipt(SIZE, 0)
    assert await replicas[by].queue.append([batch(sent[1])]) == Receipt(0, SIZE)
    await relays.followed()
    assert joined([sent[0], sent[2], sent[1]]) == await deliver_all(reader)


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
    await relays.ledger_stored()
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


async def consumers(relays: Relays) -> dict[str, dict[str, object]]:
    """Those with a name of their own, which is what a relay's temporary ones have not."""
    found = (await relays.server.api(f"CONSUMER.LIST.{relays.prefix}"))["consumers"]
    return {each["name"]: each for each in found if "durable_name" in each["config"]}


async def all_acknowledged(relays: Relays, relay: Relay) -> None:
    """A consumer is there, and its floor reaches the end of the log."""

    async def reached() -> bool:
        await relay.queue._roster.tend()
        return "siem" in await consumers(relays) and await relays.ack_floor() == await relays.last_seq()

    await relay.queue.flush()
    await until(reached, LIMIT, "everything being acknowledged")


async def test_a_consumer_deleted_while_in_use_is_made_again(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that finds it gone goes on with a new one, with the lease it has; nothing is passed over."""
    monkeypatch.setattr(fetch, "ATTEMPTS", 3)
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one, 2)
    assert joined(sent) == await deliver_all(reader)
    await relays.server.api(f"CONSUMER.DELETE.{relays.prefix}.siem")
    sent = await accept(one, 2, first=100)

    assert joined(sent) == await deliver_all(reader)
    assert not one.leases["siem"].lost.is_set()
    sent = await accept(one, 2, first=200)
    assert joined(sent) == await deliver_all(reader)
    books = await relays.books()
    assert (books.delivered, books.backlog) == (6 * SIZE, 0)
    await all_acknowledged(relays, one)


async def test_a_consumer_deleted_with_messages_in_hand(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read and not settled is neither read twice nor lost, and acknowledged to the new one."""
    monkeypatch.setattr(fetch, "ATTEMPTS", 3)
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one, 4)
    (first, _), *rest = await read_all(reader)
    await reader.settle(fate(first))
    await one.queue.flush()
    await relays.server.api(f"CONSUMER.DELETE.{relays.prefix}.siem")
    sent += await accept(one, 3, first=100)

    rest += await read_all(reader)
    assert joined(sent) == [line for stored, _ in [(first, 0), *rest] for line in stored.lines]
    for stored, _ in rest:
        await reader.settle(fate(stored))
    assert (await relays.books()).delivered == 7 * SIZE
    await all_acknowledged(relays, one)


async def test_a_consumer_deleted_while_nothing_comes(relays: Relays) -> None:
    """Upkeep finds it gone before somebody needs it."""
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one, 2)
    assert joined(sent) == await deliver_all(reader)
    await one.queue.flush()
    await relays.server.api(f"CONSUMER.DELETE.{relays.prefix}.siem")

    await all_acknowledged(relays, one)


async def test_a_consumer_that_cannot_be_made_stops_nobody(relays: Relays) -> None:
    """NATS may allow no more of them; events are read from the stream itself, and it is said why."""
    [one] = await relays.add("one")
    settings = (await relays.server.api(f"STREAM.INFO.{relays.prefix}"))["config"]
    await one.queue.attach("siem", "now")
    present = (await relays.server.api(f"STREAM.INFO.{relays.prefix}"))["state"]["consumer_count"]
    limited = {**settings, "max_consumers": present}
    if "error" in await relays.server.api(f"STREAM.UPDATE.{relays.prefix}", limited):
        pytest.fail("the limit could not be set")
    reader = await one.take()
    sent = await accept(one, 3)

    assert joined(sent) == await deliver_all(reader)
    [told] = one.logged("queue.no_consumer")
    assert "maximum consumers limit reached" in str(told["detail"])


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
    await make_consumer(relays)
    relays.settings["manage"] = False
    [one] = await relays.add("one")
    reader = await one.take()
    sent = await accept(one, 3)

    assert joined(sent) == await deliver_all(reader)
    await relays.settled()
    assert await relays.ack_floor() == 3
    await one.queue.forget("siem")
    assert "error" not in await relays.server.api(f"CONSUMER.INFO.{relays.prefix}.siem")


async def make_consumer(relays: Relays) -> None:
    """As whoever manages NATS does."""
    consumer = {"durable_name": "siem", "ack_policy": "explicit", "deliver_policy": "all"}
    answer = await relays.server.api(
        f"CONSUMER.CREATE.{relays.prefix}.siem", {"stream_name": relays.prefix, "config": consumer}
    )
    assert "error" not in answer


async def unmanaged(relays: Relays) -> Relay:
    """A relay that may make nothing, on streams that are there."""
    [maker] = await relays.add("maker")
    await maker.close()
    relays.settings["manage"] = False
    [one] = await relays.add("one")
    return one


async def test_a_missing_consumer_is_told_once_and_done_without(relays: Relays) -> None:
    """Unmanaged, it is somebody else's to make; until then the stream itself is read, with one lease."""
    one = await unmanaged(relays)
    reader = await one.take()
    sent = await accept(one, 3)
    await relays.pass_(25)  # longer than it takes to look for it again

    assert joined(sent) == await deliver_all(reader)
    [told] = one.logged("queue.no_consumer")
    assert "has no consumer siem, and `queue.manage` is false" in str(told["detail"])
    assert (await relays.account()).epoch == 1
    assert one.logged("lease.unprepared") == []

    await make_consumer(relays)
    sent = await accept(one, 2, first=100)
    await one.queue._roster.tend()
    assert joined(sent) == await deliver_all(reader)
    assert len(one.logged("queue.consumer_found")) == 1
    await all_acknowledged(relays, one)
    assert (await relays.books()).delivered == 5 * SIZE


async def test_an_unmanaged_consumer_deleted_while_in_use(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and not made: delivery goes on without."""
    monkeypatch.setattr(fetch, "ATTEMPTS", 3)
    one = await unmanaged(relays)
    await make_consumer(relays)
    reader = await one.take()
    sent = await accept(one, 2)
    assert joined(sent) == await deliver_all(reader)
    await relays.server.api(f"CONSUMER.DELETE.{relays.prefix}.siem")
    sent = await accept(one, 3, first=100)

    assert joined(sent) == await deliver_all(reader)
    assert len(one.logged("queue.no_consumer")) == 1
    assert await consumers(relays) == {}
    assert (await relays.books()).delivered == 5 * SIZE


async def test_an_unmanaged_replay_is_read_beside_the_live_reader(relays: Relays) -> None:
    """It needs no consumer, which nobody could have made for it, and the next holder goes on with both."""
    one = await unmanaged(relays)
    await make_consumer(relays)
    reader = await one.take()
    sent = await accept(one, 4)
    assert joined(sent) == await deliver_all(reader)

    await one.queue.replay("siem", NOW - 1, NOW + 1, None)
    later = await accept(one, 2, first=100)
    live, replay = one.queue.readers("siem")
    assert joined(later) == await deliver_all(live)
    ((first, _), *_) = await replay.read(1)
    await replay.settle(fate(first))
    await one.close()
    [two] = await relays.add("two")
    await two.take()
    live, replay = two.queue.readers("siem")
    later = await accept(two, 2, first=200)

    assert joined(sent)[SIZE:] == await deliver_all(replay)
    assert joined(later) == await deliver_all(live)
    await replay.finish()
    books = await relays.books()
    assert (books.delivered, books.replayed, books.backlog) == (8 * SIZE, 4 * SIZE, 0)
    assert list(await consumers(relays)) == ["siem"]


async def test_an_unmanaged_back_fill(relays: Relays) -> None:
    """A destination added later gets what is retained, and what comes."""
    one = await unmanaged(relays)
    sent = await accept(one, 4)
    await make_consumer(relays)
    await one.take(start="earliest")
    later = await accept(one, 2, first=100)
    live, fill = one.queue.readers("siem")

    assert joined(later) == await deliver_all(live)
    assert joined(sent) == await deliver_all(fill)
    await fill.finish()
    books = await relays.books()
    assert (books.delivered, books.backlog) == (6 * SIZE, 0)


# -- state -----------------------------------------------------------------------------------


async def test_a_deleted_ledger_is_written_again(relays: Relays) -> None:
    """As long as nothing was purged the log itself says the same."""
    one, two = await relays.add("one", "two")
    await one.take()
    await accept(one, 3)
    await relays.ledger_stored()

    await one.queue._bucket.delete("ledger")
    await accept(two, 2, first=100)
    await relays.followed()
    await relays.ledger_stored()

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
    ((stored, _),) = await one.live("siem").read(10)
    await one.live("siem").settle(fate(stored))
    with pytest.raises(QueueError, match="newer relay"):
        await one.queue._roster.store("siem")
    assert entry is not None
    assert entry == await two.queue._bucket.get("destination.siem")


# -- servers ---------------------------------------------------------------------------------


class Backup:
    """An older state of a server's streams, to be put back: what power loss leaves of a cluster."""

    def __init__(self, relays: Relays, *streams: str) -> None:
        self._relays = relays
        self._server = relays.server
        self._streams = streams
        self._copy = self._server.folder.with_name("backup")

    async def make(self) -> None:
        await self._stop()
        shutil.copytree(self._server.folder, self._copy)
        await self._server.start()
        await together(self._relays)

    async def put_back(self) -> None:
        """Leaves the server stopped."""
        await self._stop()
        for stream in self._streams:
            (now,) = self._server.folder.glob(f"**/streams/{stream}")
            (then,) = self._copy.glob(f"**/streams/{stream}")
            shutil.rmtree(now)
            shutil.copytree(then, now)

    async def _stop(self) -> None:
        """Until everybody has noticed: a connection to the old server looks like one to the next."""
        await self._server.stop()
        await until(lambda: not any(each.connected for each in self._relays.alive()), LIMIT, "noticing it")


async def together(relays: Relays, *some: Relay) -> None:
    """Everybody, or *some*, are connected again and were heard."""
    alive = some or relays.alive()
    await until(lambda: all(relay.connected for relay in alive), LIMIT, "connecting again")
    await relays.clock.advance(1)
    await relays.pass_(0)


async def leased(relays: Relays, *candidates: Relay) -> Relay:
    """Whoever has the destination in the end; workers wait for it everywhere, release it when it is lost."""
    for relay in candidates:
        lease = relay.leases.get("siem")
        if lease is not None and lease.lost.is_set():
            await relay.give_back()
    for relay in candidates:
        if "siem" not in relay.leases:
            relay.start_taking()
    await relays.pass_(8)

    def holders() -> list[Relay]:
        leases = [(relay, relay.leases.get("siem")) for relay in candidates]
        return [relay for relay, lease in leases if lease is not None and not lease.lost.is_set()]

    await until(lambda: bool(holders()), LIMIT, "somebody having the lease")
    (holder,) = holders()
    return holder


async def test_a_restart_of_nats_interrupts_and_nothing_else(
    alone: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading, settling and appending go on where they were; nothing is repeated, nobody is replaced."""
    one, two = await alone.add("one", "two")
    reader = await one.take()
    sent = await accept(one, 3)
    (first, _), *_ = await read_all(reader)
    await reader.settle(fate(first))

    await alone.server.stop()
    with monkeypatch.context() as impatient:
        impatient.setattr(log, "_MEET_SECONDS", 0.5)
        with pytest.raises(QueueError):
            await one.queue.flush()
        with pytest.raises(QueueError):
            await one.queue.append([batch(lines(1, first=900))])
    await alone.server.start()
    await together(alone)

    sent += await accept(two, 3, first=100)
    await alone.followed()
    assert not one.leases["siem"].lost.is_set()
    reader.rewind()
    assert joined(sent[1:]) == await deliver_all(reader)
    books = await alone.books()
    assert (books.owed, books.delivered, books.backlog) == (30, 30, 0)


async def test_a_request_under_way_while_nats_restarts_is_answered_truthfully(alone: Relays) -> None:
    """What was answered is there; what failed may be there, and is recognised when it comes again."""
    [one] = await alone.add("one")
    reader = await one.take()
    requests = [lines(SIZE, first=SIZE * n) for n in range(60)]

    async def send(events: list[bytes]) -> bool:
        try:
            await one.queue.append([batch(events)])
        except QueueError:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        first = [group.create_task(send(each)) for each in requests[:30]]
        await asyncio.sleep(0)
        restart = group.create_task(alone.server.kill())
        second = [group.create_task(send(each)) for each in requests[30:]]
        await restart
        await alone.server.start()
    answered = [task.result() for task in (*first, *second)]
    await together(alone)
    for events, stored in zip(requests, answered, strict=True):
        if not stored:
            assert await send(events)

    assert sorted(joined(requests)) == sorted(await deliver_all(reader))
    books = await alone.books()
    assert (books.owed, books.delivered) == (300, 300)


@pytest.mark.parametrize("settled", [True, False])
async def test_what_the_cluster_forgot_is_booked_while_relays_run(alone: Relays, settled: bool) -> None:
    """Dead letters and a gap stand for it, and what is accepted afterwards is delivered and counted."""
    one, two = await alone.add("one", "two")
    reader = await one.take()
    await accept(one, 3)
    await deliver_all(reader)
    await alone.settled()
    await alone.pass_(2)
    backup = Backup(alone, "relay")
    await backup.make()
    gone = await accept(two, 2, first=100)
    await alone.followed()
    assert len(await read_all(reader)) == 2
    reader.rewind()
    if settled:
        await deliver_all(reader)
        await alone.settled()
    await alone.pass_(2)

    await backup.put_back()
    await alone.server.start()
    await together(alone)
    sent = await accept(two, 4, first=200)
    sent += [events for events in gone if (await two.queue.append([batch(events)])).accepted]
    await alone.followed()

    assert joined(sent) == await deliver_all(reader)
    assert len(sent) == 6  # also those Konnect sends again are new
    assert {gap.cause for gap in await one.queue.gaps()} == {"lost by the cluster"}
    books = await alone.books()
    lost = 0 if settled else 10
    assert (books.owed, books.delivered, books.dead, books.backlog) == (55, 55 - lost, lost, 0)
    assert sum(await corrupt(one)) == lost
    assert one.queue.accepted() == two.queue.accepted()
    await alone.pass_(3)
    for relay in (one, two):
        await relay.close()
    [three] = await alone.add("three")
    await leased(alone, three)
    assert await alone.books() == books


async def test_a_holder_that_dies_with_the_cluster_leaves_nothing_to_be_skipped(alone: Relays) -> None:
    """Whoever takes over begins where the stream ends now, in the middle of a lost batch as well."""
    one, two = await alone.add("one", "two")
    reader = await one.take()
    await accept(one, 3)
    await deliver_all(reader)
    await alone.pass_(2)
    backup = Backup(alone, "relay")
    await backup.make()
    await accept(two, 1, first=100)
    await alone.followed()
    ((stored, _),) = await read_all(reader)
    await reader.settle(fate(stored, 0, 3))
    await alone.settled()
    await alone.pass_(2)
    await backup.put_back()
    await one.kill()
    await alone.server.start()
    await together(alone)

    holder = await leased(alone, two)
    sent = await accept(two, 2, first=200)

    assert joined(sent) == await deliver_all(holder.live())
    books = await alone.books()
    assert (books.owed, books.delivered, books.dead, books.backlog) == (30, 28, 2, 0)


async def test_a_holder_whose_account_went_back_in_time_stops(alone: Relays) -> None:
    """What it counted since is not in the account any more: whoever goes on begins with what is there."""
    [one] = await alone.add("one")
    reader = await one.take()
    backup = Backup(alone, "KV_relay-state")
    await backup.make()
    await accept(one, 2)
    ((stored, _), _) = await read_all(reader)
    await reader.settle(fate(stored))
    await one.queue.flush()
    await backup.put_back()
    await alone.server.start()
    await until(lambda: one.connected, LIMIT, "connecting again")

    await until(one.queue._log.met.is_set, LIMIT, "going on")
    reader.rewind()
    ((stored, _),) = await read_all(reader)
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(LIMIT):
            await reader.settle(fate(stored, refused=(0,)))
    assert one.leases["siem"].lost.is_set()


@pytest.mark.parametrize("streams", [("KV_relay-state",), ("relay", "KV_relay-state")])
async def test_state_that_went_back_in_time_is_taken_as_it_is(
    alone: Relays, streams: tuple[str, ...]
) -> None:
    """Delivery goes on from the older watermark, whoever holds the lease now, and the books add up."""
    one, two = await alone.add("one", "two")
    reader = await one.take()
    sent = await accept(one, 3)
    await alone.followed()
    for stored, offset in (await read_all(reader))[:1]:
        await reader.settle(fate(stored, offset))
    await alone.settled()
    await alone.pass_(2)
    backup = Backup(alone, *streams)
    await backup.make()
    gone = await accept(two, 2, first=100)
    await alone.followed()
    reader.rewind()
    await deliver_all(reader)
    await alone.settled()
    await alone.pass_(5)
    await backup.put_back()
    await alone.server.start()
    await together(alone)

    holder = await leased(alone, one, two)
    later = await accept(two, 2, first=200)
    await alone.followed()
    kept = gone if "relay" not in streams else []

    assert joined(sent[1:] + kept + later) == await deliver_all(holder.live())
    books = await alone.books()
    lost = 10 if "relay" in streams else 0
    assert (books.owed, books.delivered, books.dead, books.backlog) == (35, 35 - lost, lost, 0)
    await alone.pass_(3)


async def test_state_that_went_back_in_time_is_found_out_by_whoever_comes_back_last(alone: Relays) -> None:
    """By then the others have written, and given away the numbers of what was lost once more."""
    one, two = await alone.add("one", "two")
    reader = await one.take()
    sent = await accept(one, 3)
    ((stored, _), *_) = await read_all(reader)
    await reader.settle(fate(stored))
    await alone.settled()
    await alone.pass_(2)
    backup = Backup(alone, "KV_relay-state")
    await backup.make()
    reader.rewind()
    await deliver_all(reader)
    await alone.settled()
    await alone.pass_(5)
    await one.cut_off()
    await backup.put_back()
    await alone.server.start()
    await together(alone, two)
    lost = one.queue._accounts.revision("siem")
    while await two.queue._bucket.put("ping", b"") < lost:
        pass

    await one.come_back()
    holder = await leased(alone, one, two)

    assert joined(sent[1:]) == await deliver_all(holder.live())
    books = await alone.books()
    assert (books.owed, books.delivered, books.backlog) == (15, 15, 0)


LOST = [("relay",), ("KV_relay-state",), ("relay", "KV_relay-state")]


@pytest.mark.parametrize("streams", LOST)
async def test_what_the_cluster_forgot_while_no_relay_ran(alone: Relays, streams: tuple[str, ...]) -> None:
    """New replicas find the same books, and deliver what is accepted from then on."""
    [one] = await alone.add("one")
    reader = await one.take()
    await accept(one, 3)
    await deliver_all(reader)
    await alone.settled()
    await alone.pass_(2)
    backup = Backup(alone, *streams)
    await backup.make()
    await accept(one, 2, first=100)
    ((stored, _), *_) = await read_all(reader)
    await reader.settle(fate(stored))
    await one.close()

    await backup.put_back()
    await alone.server.start()
    two, three = await alone.add("two", "three")
    reader = (await leased(alone, two)).live()
    sent = await accept(three, 4, first=200)
    await alone.followed()

    got = await deliver_all(reader)
    assert set(joined(sent)) <= set(got)
    books = await alone.books()
    assert books.backlog == 0
    assert books.owed == books.delivered + books.dead


async def test_appending_while_the_loss_is_found_out(alone: Relays) -> None:
    """Requests that come the moment NATS is back are neither skipped nor counted twice by anybody."""
    one, two = await alone.add("one", "two")
    reader = await one.take()
    await accept(one, 3)
    await deliver_all(reader)
    await alone.settled()
    await alone.pass_(2)
    backup = Backup(alone, "relay")
    await backup.make()
    await accept(two, 2, first=100)
    await alone.followed()
    await deliver_all(reader)
    await alone.settled()
    await backup.put_back()

    async def send(relay: Relay, first: int) -> list[bytes]:
        events = lines(SIZE, first=first)
        while True:
            try:
                await relay.queue.append([batch(events)])
            except QueueError:
                await asyncio.sleep(0.01)
            else:
                return events

    async with asyncio.TaskGroup() as group:
        sending = [group.create_task(send(relay, 1000 + 100 * n)) for n, relay in enumerate([one, two] * 8)]
        await alone.server.start()
    sent = [task.result() for task in sending]
    await together(alone)
    await alone.followed()
    holder = await leased(alone, one, two)

    assert sorted(joined(sent)) == sorted(await deliver_all(holder.live()))
    books = await alone.books()
    assert (books.owed, books.delivered, books.dead, books.backlog) == (105, 105, 0, 0)
    assert one.queue.accepted() == two.queue.accepted()
