"""Several replicas in one process, each on a connection of its own that can be cut, by one clock.

    async with Replicas(server, "relay-1") as replicas:
        one, two = await replicas.add("one", "two")
        worker = one.work("splunk")            # takes the lease again and again, gives it back when lost
        await worker.delivering()
        one.die()
        await replicas.pass_(6)
        await two.work("splunk").delivering()

`Replicas` notes when each worker began and ended, and never lets two deliver at the same time.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

import nats
import orjson

from relay.clock import Clock
from relay.errors import QueueError
from relay.model import ReaderKind, Replica
from relay.observe import logs
from relay.queue.base import Lease
from relay.queue.jetstream.accounts import PREFIX as ACCOUNTS
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.janitor import JanitorLease
from relay.queue.jetstream.leases import Leases
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.members import BEAT_SECONDS, Members
from relay.queue.jetstream.members import PREFIX as MEMBERS
from relay.queue.jetstream.record import Account, LeaseRecord, Mark, ReaderRecord
from relay.queue.jetstream.watch import Watch
from tests.fakes.clock import FakeClock
from tests.fakes.nats import NatsServer, TcpProxy
from tests.fakes.process import until

LIMIT = 30.0  # real seconds anything may take
STATE = {
    "max_msgs_per_subject": 1,
    "storage": "memory",
    "discard": "new",
    "allow_direct": True,
    "allow_atomic": True,
    "allow_msg_ttl": True,
    "allow_rollup_hdrs": True,
}


def description(name: str) -> Replica:
    return Replica(name, version="0", role="all", started_at=0.0, configuration="c")


class Worker:
    """Delivers to one destination whenever it may, as `relay.delivery.worker` does."""

    def __init__(self, replica: Node, destination: str) -> None:
        self.replica = replica
        self.destination = destination
        self.lease: Lease | None = None  # while it delivers
        # Kept, and awaited when its replica ends.
        self.task = asyncio.create_task(self._run())

    @property
    def is_delivering(self) -> bool:
        return self.lease is not None and not self.lease.lost.is_set()

    async def delivering(self) -> None:
        await until(
            lambda: self.is_delivering, LIMIT, f"{self.replica.name} delivering to {self.destination}"
        )

    async def idle(self) -> None:
        await until(lambda: self.lease is None, LIMIT, f"{self.replica.name} leaving {self.destination}")

    async def stop(self) -> None:
        """As a relay that ends or is reloaded."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def _run(self) -> None:
        while True:
            lease = await self.replica.leases.lease(self.destination)
            self.lease = lease
            self.replica.replicas.began(self)
            try:
                await ended(lease)
            finally:
                self.replica.replicas.ended(self)
                if not self.replica.dead:
                    await lease.release()
                self.lease = None


async def ended(lease: Lease) -> None:
    """Wait until somebody else has it, or is to have it."""
    events = [asyncio.create_task(each.wait()) for each in (lease.lost, lease.wanted)]
    try:
        await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in events:
            each.cancel()


class Node:
    """One replica: heartbeats, accounts and leases, without a log."""

    def __init__(self, replicas: Replicas, name: str) -> None:
        self.replicas = replicas
        self.name = name
        self.dead = False
        self.workers: dict[str, Worker] = {}
        self.prepared: list[str] = []
        self.settled: list[str] = []
        self.refuse: set[str] = set()  # destinations that cannot be prepared
        self.before_handing_out: Callable[[], Awaitable[None]] | None = None
        self.stream = io.BytesIO()
        self.proxy = TcpProxy(replicas.server.port)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        clock, log = self.replicas.clock, logs.configure("info", stream=self.stream)
        await self.proxy.start()
        self.client = await nats.connect(
            self.proxy.url,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.01,
            error_cb=_ignore,
        )
        link = await Link.open(self.client)
        self.bucket = Bucket(link, self.replicas.name)
        self.members = Members(self.bucket, self.name, clock=clock, log=log)
        self.accounts = Accounts(self.bucket, self.name, lambda _: self.leases.wake())
        self.leases = Leases(
            self.accounts,
            self.members,
            prepare=self._prepare,
            settle=self._settle,
            unable=lambda: None,
            clock=clock,
            log=log,
        )
        self.janitor = JanitorLease(self.bucket, self.members, unable=lambda: None, log=log)
        owners = {ACCOUNTS: self.accounts.seen, MEMBERS: self.members.seen}
        self.watch = Watch(
            link,
            self.bucket,
            owners,
            log=log,
            changed=self.leases.wake,
            lost=self.accounts.forget_all,
        ).run
        # Kept, and awaited when the replica ends.
        self.watching = asyncio.create_task(self.watch())
        self._tasks = [asyncio.create_task(run()) for run in (self.members.run, self.leases.run)]
        await self.members.announce(description(self.name))

    async def _prepare(self, destination: str) -> None:
        self.prepared.append(destination)
        if self.before_handing_out is not None:
            await self.before_handing_out()
        if destination in self.refuse:
            raise QueueError("no consumer could be made")

    async def _settle(self, destination: str) -> None:
        self.settled.append(destination)
        await self.accounts.update(destination, self._progress)

    def _progress(self, account: Account) -> Account:
        self.leases.fence(account)
        return account

    def work(self, destination: str) -> Worker:
        worker = self.workers[destination] = Worker(self, destination)
        return worker

    def delivers_to(self) -> set[str]:
        return {name for name, worker in self.workers.items() if worker.is_delivering}

    def logged(self, event: str) -> list[dict[str, object]]:
        lines = [orjson.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def die(self) -> None:
        """SIGKILL: from one moment to the next nothing is done any more."""
        self.dead = True
        tasks = [self.watching, *self._tasks, *(worker.task for worker in self.workers.values())]
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        self.replicas.faults += [end for end in ends if not isinstance(end, asyncio.CancelledError | None)]
        await self.client.close()
        await self.proxy.close()

    async def cut_off(self) -> None:
        """From one moment to the next nobody can be reached."""
        # Connections are refused. Were they accepted and closed, as by `TcpProxy.cut`, the client would leave
        # a socket open with each attempt.
        await self.proxy.close()
        await until(lambda: not self.client.is_connected, LIMIT, f"{self.name} noticing it is cut off")

    async def come_back(self) -> None:
        """The network is whole again; returns when the next heartbeat has come back, a second later."""
        await self.proxy.start()
        await until(lambda: self.client.is_connected, LIMIT, f"{self.name} connecting again")
        await self.replicas.clock.advance(BEAT_SECONDS)
        await self.replicas.pass_(0)

    async def end(self) -> None:
        """SIGTERM: everything is given back."""
        for worker in self.workers.values():
            await worker.stop()
        await self.leases.close()
        await self.members.leave()
        await self.die()


async def _ignore(_: Exception) -> None: ...


async def came_back(members: Members, clock: Clock) -> bool:
    """Whether the last heartbeat did.

    One that NATS did not take in time, on a busy machine or while it starts, is sent again: the next one is
    due when the clock goes on, which waits for this one.
    """
    if members._heard > clock.monotonic() - BEAT_SECONDS and members.trusted():
        return True
    if members.failing:
        await members.beat()
    return False


class Replicas:
    """See the module."""

    def __init__(self, server: NatsServer, name: str) -> None:
        self.server = server
        self.name = name
        self.clock = FakeClock()
        self.nodes: list[Node] = []
        self.faults: list[object] = []  # what must never happen, and did
        self.story: list[tuple[float, str, str, str]] = []  # when, who, to which destination, what

    async def __aenter__(self) -> Self:
        subjects = [f"$KV.{self.name}.>"]
        await self.server.api(
            f"STREAM.CREATE.KV_{self.name}", {"name": f"KV_{self.name}", "subjects": subjects, **STATE}
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.alive():
            await node.die()
        assert not self.faults, self.faults
        await self.server.api(f"STREAM.DELETE.KV_{self.name}")

    async def add(self, *names: str) -> list[Node]:
        nodes = [Node(self, name) for name in names]
        for node in nodes:
            self.nodes.append(node)
            await node.start()
        await self.pass_(0)
        return nodes

    async def destinations(self, *names: str) -> None:
        """Make accounts, known to every replica."""
        for name in names:
            await self.nodes[0].accounts.create(name, partial(account, name))
        await until(
            lambda: all(name in node.accounts for node in self.alive() for name in names),
            LIMIT,
            "everybody knowing the destinations",
        )

    def alive(self) -> list[Node]:
        return [node for node in self.nodes if not node.dead]

    async def pass_(self, seconds: float) -> None:
        """Let time pass, and whoever can be reached hear all that was said in it."""
        end = self.clock.monotonic() + seconds
        while True:
            await until(self._all_heard, LIMIT, "every heartbeat coming back")
            if (left := end - self.clock.monotonic()) <= 0:
                return
            await self.clock.advance(min(left, 0.5))

    async def _all_heard(self) -> bool:
        connected = [node.members for node in self.alive() if node.client.is_connected]
        return all([await came_back(members, self.clock) for members in connected])

    # -- workers -----------------------------------------------------------------------------

    def began(self, worker: Worker) -> None:
        others = [
            node.name
            for node in self.alive()
            if node is not worker.replica and worker.destination in node.delivers_to()
        ]
        if others:
            self.faults.append(f"{worker.replica.name} and {others} deliver to {worker.destination}")
        self._note(worker, "began")

    def ended(self, worker: Worker) -> None:
        self._note(worker, "ended")

    def _note(self, worker: Worker, what: str) -> None:
        self.story.append((self.clock.monotonic(), worker.replica.name, worker.destination, what))

    async def balanced(self, *shares: int) -> None:
        """Wait until replicas deliver to so many destinations each, in ascending order."""
        await until(lambda: self.shares() == list(shares), LIMIT, f"shares of {shares}")

    def record(self, destination: str) -> LeaseRecord | None:
        """As the first replica that is at work knows it."""
        return self.alive()[0].accounts[destination].lease

    def when(self, who: str, destination: str, what: str) -> float:
        """The last time it happened."""
        return max(at for at, *rest in self.story if rest == [who, destination, what])

    def shares(self) -> list[int]:
        return sorted(len(node.delivers_to()) for node in self.alive())


def account(name: str, number: int, lease: LeaseRecord | None = None) -> Account:
    reader = ReaderRecord(number, ReaderKind.LIVE, Mark(1, 1))
    return Account(name, 1, (reader,), lease=lease, epoch=lease.epoch if lease else 0)
