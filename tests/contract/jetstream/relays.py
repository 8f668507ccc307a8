"""Several complete queues in one process, each on a connection of its own that can be cut, by one clock.

    one, two = await relays.add("one", "two")
    reader = await one.take("siem")           # attach, and wait for the lease
    await one.kill()                          # SIGKILL: nothing more is stored, nobody is told
    waiting = two.start_taking("siem")
    await relays.pass_(7)
    reader = await waiting

Owns the life of the queues. What they deliver is up to the test: there are no workers.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Literal, Self

import orjson

from relay.batch import StoredBatch
from relay.config.queue import JetStreamQueueConfig
from relay.model import Books, DeadLetter, Position, Reason, Response, Settlement
from relay.observe import logs
from relay.observe.metrics import Metrics
from relay.queue.base import Lease, Reader
from relay.queue.jetstream.ledger import KEY as LEDGER
from relay.queue.jetstream.ledger import load as load_ledger
from relay.queue.jetstream.members import BEAT_SECONDS
from relay.queue.jetstream.queue import JetStreamQueue
from relay.queue.jetstream.record import Account
from relay.queue.jetstream.record import load as load_account
from tests.contract.jetstream.replicas import came_back
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW
from tests.fakes.nats import NatsServer, TcpProxy
from tests.fakes.process import until

LIMIT = 40.0  # real seconds anything may take
WEEK = 7 * 86400.0
DESTINATION = "siem"


class Relay:
    """One replica. Made by `Relays.add`."""

    def __init__(self, relays: Relays, name: str) -> None:
        self.relays = relays
        self.name = name
        self.dead = False
        self.leases: dict[str, Lease] = {}
        self.proxy = TcpProxy(relays.server.port)
        self.stream = io.BytesIO()
        self.queue: JetStreamQueue
        self._taking: list[asyncio.Task[Reader]] = []

    async def open(self) -> None:
        await self.proxy.start()
        self.queue = await JetStreamQueue.open(
            JetStreamQueueConfig.model_validate(
                {"type": "jetstream", "servers": [self.proxy.url], "replicas": 1, **self.relays.settings}
            ),
            replica=self.name,
            clock=self.relays.clock,
            metrics=Metrics([], []),
            log=logs.configure("info", stream=self.stream),
            deduplicate={"eu": WEEK, "us": WEEK},
        )

    # -- delivering --------------------------------------------------------------------------

    async def take(self, destination: str = DESTINATION, start: Literal["now", "earliest"] = "now") -> Reader:
        """Deliver to *destination* from now on; its live reader."""
        await self.queue.attach(destination, start)
        async with asyncio.timeout(LIMIT):
            self.leases[destination] = await self.queue.lease(destination)
        return self.live(destination)

    def start_taking(self, destination: str = DESTINATION) -> asyncio.Task[Reader]:
        """The same, as soon as it may."""
        task = asyncio.create_task(self.take(destination))
        self._taking.append(task)  # awaited in `kill` and `close`
        return task

    async def give_back(self, destination: str = DESTINATION) -> None:
        await self.leases.pop(destination).release()

    def live(self, destination: str = DESTINATION) -> Reader:
        return self.queue.readers(destination)[0]

    # -- the network, life and death ---------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self.queue._link.client.is_connected

    async def cut_off(self) -> None:
        """Nobody can be reached any more; connections are refused."""
        await self.proxy.close()
        await until(lambda: not self.connected, LIMIT, f"{self.name} noticing that it is cut off")

    async def come_back(self) -> None:
        """The network is whole again; returns when a heartbeat has come back."""
        await self.proxy.start()
        await until(lambda: self.connected, LIMIT, f"{self.name} connecting again")
        await self.relays.clock.advance(BEAT_SECONDS)  # until its next heartbeat
        await self.relays.pass_(0)

    async def kill(self) -> None:
        """SIGKILL: from one moment to the next nothing is done any more."""
        self.dead = True
        await self.proxy.close()
        await self._stop_taking()
        await self.queue._stop_tasks()
        await self.queue._link.client.close()

    async def close(self) -> None:
        """SIGTERM."""
        self.dead = True
        await self._stop_taking()
        await self.queue.close()
        await self.proxy.close()

    async def _stop_taking(self) -> None:
        for task in self._taking:
            task.cancel()
        await asyncio.gather(*self._taking, return_exceptions=True)

    def logged(self, event: str) -> list[dict[str, object]]:
        lines = [orjson.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


class Relays:
    """All replicas on one pair of streams."""

    def __init__(self, server: NatsServer, prefix: str, **settings: object) -> None:
        """*settings* are keys of the configuration's section `queue`."""
        self.server = server
        self.prefix = prefix
        self.settings: dict[str, object] = {"stream": prefix, **settings}
        self.clock = FakeClock(NOW)
        self._relays: list[Relay] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for relay in self.alive():
            await (relay.kill() if error else relay.close())
        for name in (self.prefix, f"KV_{self.prefix}-state"):
            await self.server.api(f"STREAM.DELETE.{name}")

    async def add(self, *names: str) -> list[Relay]:
        """Start replicas; ids have to be new each time, as in life."""
        added = [Relay(self, name) for name in names]
        for relay in added:
            self._relays.append(relay)
            await relay.open()
        await self.pass_(0)
        return added

    def alive(self) -> list[Relay]:
        return [relay for relay in self._relays if not relay.dead]

    async def pass_(self, seconds: float) -> None:
        """Let time pass, and whoever can be reached hear all that was said in it."""
        end = self.clock.monotonic() + seconds
        while True:
            await until(self._all_heard, LIMIT, "every heartbeat coming back")
            if (left := end - self.clock.monotonic()) <= 0:
                return
            await self.clock.advance(min(left, 0.5))

    async def pass_until(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        """Let time pass until something is *true* that house-keeping does.

        No number of seconds is certain to be enough: a round that begins in one of them ends in real time.
        """

        async def looked() -> bool:
            if await true():
                return True
            await self.pass_(0.5)
            return False

        await until(looked, LIMIT, what)

    async def _all_heard(self) -> bool:
        connected = [relay.queue._members for relay in self.alive() if relay.connected]
        return all([await came_back(members, self.clock) for members in connected])

    async def settled(self) -> None:
        """A quiet moment: progress is stored, and everybody has heard of it."""
        for relay in self.alive():
            await relay.queue.flush()
        accounts = {name: await self.account(name) for name in self.alive()[0].queue.destinations()}

        def known() -> bool:
            return all(
                relay.queue._accounts[name] == account
                for relay in self.alive()
                for name, account in accounts.items()
            )

        await until(known, LIMIT, "everybody knowing the stored accounts")
        await self.followed()

    async def followed(self) -> None:
        """Everybody knows the whole log."""
        last = (await self.server.api(f"STREAM.INFO.{self.prefix}"))["state"]["last_seq"]

        def knows(relay: Relay) -> bool:
            log = relay.queue._log
            return log.met.is_set() and log.ledger.seq >= last

        await until(lambda: all(map(knows, self.alive())), LIMIT, "everybody following to the end of the log")

    async def ledger_stored(self) -> None:
        """Let time pass until the stored ledger tells of the whole log."""
        bucket = self.alive()[0].queue._bucket
        last = await self.last_seq()

        async def told() -> bool:
            entry = await bucket.get(LEDGER)
            return entry is not None and load_ledger(entry.value).seq >= last

        await self.pass_until(told, "the ledger being stored")

    # -- what is in NATS ---------------------------------------------------------------------

    async def account(self, destination: str = DESTINATION) -> Account:
        """As it is stored."""
        relay = self.alive()[0]
        entry = await relay.queue._bucket.get(f"destination.{destination}")
        assert entry is not None, f"there is no account of {destination}"
        return load_account(entry.value)

    async def ack_floor(self, consumer: str = DESTINATION) -> int:
        info = await self.server.api(f"CONSUMER.INFO.{self.prefix}.{consumer}")
        assert "ack_floor" in info, info
        floor: int = info["ack_floor"]["stream_seq"]
        return floor

    async def last_seq(self) -> int:
        last: int = (await self.server.api(f"STREAM.INFO.{self.prefix}"))["state"]["last_seq"]
        return last

    async def books(self, destination: str = DESTINATION) -> Books:
        """At a quiet moment; all replicas have the same, and they add up."""
        await self.settled()
        first, *others = [relay.queue.books(destination) for relay in self.alive()]
        assert others == [first] * len(others)
        assert first.owed == first.delivered + first.filtered + first.dead + first.backlog
        return first


# -- settling --------------------------------------------------------------------------------


def fate(
    stored: StoredBatch, start: int = 0, end: int | None = None, refused: Sequence[int] = ()
) -> Settlement:
    """Events [start, end) of a batch were delivered, but for those *refused*."""
    end = stored.count if end is None else end
    said = Response("refused", 400)
    dead = tuple(
        DeadLetter(Position(stored.sequence, i), stored.event(i), Reason.REJECTED, said) for i in refused
    )
    return Settlement(
        Position(stored.sequence, start),
        Position(stored.sequence, end),
        delivered=end - start - len(dead),
        delivered_bytes=sum([len(line) + 1 for line in stored.lines[start:end]]),
        dead=dead,
    )


async def read_all(reader: Reader) -> list[tuple[StoredBatch, int]]:
    """Everything it gives at present."""
    pieces: list[tuple[StoredBatch, int]] = []
    while reader.unread():
        some = await reader.read(1000)
        pieces += some
        if not some and not reader.unread():
            break
    return pieces


async def deliver_all(reader: Reader) -> list[bytes]:
    """Read and settle everything there is at present; the lines."""
    found: list[bytes] = []
    while reader.unread():
        for stored, offset in await reader.read(1000):
            found += stored.lines[offset:]
            await reader.settle(fate(stored, offset))
    return found
