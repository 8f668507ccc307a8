"""Both queues against a plain model: random actions, with restarts and crashes in between.

On SQLite a crash is the state of the files at that moment, copied aside and opened anew: what a killed
process leaves behind. (It is not a power cut: the page cache survives. The e2e suite shows by its
system calls that every answer waits for an fsync.) On JetStream the replica that delivers is cut off
and its tasks end, and a new one takes over, while a third one accepts every other request.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.batch import StoredBatch
from relay.config.queue import SqliteQueueConfig
from relay.model import Batch, DeadLetter, Position, Reason, Receipt, Response, Settlement
from relay.queue.base import DeadLetterFilter, Queue, Reader
from relay.queue.dedup import recent
from relay.queue.sqlite import SqliteQueue
from tests.contract.jetstream.relays import Relay, Relays
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, cef
from tests.fakes.nats import NatsServer

T = TypeVar("T")
WEEK = 7 * 86400.0
DESTINATIONS = ("one", "two", "late")


@dataclass
class Owed:
    """What the model knows of a destination."""

    first: int  # index of the first event owed
    settled: set[int] = field(default_factory=set)  # told to the queue in this process
    dead: set[int] = field(default_factory=set)
    outstanding: list[tuple[StoredBatch, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """A choice of what to settle. Plain numbers, used modulo whatever there is to choose from.

    How much a read brings, and how far a crash sets back, depends on what the queue's own tasks have done by
    then. What is drawn must not depend on it, or hypothesis cannot repeat a failure.
    """

    name: int
    which: int
    events: int
    fates: list[int]  # one for each event, 0: refused


PIECE = st.builds(
    Piece,
    name=st.integers(0, 2),
    which=st.integers(0, 5),
    events=st.integers(0, 7),
    fates=st.lists(st.integers(0, 9), min_size=8, max_size=8),
)


class QueueMachine(RuleBasedStateMachine):
    """Events are numbered in the order of acceptance; the queue's own numbers are one higher."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.recent_events, recent._EVENTS = (
            recent._EVENTS,
            12,
        )  # small enough to be left again and again
        self.clock = FakeClock(NOW)
        self.accepted: list[bytes] = []
        self.requests: list[list[bytes]] = []
        self.owed: dict[str, Owed] = {}
        self.made = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    @abstractmethod
    def queue(self) -> Queue:
        """The one that delivers."""

    @abstractmethod
    async def open(self) -> None: ...

    async def append(self, batches: Sequence[Batch]) -> Receipt:
        return await self.queue.append(batches)

    async def pass_(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def take(self, name: str) -> None:
        """Make the destination known and deliver to it."""
        await self.queue.attach(name, "now")
        await self.queue.lease(name)

    @abstractmethod
    async def reopen(self) -> None:
        """End properly and start again; deliver to everything as before."""

    @abstractmethod
    async def die(self) -> None:
        """End from one moment to the next and start again; deliver to everything as before."""

    @abstractmethod
    async def end(self) -> None:
        """Leave nothing behind, opened or not."""

    @initialize()
    def start(self) -> None:
        self.run(self.open())
        for name in DESTINATIONS[:2]:
            self.attach(name)

    def teardown(self) -> None:
        self.run(self.end())
        self.runner.close()
        recent._EVENTS = self.recent_events

    def live(self, name: str) -> Reader:
        return self.queue.readers(name)[0]

    # Intake

    @rule(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3))
    def accept(self, sizes: list[int]) -> None:
        """A request of new events, in one or several batches."""
        request = [cef(self.made + n, at=self.clock.now()) for n in range(sum(sizes))]
        self.made += len(request)
        cut, batches = 0, []
        for size in sizes:
            batches.append(batch(request[cut : cut + size], at=self.clock.now()))
            cut += size
        assert Receipt(len(request), 0) == self.run(self.append(batches))
        self.accepted += request
        self.requests.append(request)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), fresh=st.integers(0, 2))
    def accept_again(self, data: st.DataObject, fresh: int) -> None:
        """Events seen before, in any mixture, with a few new ones among them."""
        pool = sorted(set(self.accepted))
        old = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=6, unique=True))
        new = [cef(self.made + n, at=self.clock.now()) for n in range(fresh)]
        self.made += fresh
        mixed = data.draw(st.permutations([*old, *new]))
        receipt = self.run(self.append([batch(mixed, at=self.clock.now())]))
        assert Receipt(len(new), len(old)) == receipt
        self.accepted += [line for line in mixed if line in new]

    @rule(seconds=st.floats(0.1, 20))
    def time_passes(self, seconds: float) -> None:
        self.run(self.pass_(seconds))

    # Delivery

    @precondition(lambda self: len(self.owed) < len(DESTINATIONS))
    @rule()
    def attach_late(self) -> None:
        self.attach(DESTINATIONS[-1])

    def _name(self, which: int) -> str:
        return sorted(self.owed)[which % len(self.owed)]

    def attach(self, name: str) -> None:
        self.run(self.take(name))
        self.owed[name] = Owed(len(self.accepted))

    @rule(which=st.integers(0, 2), most=st.integers(1, 20))
    def read(self, which: int, most: int) -> None:
        """Whatever is read is the next of what was accepted."""
        self._read(which, most)

    def _read(self, which: int, most: int) -> None:
        name = self._name(which)
        for stored, offset in self.run(self.live(name).read(most)):
            first = stored.sequence - 1
            assert self.accepted[first : first + stored.count] == stored.lines
            self.owed[name].outstanding.append((stored, offset))

    @rule(pieces=st.lists(PIECE, min_size=1, max_size=4))
    def settle(self, pieces: list[Piece]) -> None:
        """Settle some pieces, not always the first, partly or whole, with some fates."""
        for piece in pieces:
            if not any(owed.outstanding for owed in self.owed.values()):
                self._read(piece.name, 10)
            names = sorted(name for name, owed in self.owed.items() if owed.outstanding)
            if names:
                self._settle_a_piece(names[piece.name % len(names)], piece)

    def _settle_a_piece(self, name: str, piece: Piece) -> None:
        owed = self.owed[name]
        which = piece.which % len(owed.outstanding)
        stored, offset = owed.outstanding.pop(which)
        end = offset + 1 + piece.events % (stored.count - offset)
        if end < stored.count:
            owed.outstanding.insert(which, (stored, end))
        refused = [i for i, fate in zip(range(offset, end), piece.fates, strict=False) if fate == 0]
        said = Response("refused", 400)
        letters = tuple(
            DeadLetter(Position(stored.sequence, i), stored.event(i), Reason.REJECTED, said) for i in refused
        )
        self.run(
            self.live(name).settle(
                Settlement(
                    Position(stored.sequence, offset),
                    Position(stored.sequence, end),
                    delivered=end - offset - len(letters),
                    dead=letters,
                )
            )
        )
        first = stored.sequence - 1
        owed.settled |= set(range(first + offset, first + end))
        owed.dead |= {first + i for i in refused}

    @rule(which=st.integers(0, 2))
    def rewind(self, which: int) -> None:
        """What was settled beyond the watermark may be read again; nothing before it is."""
        name = self._name(which)
        self.live(name).rewind()
        self._forget_beyond_watermark(name)

    def _forget_beyond_watermark(self, name: str) -> None:
        owed = self.owed[name]
        watermark = self.live(name).watermark.sequence - 1
        assert set(range(owed.first, watermark)) <= owed.settled
        owed.settled = set(range(owed.first, watermark))
        owed.dead = {n for n in owed.dead if n < watermark}
        owed.outstanding.clear()

    @rule(which=st.integers(0, 2))
    def redrive_and_deliver(self, which: int) -> None:
        """Dead letters sent again are the bytes that were accepted."""
        name = self._name(which)
        waiting = self._dead_in_books(name)
        assert waiting == self.run(self.queue.redrive(DeadLetterFilter(destination=name)))
        if not waiting:
            return
        redrive = self.queue.readers(name)[-1]
        for stored, _ in self.run(redrive.read(1000)):
            assert stored.lines[0] in self.accepted
            start, end = Position(stored.sequence), Position(stored.sequence, 1)
            self.run(redrive.settle(Settlement(start, end, delivered=1)))
        assert redrive.finished
        self.run(redrive.finish())
        self.owed[name].dead = {n for n in self.owed[name].dead if n + 1 >= self._watermark(name)}

    def _watermark(self, name: str) -> int:
        return self.live(name).watermark.sequence

    def _dead_in_books(self, name: str) -> int:
        return len([n for n in self.owed[name].dead if n + 1 < self._watermark(name)])

    # Life

    @rule()
    def restart(self) -> None:
        """A clean restart keeps every watermark."""
        before = {name: self.live(name).watermark for name in self.owed}
        self.run(self.reopen())
        assert before == {name: self.live(name).watermark for name in self.owed}
        for name in self.owed:
            self._forget_beyond_watermark(name)

    @rule()
    def crash(self) -> None:
        """After a crash no watermark is ahead of what was settled, and nothing accepted is missing."""
        self.run(self.die())
        assert set(self.owed) == set(self.queue.destinations())
        for name in self.owed:
            self._forget_beyond_watermark(name)

    # What always holds

    @invariant()
    def books_add_up(self) -> None:
        for name, owed in self.owed.items():
            books = self.queue.books(name)
            assert books.owed == books.delivered + books.filtered + books.dead + books.backlog
            assert books.owed == len(self.accepted) - owed.first
            assert books.dead == self._dead_in_books(name)
            assert books.backlog == len(self.accepted) + 1 - self._watermark(name)

    @invariant()
    def totals_are_right(self) -> None:
        if self.owed:
            assert len(self.accepted) == sum(self.queue.accepted().values())

    @invariant()
    def everything_unsettled_can_be_read(self) -> None:
        for name, owed in self.owed.items():
            expected = set(range(owed.first, len(self.accepted)))
            assert owed.settled <= expected
            assert self.live(name).backlog().events >= len(expected - owed.settled)


class SqliteMachine(QueueMachine):
    """On a file."""

    _queue: SqliteQueue | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.generation = 0

    @property
    def queue(self) -> SqliteQueue:
        assert self._queue is not None
        return self._queue

    async def open(self) -> None:
        config = SqliteQueueConfig(type="sqlite", path=self.folder / f"{self.generation}.db", min_free_disk=0)
        self._queue = await SqliteQueue.open(config, clock=self.clock, deduplicate={"eu": WEEK})

    async def reopen(self) -> None:
        await self.queue.close()
        await self.open()

    async def die(self) -> None:
        old, self.generation = self.generation, self.generation + 1

        def copy(_: object) -> None:
            for suffix in ("", "-wal"):
                source = self.folder / f"{old}.db{suffix}"
                if source.exists():
                    shutil.copy(source, self.folder / f"{self.generation}.db{suffix}")

        # In the writer's own thread: a checkpoint between the two copies would tear them apart.
        await self.queue._writer.submit(copy)
        await self.reopen()

    async def end(self) -> None:
        if self._queue is not None:
            await self._queue.close()
        shutil.rmtree(self.folder)


class JetStreamMachine(QueueMachine):
    """On a nats-server, with one replica that delivers and one that only accepts."""

    server: ClassVar[NatsServer]
    numbers: ClassVar = count(1)

    def __init__(self) -> None:
        super().__init__()
        self.relays = Relays(self.server, f"machine-{next(self.numbers)}")
        self.clock = self.relays.clock
        self.deliverer: Relay | None = None
        self.turn = 0

    @property
    def queue(self) -> Queue:
        assert self.deliverer is not None
        return self.deliverer.queue

    async def open(self) -> None:
        self.deliverer, self.acceptor = await self.relays.add("first", "acceptor")

    async def append(self, batches: Sequence[Batch]) -> Receipt:
        self.turn += 1
        receipt = await (self.queue, self.acceptor.queue)[self.turn % 2].append(batches)
        await self.relays.followed()
        return receipt

    async def pass_(self, seconds: float) -> None:
        await self.relays.pass_(seconds)

    async def take(self, name: str) -> None:
        assert self.deliverer is not None
        await self.deliverer.take(name)

    async def reopen(self) -> None:
        assert self.deliverer is not None
        await self.deliverer.close()
        await self._begin_anew(seconds=0)

    async def die(self) -> None:
        assert self.deliverer is not None
        await self.deliverer.kill()
        await self._begin_anew(seconds=7)

    async def _begin_anew(self, *, seconds: float) -> None:
        [self.deliverer] = await self.relays.add(f"deliverer-{next(self.numbers)}")
        taking = [self.deliverer.start_taking(name) for name in self.owed]
        await self.pass_(seconds)
        await asyncio.gather(*taking)

    async def end(self) -> None:
        await self.relays.__aexit__(None, None, None)

    @invariant()
    def everybody_shows_the_same(self) -> None:
        """Of what is stored and followed; what the other counted since is in its memory alone."""
        for name in self.owed:
            self.run(self.queue.flush())
            assert self.run(self.relays.books(name)) == self.queue.books(name)


@pytest.fixture(scope="module", autouse=True)
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all examples; each makes streams of its own."""
    JetStreamMachine.server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(JetStreamMachine.server.start())
    yield
    asyncio.run(JetStreamMachine.server.kill())


TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestJetStream = JetStreamMachine.TestCase
TestJetStream.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
