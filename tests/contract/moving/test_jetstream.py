"""What only happens to a queue on NATS JetStream while it is moved."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from relay.errors import Conflict, QueueError, QueueLocked, RelayError
from relay.model import DeadLetter, Position, Reason, Receipt, Response, Settlement
from relay.observe import logs
from relay.queue.base import DeadLetterFilter, Queue
from relay.queue.belongings import Part
from relay.queue.jetstream import moving as jetstream
from relay.queue.jetstream.assets import ensure
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.connect import connect
from relay.queue.jetstream.link import Link, Outgoing
from relay.queue.moving import Moved, Step, Watch, move
from tests.contract.moving.conftest import unwatched
from tests.contract.moving.furniture import RETENTION, attached, purged
from tests.contract.moving.houses import House, JetStreamHouse, SqliteHouse
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, cef, lines
from tests.fakes.nats import NatsServer

BATCHES = 3
Build = Callable[[], JetStreamHouse]


@pytest.fixture
async def old(tmp_path: Path) -> SqliteHouse:
    """Three batches of ten events, owed to one destination."""
    house = SqliteHouse(tmp_path / "relay.db")
    await furnish(house)
    return house


async def furnish(house: House) -> None:
    async with house.queue(FakeClock(NOW)) as queue:
        await attached(queue, "siem")
        for first in range(0, 10 * BATCHES, 10):
            await queue.append([batch(lines(10, first=first))])


@pytest.fixture
def new(streams: Build) -> JetStreamHouse:
    return streams()


async def carry(old: House, new: House, watch: Watch = unwatched) -> Moved:
    async with old.store() as store, new.target() as target:
        return await move(store, target, watch)


@asynccontextmanager
async def opened(house: JetStreamHouse) -> AsyncIterator[Link]:
    """A connection of somebody else."""
    link = await Link.open(await connect(house.config, log=logs.configure("error"), name="test"))
    try:
        yield link
    finally:
        await link.close()


async def drained(queue: Queue) -> list[Position]:
    """Deliver everything to the one destination; the places of what was delivered."""
    (reader,) = queue.readers("siem")
    found = []
    while pieces := await reader.read(1):
        for stored, offset in pieces:
            found += [Position(stored.sequence + index) for index in range(offset, stored.count)]
            start, end = Position(stored.sequence, offset), Position(stored.sequence, stored.count)
            await reader.settle(Settlement(start, end, stored.count - offset, len(stored.body)))
    await queue.flush()
    return found


@pytest.mark.parametrize("broken", range(BATCHES))
async def test_numbers_without_a_batch_stay_without_one(
    old: SqliteHouse, new: JetStreamHouse, broken: int
) -> None:
    """Whoever is owed them books them as corrupt; what is behind them keeps its numbers."""
    first = 1 + 10 * broken
    with closing(sqlite3.connect(old.path)) as connection, connection:
        connection.execute("UPDATE batches SET payload = x'00' WHERE sequence = ?", (first,))

    moved = await carry(old, new)

    assert (moved.missing, moved.events, moved.items[Part.BATCHES]) == (10, 20, 2)
    async with new.queue(FakeClock(NOW)) as queue:
        await attached(queue, "siem")
        delivered = await drained(queue)
        books = queue.books("siem")
        letters = await queue.dead_letters(DeadLetterFilter())
        assert delivered == [Position(n) for n in range(1, 31) if not first <= n < first + 10]
        assert [(each.reason, each.position.sequence, each.count) for each in letters] == [
            (Reason.CORRUPT, first, 10)
        ]
        assert (books.owed, books.delivered, books.dead, books.backlog) == (30, 20, 10, 0)
        assert queue.stats().quarantined_bodies == 0
        await queue.append([batch(lines(1, first=77))])
        assert await drained(queue) == [Position(31)]


async def test_messages_that_vanished_let_nobody_pass_over_an_event(
    streams: Build, tmp_path: Path, nats_server: NatsServer
) -> None:
    """Somebody deleted one by hand: counted from the beginning, everything behind it would move up."""
    old = streams()
    await furnish(old)
    async with old.queue(FakeClock(NOW)) as queue:
        await attached(queue, "siem")
        assert len(await drained(queue)) == 30
        await queue.append([batch(lines(5, first=50))])
    answer = await nats_server.api(f"STREAM.MSG.DELETE.{old.stream}", {"seq": 2})
    assert answer.get("success"), answer

    moved = await carry(old, new := SqliteHouse(tmp_path / "new.db"))

    assert moved.missing == 10
    async with new.queue(FakeClock(NOW)) as queue_there:
        await attached(queue_there, "siem")
        assert await drained(queue_there) == [Position(n) for n in range(31, 36)]
        books = queue_there.books("siem")
        assert (books.owed, books.delivered, books.dead, books.backlog) == (35, 35, 0, 0)


async def test_a_batch_too_large_for_a_message_is_cut(tmp_path: Path, new: JetStreamHouse) -> None:
    """Its events keep their ids, also twins on both sides of the cut, and a second copy is recognised."""
    old = SqliteHouse(tmp_path / "relay.db")
    many = batch([cef(1), *lines(5000, first=10), cef(1)])
    async with old.queue(FakeClock(NOW)) as queue:
        await attached(queue, "siem")
        await queue.append([many])

    moved = await carry(old, new)

    assert moved.items[Part.BATCHES] == 1
    async with new.queue(FakeClock(NOW)) as queue:
        (reader,) = await attached(queue, "siem")
        events = [stored.event(n) for stored, _ in await reader.read(9000) for n in range(stored.count)]
        assert [event.line for event in events] == many.lines
        assert events[-1].id == f"{events[0].id}-1"
        assert (await queue.append([many])).accepted == 0


@pytest.mark.parametrize("back", [False, True], ids=["there", "and-back"])
async def test_events_without_a_time_are_remembered_as_well(
    tmp_path: Path, new: JetStreamHouse, back: bool
) -> None:
    """Each is looked for under a hash of itself, by both kinds of queue the same one."""
    clock = FakeClock(NOW)
    old: House = SqliteHouse(tmp_path / "relay.db")
    async with old.queue(clock) as queue:
        await queue.append([batch([*lines(20), b"neither", *lines(5000, first=30), b"nor"])])
        clock.jump(2 * RETENTION)
        await purged(queue, clock)

    moved = await carry(old, new)
    at: House = new
    if back:
        await carry(new, at := SqliteHouse(tmp_path / "back.db"))

    assert (moved.items[Part.BATCHES], moved.items[Part.REMEMBERED]) == (0, 1)
    async with at.queue(clock) as queue:
        assert await queue.append([batch([b"nor", cef(9000), b"neither"])]) == Receipt(1, 2)
        assert await queue.append([batch(lines(5000, first=30))]) == Receipt(0, 5000)


async def test_a_relay_does_not_open_what_has_not_wholly_arrived(
    old: SqliteHouse, new: JetStreamHouse
) -> None:
    """Started on half a queue, it would never deliver the other half; on the whole one it starts."""

    with pytest.raises(_BrokenOffError):
        await carry(old, new, break_off_at(Step.CHECK, Part.QUARANTINED))

    with pytest.raises(QueueError, match="queue migrate"):
        async with new.queue(FakeClock(NOW)):
            pass
    with pytest.raises(QueueError, match="queue migrate"):
        await carry(new, old)
    assert (await carry(old, new)).resumed
    async with new.queue(FakeClock(NOW)) as queue:
        assert queue.books("siem").backlog == 30


class _BrokenOffError(Exception):
    pass


def break_off_at(step: Step, part: Part) -> Watch:
    def watch(at: Step, of: Part, done: int, total: int) -> None:
        if (at, of) == (step, part):
            raise _BrokenOffError

    return watch


async def test_what_a_dead_relay_left_is_no_relay(
    old: SqliteHouse, new: JetStreamHouse, streams: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last heartbeat stays for two minutes; nobody has to wait for so long."""
    monkeypatch.setattr(jetstream, "LEASE_TTL", 0.5)
    await carry(old, new)
    async with opened(new) as link:
        await Bucket(link, f"{new.stream}-state").put("replica.dead", b"{}")

    moved = await carry(new, streams())

    assert moved.events == 30


@pytest.mark.parametrize("beats", [1, 2])
async def test_a_relay_that_gives_a_sign_of_life_is_one(
    old: SqliteHouse, new: JetStreamHouse, streams: Build, monkeypatch: pytest.MonkeyPatch, beats: int
) -> None:
    """Also one that starts while the queue is moved: it is found out before the new queue is one."""
    monkeypatch.setattr(jetstream, "LEASE_TTL", 5.0)
    await carry(old, new)
    target = streams()
    async with opened(new) as link:
        bucket = Bucket(link, f"{new.stream}-state")
        living: list[asyncio.Task[None]] = []

        async def live() -> None:
            while True:
                await bucket.put("replica.late", b"{}")

        def watch(step: Step, part: Part, done: int, total: int) -> None:
            if beats == 2 and not living:
                living.append(asyncio.create_task(live()))

        if beats == 1:
            living.append(asyncio.create_task(live()))
            await until_there(bucket)
        with pytest.raises(QueueLocked, match="replica late"):
            await carry(new, target, watch)
        for task in living:
            task.cancel()
        await asyncio.gather(*living, return_exceptions=True)
    with pytest.raises(RelayError, match=r"queue migrate|no queue"):
        async with target.store():
            pass


async def until_there(bucket: Bucket) -> None:
    async with asyncio.timeout(30):
        while await bucket.get("replica.late") is None:
            pass


Meddle = Callable[[Link, str], Awaitable[object]]


async def _publish(link: Link, stream: str) -> None:
    await link.publish(Outgoing(f"{stream}.events.eu.0.0", b"", {}))


async def _bury(link: Link, stream: str) -> None:
    await Bucket(link, f"{stream}-state").put("dead.siem.1", b"")


@pytest.mark.parametrize(("meddle", "part"), [(_publish, Part.BATCHES), (_bury, Part.DEAD_LETTERS)])
async def test_nobody_else_writes_into_the_target(
    tmp_path: Path, new: JetStreamHouse, meddle: Meddle, part: Part
) -> None:
    """What comes in between would get numbers and books of events that are still to come."""
    old = SqliteHouse(tmp_path / "relay.db")
    async with old.queue(FakeClock(NOW)) as queue:
        (reader,) = await attached(queue, "siem")
        await queue.append([batch(lines(1))])
        ((stored, _),) = await reader.read(1)
        letter = DeadLetter(Position(1), stored.event(0), Reason.REJECTED, Response("no", 400))
        await reader.settle(Settlement(Position(1), Position(1, 1), dead=(letter,)))

    async with opened(new) as link, old.store() as store, new.target() as target:
        inventory = await store.inventory()
        await target.begin(inventory)
        await meddle(link, new.stream)
        with pytest.raises(Conflict, match="somebody else writes"):
            await target.add([item async for item in store.items(part)])


async def test_the_settings_of_another_queue_are_left_alone(
    old: SqliteHouse, streams: Build, nats_server: NatsServer
) -> None:
    """A mistyped name would otherwise shrink somebody's queue before it is refused."""
    taken = streams()
    await furnish(taken)
    before = (await nats_server.api(f"STREAM.INFO.{taken.stream}"))["config"]
    mistaken = JetStreamHouse(nats_server.url, taken.stream)
    mistaken.config = mistaken.config.model_copy(update={"max_bytes": 1 << 20})

    with pytest.raises(Conflict, match="already"):
        await carry(old, mistaken)

    assert (await nats_server.api(f"STREAM.INFO.{taken.stream}"))["config"] == before


async def test_streams_made_beforehand_are_moved_into(old: SqliteHouse, new: JetStreamHouse) -> None:
    """With `manage: false` somebody else makes them; empty ones are no queue yet."""
    async with opened(new) as link:
        await ensure(link, new.config, log=logs.configure("error"))
    new.config = new.config.model_copy(update={"manage": False})

    assert (await carry(old, new)).events == 30
