"""Any replica shows the whole relay and takes orders for it; whoever delivers follows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from itertools import chain

import pytest

from relay.errors import NotFound
from relay.model import Hold, HoldReason, ReaderKind, Receipt, Replica
from relay.queue.base import DeadLetterFilter
from tests.contract.jetstream.relays import LIMIT, Relay, Relays, deliver_all, fate, read_all
from tests.fakes.events import NOW, batch, lines, restamped
from tests.fakes.nats import NatsServer
from tests.fakes.process import until


@pytest.fixture
async def relays(nats_server: NatsServer, prefix: str) -> AsyncIterator[Relays]:
    """None yet, on streams of their own."""
    async with Relays(nats_server, prefix) as relays:
        yield relays


async def accept(relay: Relay, count: int, *, first: int = 0) -> list[bytes]:
    """One batch of so many events; its lines."""
    events = lines(count, first=first)
    assert await relay.queue.append([batch(events)]) == Receipt(count, 0)
    return events


# -- orders ----------------------------------------------------------------------------------


async def test_a_hold_given_to_any_replica_is_in_force_everywhere(relays: Relays) -> None:
    """Whoever delivers hears of it without having asked, and of its end."""
    one, two = await relays.add("one", "two")
    await one.take()
    hold = Hold(HoldReason.OPERATOR, NOW, "moving house")
    mark = await one.queue.append_wait(0)

    await two.queue.set_hold("siem", hold)
    async with asyncio.timeout(LIMIT):
        while one.queue.hold("siem") is None:
            mark = await one.queue.append_wait(mark)
    assert one.queue.hold("siem") == two.queue.hold("siem") == hold

    await two.queue.set_hold("siem", None)
    await until(lambda: one.queue.hold("siem") is None, LIMIT)


async def test_an_operators_hold_stands_against_what_the_holder_concludes(relays: Relays) -> None:
    """A probe that succeeded before the order was known there, and is stored after it, does not lift it."""
    one, two = await relays.add("one", "two")
    await one.take()
    await one.queue.set_hold("siem", Hold(HoldReason.EXHAUSTED, NOW, "503"))
    await relays.settled()
    operators = Hold(HoldReason.OPERATOR, NOW, "moving house")

    one.queue._roster._holdings["siem"].hold = None
    await two.queue.set_hold("siem", operators)
    await relays.settled()

    assert one.queue.hold("siem") == two.queue.hold("siem") == operators


async def test_a_replay_ordered_anywhere_is_read_by_the_holder(relays: Relays) -> None:
    """It appears beside the live reader while that goes on, and is gone everywhere when it is through."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    sent = await accept(one, 4)
    await deliver_all(reader)
    await relays.settled()

    info = await two.queue.replay("siem", NOW - 1, NOW + 1, None)
    await until(lambda: len(one.queue.readers("siem")) == 2, LIMIT)
    live, replay = one.queue.readers("siem")
    later = await accept(two, 2, first=100)
    await relays.followed()

    assert (replay.kind, replay.id, info.total) == (ReaderKind.REPLAY, info.id, 4)
    assert sent == await deliver_all(replay)
    assert later == await deliver_all(live)
    await replay.finish()
    books = await relays.books()
    assert (books.delivered, books.replayed) == (6, 4)
    assert [len(relay.queue.readers("siem")) for relay in (one, two)] == [1, 1]


async def test_dead_letters_are_seen_redriven_and_discarded_from_anywhere(relays: Relays) -> None:
    """The holder sends what another replica was told to send again."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    sent = await accept(two, 4)
    await relays.followed()
    ((stored, _),) = await reader.read(10)
    await reader.settle(fate(stored, refused=(0, 1, 2)))
    await relays.settled()

    found = await two.queue.dead_letters(DeadLetterFilter(destination="siem"))
    assert found == await one.queue.dead_letters(DeadLetterFilter(destination="siem"))
    assert [letter.event.line for letter in found if letter.event] == sent[:3]
    assert await two.queue.discard(DeadLetterFilter(ids=(found[0].id,))) == 1
    assert await two.queue.redrive(DeadLetterFilter(destination="siem")) == 2
    await until(lambda: len(one.queue.readers("siem")) == 2, LIMIT)
    _, redrive = one.queue.readers("siem")
    for each, _ in await redrive.read(10):
        await redrive.settle(fate(each))
    await redrive.finish()

    books = await relays.books()
    assert (books.owed, books.delivered, books.dead, books.discarded) == (4, 3, 1, 1)
    assert list(await two.queue.dead_letters(DeadLetterFilter())) == []


async def test_a_destination_forgotten_elsewhere_is_given_up_at_once(relays: Relays) -> None:
    """Its holder is told, can store nothing more, leaves nothing behind; coming back, it is new."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    await accept(one, 3)
    await read_all(reader)
    inboxes = len(one.queue._link.inboxes)

    await two.queue.forget("siem")
    await until(one.leases["siem"].lost.is_set, LIMIT, "the holder being told")
    await one.give_back()

    assert len(one.queue._link.inboxes) == inboxes - 1
    assert list(one.queue.destinations()) == list(two.queue.destinations()) == []
    with pytest.raises(NotFound):
        one.queue.books("siem")
    reader = await two.take()
    books = await relays.books()
    assert (books.owed, books.backlog) == (0, 0)
    sent = await accept(one, 2, first=100)
    await relays.followed()
    assert sent == await deliver_all(reader)


# -- what is shown ---------------------------------------------------------------------------


async def test_both_replicas_show_the_same_books(relays: Relays) -> None:
    """Whoever accepted and whoever delivered, and also for a destination nobody delivers to."""
    one, two = await relays.add("one", "two")
    readers = [await one.take("a"), await two.take("b")]
    await one.queue.attach("idle", "now")
    for n in range(4):
        await accept((one, two)[n % 2], 3, first=10 * n)
    await relays.followed()
    for reader in readers:
        for stored, offset in (await read_all(reader))[:3]:
            await reader.settle(fate(stored, offset, refused=(0,)))

    for name, delivered, dead in (("a", 6, 3), ("b", 6, 3), ("idle", 0, 0)):
        books = await relays.books(name)
        assert (books.owed, books.delivered, books.dead) == (12, delivered, dead)
    assert one.queue.accepted() == two.queue.accepted()
    assert one.queue.last_received() == two.queue.last_received() == {"eu": NOW}
    assert one.queue.reader_infos() == two.queue.reader_infos()


async def test_gaps_noted_anywhere_are_shown_everywhere(relays: Relays) -> None:
    """Refusals of several replicas close together are one gap."""
    one, two = await relays.add("one", "two")

    async def shown(refusals: int) -> bool:
        gaps = [await relay.queue.gaps() for relay in (one, two)]
        return gaps[0] == gaps[1] and [gap.refusals for gap in gaps[0]] == [refusals]

    await one.queue.open_gap("eu", NOW, NOW, "429")
    await relays.pass_until(partial(shown, 1), "one gap of a refusal")
    await two.queue.open_gap("eu", NOW + 5, NOW + 5, "429")
    await relays.pass_until(partial(shown, 2), "one gap of two refusals")


async def test_replicas_know_each_other(relays: Relays) -> None:
    """Each describes itself first; one that ended is gone at once."""
    one, two = await relays.add("one", "two")
    for relay in (one, two):
        await relay.queue.announce(Replica(relay.name, "1", "all", NOW, "c"))
    await until(lambda: len(one.queue.replicas()) == 2, LIMIT)
    assert [replica.id for replica in one.queue.replicas()] == ["one", "two"]

    await two.close()

    await until(lambda: [replica.id for replica in one.queue.replicas()] == ["one"], LIMIT)


# -- accepting on several --------------------------------------------------------------------


async def test_everything_accepted_anywhere_is_numbered_alike_and_read_once(relays: Relays) -> None:
    """Whatever the interleaving, numbers have no holes and both replicas have the same ledger."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    requests = [
        [batch(lines(3, first=100 * n)), *([batch(lines(2, first=100 * n + 50))] if n % 3 == 0 else [])]
        for n in range(40)
    ]
    sent = sorted(line for request in requests for each in request for line in each.lines)

    receipts = await asyncio.gather(
        *[(one, two)[n % 2].queue.append(request) for n, request in enumerate(requests)]
    )
    await relays.followed()

    assert sum(receipt.accepted for receipt in receipts) == len(sent)
    assert one.queue._log.ledger.number == two.queue._log.ledger.number == len(sent) + 1
    assert one.queue.accepted() == two.queue.accepted()
    following_number = 1
    got: list[bytes] = []
    for stored, offset in await read_all(reader):
        assert (stored.sequence, offset) == (following_number, 0)
        following_number += stored.count
        got += stored.lines
    assert sent == sorted(got)


async def test_the_same_body_on_both_at_the_same_moment_is_accepted_once(relays: Relays) -> None:
    """Konnect sends a batch again when an answer is late; a load balancer may pick another replica."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    requests = [lines(3, first=10 * n) for n in range(20)]

    receipts = await asyncio.gather(
        *[relay.queue.append([batch(events)]) for events in requests for relay in (one, two)]
    )

    assert sum(receipt.accepted for receipt in receipts) == 60
    assert sum(receipt.duplicates for receipt in receipts) == 60
    await relays.followed()
    assert sorted(chain.from_iterable(requests)) == sorted(await deliver_all(reader))
    assert one.queue.duplicates() == two.queue.duplicates() == {"eu": 60}


async def test_a_replay_cut_differently_and_spread_over_replicas_is_recognised(relays: Relays) -> None:
    """Konnect replays with boundaries of its own and new header times."""
    one, two, three = await relays.add("one", "two", "three")
    await one.take()
    for n in range(6):
        await accept((one, two)[n % 2], 5, first=5 * n)
    await relays.followed()
    again = [restamped(line) for line in lines(33)]

    receipts = [
        await relay.queue.append([batch(again[at : at + 11])])
        for relay, at in ((two, 0), (three, 11), (one, 22))
    ]

    assert receipts == [Receipt(0, 11), Receipt(0, 11), Receipt(3, 8)]
    await relays.followed()
    assert [relay.queue.duplicates() for relay in (one, two, three)] == [{"eu": 30}] * 3
