"""Another replica goes on where one stopped, and whoever lost a destination can change nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from relay.model import Hold, HoldReason, Position, RetryState
from relay.queue.base import DeadLetterFilter
from relay.queue.jetstream import holding, tape
from relay.queue.jetstream.record import LeaseLost
from tests.contract.jetstream.relays import LIMIT, Relay, Relays, deliver_all, fate, read_all
from tests.fakes.events import batch, lines
from tests.fakes.nats import NatsServer
from tests.fakes.process import until


@pytest.fixture
async def relays(nats_server: NatsServer, prefix: str) -> AsyncIterator[Relays]:
    """None yet, on streams of their own."""
    async with Relays(nats_server, prefix) as relays:
        yield relays


async def accept(relay: Relay, batches: int, *, first: int = 0, size: int = 5) -> list[bytes]:
    """Batches of *size* events; their lines."""
    found: list[bytes] = []
    for n in range(batches):
        events = lines(size, first=first + n * size)
        receipt = await relay.queue.append([batch(events)])
        assert receipt.accepted == size
        found += events
    return found


async def letters(relay: Relay) -> int:
    """Dead letters in the bucket, counted in the books or not."""
    async with aclosing(relay.queue._bucket.entries("dead")) as entries:
        return len([entry async for entry in entries])


# -- taking over -----------------------------------------------------------------------------


async def test_the_next_one_goes_on_at_the_stored_watermark(relays: Relays) -> None:
    """What a killed holder settled and stored is not sent again, within a batch as well; the rest is."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    sent = await accept(one, 4)
    (first, _), (second, _), *_ = await read_all(reader)
    await reader.settle(fate(first))
    await reader.settle(fate(second, 0, 3))
    waiting = two.start_taking()
    await relays.pass_(6)
    assert not waiting.done()
    await reader.settle(fate(second, 3, 5))  # and dies before this is stored
    await one.kill()
    await relays.pass_(8)
    reader = await waiting

    assert reader.watermark == Position(9)
    assert sent[8:] == await deliver_all(reader)
    books = await relays.books()
    assert (books.owed, books.delivered, books.backlog) == (20, 20, 0)


async def test_a_retry_schedule_goes_on(relays: Relays) -> None:
    """The next holder knows how many attempts were spent and when the next one is due."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    await accept(one, 1)
    await reader.read(10)
    state = RetryState(3, relays.clock.now() + 40)
    await reader.retry_later(state)

    waiting = two.start_taking()
    await relays.pass_(6)
    await one.kill()
    await relays.pass_(8)

    assert (await waiting).retry == state


async def test_a_hold_goes_on(relays: Relays) -> None:
    """A circuit that is open stays open, whoever delivers."""
    one, two = await relays.add("one", "two")
    await one.take()
    hold = Hold(HoldReason.EXHAUSTED, relays.clock.now(), "503")
    await one.queue.set_hold("siem", hold)
    waiting = two.start_taking()
    await relays.pass_(6)
    await one.kill()
    await relays.pass_(8)
    await waiting

    assert two.queue.hold("siem") == hold


async def test_a_graceful_end_hands_over_at_once_and_repeats_nothing(relays: Relays) -> None:
    """What is settled is stored with the release, so the next one begins behind it; no time passes."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    sent = await accept(two, 4)
    await relays.followed()
    for stored, offset in (await read_all(reader))[:3]:
        await reader.settle(fate(stored, offset))
    waiting = two.start_taking()
    await relays.pass_(2)

    before = relays.clock.monotonic()
    await one.close()
    async with asyncio.timeout(LIMIT):
        reader = await waiting

    assert relays.clock.monotonic() == before
    assert sent[15:] == await deliver_all(reader)
    books = await relays.books()
    assert (books.delivered, books.backlog) == (20, 0)


@pytest.mark.parametrize("graceful", [True, False])
async def test_acknowledgements_reach_the_end(
    relays: Relays, monkeypatch: pytest.MonkeyPatch, graceful: bool
) -> None:
    """Also for what the last holder had taken from the consumer and never settled."""
    monkeypatch.setattr(tape, "ACK_WAIT", 0.3)  # of the server's own time, in seconds
    one, two = await relays.add("one", "two")
    reader = await one.take()
    await accept(one, 6)
    pieces = await read_all(reader)
    assert len(pieces) == 6
    for stored, offset in pieces[:2]:
        await reader.settle(fate(stored, offset))
    waiting = two.start_taking()
    await relays.pass_(6)
    await (one.close() if graceful else one.kill())
    await relays.pass_(8)
    reader = await waiting

    await accept(two, 2, first=100)
    await deliver_all(reader)
    await two.queue.flush()

    async def swept() -> bool:
        await two.queue._roster.tend()
        return await relays.ack_floor() == await relays.last_seq()

    await until(swept, LIMIT, "the floor reaching the end")
    assert (await relays.books()).backlog == 0


async def test_the_next_holder_reads_from_the_past_and_goes_on_in_the_present(relays: Relays) -> None:
    """What the dead holder took and what came after it are read in the order of the log, each once."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    sent = await accept(one, 3)
    await read_all(reader)
    waiting = two.start_taking()
    await relays.pass_(6)
    await one.kill()
    sent += await accept(two, 3, first=100)
    await relays.pass_(8)
    reader = await waiting
    sent += await accept(two, 3, first=200)

    assert sent == await deliver_all(reader)
    assert await deliver_all(reader) == []


async def test_back_and_forth(relays: Relays) -> None:
    """A destination that changes hands again and again gets everything once."""
    one, two = await relays.add("one", "two")
    got: list[bytes] = []
    sent: list[bytes] = []
    for n in range(6):
        relay, other = (one, two) if n % 2 else (two, one)
        reader = await relay.take()
        sent += await accept(other, 3, first=100 * n)
        await relays.followed()
        for stored, offset in (await read_all(reader))[:2]:
            got += stored.lines[offset:]
            await reader.settle(fate(stored, offset))
        await relay.give_back()
    reader = await one.take()
    got += await deliver_all(reader)

    assert sent == got
    books = await relays.books()
    assert (books.delivered, books.backlog) == (90, 0)


# -- whoever lost it -------------------------------------------------------------------------


async def stale(relays: Relays) -> tuple[Relay, Relay]:
    """One that delivered and was cut off for so long that another one took over."""
    one, two = await relays.add("one", "two")
    await one.take()
    await accept(one, 3)
    await read_all(one.live())
    waiting = two.start_taking()
    await relays.pass_(6)
    await one.cut_off()
    await relays.pass_(9)
    await waiting
    return one, two


async def test_a_stale_holder_is_told(relays: Relays) -> None:
    """Its lease is lost before it is back, for want of heartbeats."""
    one, _ = await stale(relays)

    assert one.leases["siem"].lost.is_set()


async def test_a_stale_holder_books_nothing(relays: Relays) -> None:
    """Neither what it settles nor its retry state nor what it buries is stored."""
    one, two = await stale(relays)
    reader = one.live()
    pieces = await read_all(two.live())
    await one.come_back()
    (first, _), (second, _), _ = pieces

    await reader.settle(fate(first))
    with pytest.raises(LeaseLost):
        await one.queue._roster.store("siem")
    with pytest.raises(LeaseLost):
        await reader.settle(fate(second, refused=(1, 2)))
    with pytest.raises(LeaseLost):
        await reader.retry_later(RetryState(7, relays.clock.now() + 99))
    await one.give_back()

    books = await relays.books()
    assert (books.delivered, books.dead, books.backlog) == (0, 0, 15)
    assert two.live().retry == RetryState()
    assert await letters(two) == 0
    for stored, offset in pieces:
        await two.live().settle(fate(stored, offset))
    assert (await relays.books()).delivered == 15


async def test_what_a_stale_holder_tries_while_it_is_cut_off_comes_to_nothing(relays: Relays) -> None:
    """It buries events again and again until NATS answers, and is told then that it lost the lease."""
    one, two = await stale(relays)
    ((first, _), *_) = await read_all(two.live())
    burying = asyncio.create_task(one.live().settle(fate(first, refused=(1, 2))))
    await relays.pass_(3)
    assert not burying.done()

    await one.come_back()
    await relays.pass_(2)

    with pytest.raises(LeaseLost):
        async with asyncio.timeout(LIMIT):
            await burying
    await one.give_back()
    assert await letters(two) == 0
    assert (await relays.books()).dead == 0


async def test_a_stale_holder_that_gives_back_changes_nothing(relays: Relays) -> None:
    """The release of a lease that is lost neither stores nor takes it from the next one."""
    one, two = await stale(relays)
    await one.come_back()
    await one.give_back()
    await relays.pass_(2)

    assert not two.leases["siem"].lost.is_set()
    account = await relays.account()
    assert account.lease is not None
    assert account.lease.replica == "two"


async def test_a_holder_that_slept_stores_nothing(relays: Relays) -> None:
    """A process that was stopped knows nothing of it when it goes on: its first change is refused."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    await accept(one, 2)
    (first, _), _ = await read_all(reader)
    waiting = two.start_taking()
    await relays.pass_(6)
    # Its loops stand still while the others' time goes on: no heartbeat, no look at its leases.
    await one.queue._stop_tasks()
    one.dead = True  # for `pass_`, which would wait for its heartbeats
    await relays.pass_(8)
    await waiting
    assert not one.leases["siem"].lost.is_set()

    await reader.settle(fate(first))
    with pytest.raises(LeaseLost):
        await one.queue._roster.store("siem")

    await one.queue._link.close()
    await one.proxy.close()
    assert (await relays.books()).delivered == 0


async def test_a_stale_holder_redrives_nothing(relays: Relays) -> None:
    """A dead letter it delivered after it lost the lease stays one."""
    one, two = await relays.add("one", "two")
    reader = await one.take()
    await accept(one, 1)
    ((stored, _),) = await reader.read(10)
    await reader.settle(fate(stored, refused=(0, 1)))
    assert await one.queue.redrive(DeadLetterFilter()) == 2
    _, redrive = one.queue.readers("siem")
    ((letter, _), _) = await redrive.read(10)
    waiting = two.start_taking()
    await relays.pass_(6)
    await one.cut_off()
    await relays.pass_(9)
    await waiting
    await one.come_back()

    with pytest.raises(LeaseLost):
        await redrive.settle(fate(letter))
    await one.give_back()

    books = await relays.books()
    assert (books.delivered, books.dead) == (3, 2)
    _, redrive = two.queue.readers("siem")
    for each, _ in await redrive.read(10):
        await redrive.settle(fate(each))
    await redrive.finish()
    books = await relays.books()
    assert (books.delivered, books.dead) == (5, 0)


async def test_dead_letters_stored_ahead_are_cleared_up(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder killed between two commits of many letters leaves none that nobody counted."""
    monkeypatch.setattr(holding, "_LETTERS_A_COMMIT", 10)
    one, two = await relays.add("one", "two")
    reader = await one.take()
    await accept(one, 1, size=25)
    ((stored, _),) = await reader.read(100)
    commit = one.queue._bucket.commit
    commits = 0

    async def dies(changes: object) -> int:
        nonlocal commits
        commits += 1
        if commits == 3:
            await one.proxy.close()
        return await commit(changes)  # type: ignore[arg-type] # passed through

    monkeypatch.setattr(one.queue._bucket, "commit", dies)
    settling = asyncio.create_task(reader.settle(fate(stored, refused=range(25))))
    await until(lambda: commits >= 3, LIMIT)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await one.kill()
    assert await letters(two) == 20
    waiting = two.start_taking()
    await relays.pass_(14)
    reader = await waiting

    assert await letters(two) == 0
    ((stored, _),) = await reader.read(100)
    await reader.settle(fate(stored, refused=(3,)))
    books = await relays.books()
    assert (books.delivered, books.dead) == (24, 1)
    assert len(await two.queue.dead_letters(DeadLetterFilter())) == 1
