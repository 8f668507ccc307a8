"""The queue on NATS JetStream as the place a queue is moved from, or to. See `relay.queue.moving`.

Two keys of the state bucket hold the digest of the queue that was moved: `moving` while it comes into being,
in which time no relay opens it, `moved_from` ever after. There is no lock that a relay holds for its
lifetime, so whoever is at work is known by his heartbeats, and what is moved is written on condition that
nobody else has written there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from relay.clock import Clock
from relay.config.queue import JetStreamQueueConfig
from relay.errors import Conflict, NotFound, QueueError, QueueLocked
from relay.observe.logs import Log
from relay.queue.belongings import Inventory, Item, Part
from relay.queue.jetstream.assets import ensure
from relay.queue.jetstream.bucket import Bucket, Change, Stale
from relay.queue.jetstream.by_sequence import get_next
from relay.queue.jetstream.connect import connect
from relay.queue.jetstream.link import NOT_FOUND, ApiError, Link
from relay.queue.jetstream.members import LEASE_TTL
from relay.queue.jetstream.members import PREFIX as REPLICAS
from relay.queue.jetstream.message import name_of
from relay.queue.jetstream.moving_in import Furnishing
from relay.queue.jetstream.moving_out import Contents
from relay.queue.jetstream.pausing import pause
from relay.queue.moving import Begun

_MOVING: Final = "moving"
_MOVED_FROM: Final = "moved_from"


async def refuse_unfinished(bucket: Bucket) -> None:
    """Raise `QueueError` while a queue is being moved here: a part of it is no queue."""
    if await bucket.get(_MOVING) is not None:
        raise QueueError(
            "a queue is being moved here and has not wholly arrived; run `konnect-relay queue migrate` again"
        )


class JetStreamStore:
    """A `relay.queue.moving.Store`."""

    def __init__(self, link: Link, stream: str) -> None:
        self._link = link
        self._stream = stream
        self._bucket = Bucket(link, f"{stream}-state")
        self._contents = Contents(link, stream, self._bucket)
        self._silent: dict[str, int] = {}  # last heartbeats of replicas that are known to be dead

    async def inventory(self) -> Inventory:
        """Raises `QueueLocked` while a relay is at work; before a move and after it."""
        await self._nobody_at_work()
        return await self._contents.inventory()

    def items(self, part: Part) -> AsyncGenerator[Item, None]:
        return self._contents.items(part)

    async def check(self) -> None:
        """Raises `NotFound` where there is no queue, `QueueError` where there is no whole one."""
        for stream in (self._stream, self._bucket.stream):
            if await self._messages(stream) is None:
                raise NotFound(f"there is no queue on NATS called {self._stream}: it has no stream {stream}")
        await refuse_unfinished(self._bucket)

    async def _nobody_at_work(self) -> None:
        """A relay that ends takes its heartbeat along, and what is left of a dead one grows no older."""
        replicas = self._bucket.entries(REPLICAS, headers_only=True)
        found = {entry.key: entry.revision async for entry in replicas}
        if not found or found == self._silent:
            return
        subject = f"{self._bucket.subject}{REPLICAS}.>"
        last = max(found.values())
        try:
            async with asyncio.timeout(LEASE_TTL):
                while True:
                    message = await get_next(self._link, self._bucket.stream, last + 1, subject)
                    if message is None:
                        await pause()
                        continue
                    last = message.seq
                    if not (entry := self._bucket.entry(message)).deleted:
                        break
        except TimeoutError:
            self._silent = found
            return
        replica = name_of(entry.key.removeprefix(f"{REPLICAS}."))
        raise QueueLocked(f"a relay is at work on {self._stream} (replica {replica}): stop it first")

    async def _messages(self, stream: str) -> int | None:
        """How many there are in a stream; None where it does not exist."""
        try:
            return int((await self._link.api(f"STREAM.INFO.{stream}"))["state"]["messages"])
        except ApiError as error:
            if error.err_code in NOT_FOUND:
                return None
            raise


class JetStreamTarget(JetStreamStore):
    """A `relay.queue.moving.Target`."""

    def __init__(
        self,
        link: Link,
        config: JetStreamQueueConfig,
        *,
        windows: Mapping[str, float | None],
        clock: Clock,
        log: Log,
    ) -> None:
        super().__init__(link, config.stream)
        self._config = config
        self._log = log
        self._furnishing = Furnishing(link, config.stream, self._bucket, windows=windows, clock=clock)
        self._inventory: Inventory | None = None

    async def begin(self, inventory: Inventory) -> Begun | None:
        digest = inventory.digest().encode()
        events, state = [await self._messages(each) for each in (self._stream, self._bucket.stream)]
        begun = moved = None
        if state is not None:
            await self._nobody_at_work()
            begun = await self._bucket.get(_MOVING)
            moved = await self._bucket.get(_MOVED_FROM)
        if begun is not None and begun.value != digest:
            raise Conflict(
                f"{self._stream} is left of moving another queue, or this one as it was before; delete the"
                f" streams {self._stream} and {self._bucket.stream} to begin anew"
            )
        if begun is None and (events or state):
            if moved is not None and moved.value == digest:
                return None
            raise Conflict(f"there is a queue on NATS called {self._stream} already: choose another `stream`")
        # Not before it is certain that the streams are ours: another queue keeps its settings.
        await ensure(self._link, self._config, log=self._log)
        if begun is None:
            try:
                await self._bucket.put(_MOVING, digest, revision=0)
            except Stale as error:
                raise Conflict(f"somebody else is moving a queue to {self._stream}") from error
        self._inventory = inventory
        return await self._furnishing.begin(inventory)

    async def add(self, items: Sequence[Item]) -> None:
        await self._furnishing.add(items)

    async def finish(self) -> None:
        assert self._inventory is not None  # noqa: S101 - `begin` comes first
        await self._furnishing.finish(self._inventory)

    async def seal(self) -> None:
        assert self._inventory is not None  # noqa: S101 - `begin` comes first
        digest = self._inventory.digest().encode()
        await self._bucket.commit([Change(_MOVED_FROM, digest), Change(_MOVING, None)])


@asynccontextmanager
async def open_store(config: JetStreamQueueConfig, *, log: Log) -> AsyncIterator[JetStreamStore]:
    """The queue that relays of this configuration have, which is not changed.

    Raises `NotFound` or `QueueError`.
    """
    async with _linked(config, log) as link:
        store = JetStreamStore(link, config.stream)
        await store.check()
        yield store


@asynccontextmanager
async def open_target(
    config: JetStreamQueueConfig, *, windows: Mapping[str, float | None], clock: Clock, log: Log
) -> AsyncIterator[JetStreamTarget]:
    """A queue that relays of this configuration will have.

    *windows* are the deduplication windows of its sources in seconds, None for one that has none. Raises
    `QueueError`.
    """
    async with _linked(config, log) as link:
        yield JetStreamTarget(link, config, windows=windows, clock=clock, log=log)


@asynccontextmanager
async def _linked(config: JetStreamQueueConfig, log: Log) -> AsyncIterator[Link]:
    client = await connect(config, log=log, name="konnect-relay queue migrate")
    link = await Link.open(client, api_prefix=config.api_prefix)
    client.when_forbidden.append(link.forbidden)
    try:
        yield link
    finally:
        await link.close()
