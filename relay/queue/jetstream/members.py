"""Which replicas are at work: each tells so every second, and judges for itself who has fallen silent.

Owns the heartbeats in the state bucket, and the two limits on which leases rest. Knows nothing of leases.

    t        we send a heartbeat                   what is ours stays ours until t + TRUST_SECONDS
    t + x    another replica sees it, x >= 0       it may take that from t + x + LEASE_TTL on

So there are two seconds between the two, whatever the delay x, without a common clock: one is the most
that passes before we look (`Leases.run`), the other is for requests in flight to be broken off. A process
that was stopped and goes on later cannot know in time. It may send what is being sent twice, but it stores
nothing: every change of an account proves that the lease is still the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError

from relay.clock import Clock
from relay.errors import QueueError
from relay.model import Replica
from relay.observe.logs import Log
from relay.queue.jetstream.bucket import Bucket, Change, Entry
from relay.queue.jetstream.message import name_of, token

PREFIX: Final = "replica"
BEAT_SECONDS: Final = 1.0
TRUST_SECONDS: Final = 3.0
LEASE_TTL: Final = 5.0  # seconds of silence after which a replica is dead

_ANSWER_SECONDS: Final = 1.0  # of real time; the next heartbeat is a better use of the connection
_FORGET_SECONDS: Final = 120.0  # the server itself removes what the dead leave behind
_SENT: Final = "Relay-Sent"  # when a heartbeat was sent, by its sender's own monotonic clock


@dataclass(frozen=True, slots=True)
class _Presence:
    """A heartbeat's value."""

    replica: Replica | None  # None until the process has described itself
    wants: frozenset[str] = frozenset()  # destinations it delivers to or waits for


@dataclass(frozen=True, slots=True)
class _Other:
    presence: _Presence
    at: float  # when we saw its last heartbeat, by our monotonic clock


_PRESENCE: Final = TypeAdapter(_Presence)


class Members:
    """This process, called *replica*, among the others. The queue's watch feeds `seen`."""

    def __init__(self, bucket: Bucket, replica: str, *, clock: Clock, log: Log) -> None:
        self.id = replica
        self.wants: frozenset[str] = frozenset()  # told with the next heartbeat
        self._bucket = bucket
        self._key = f"{PREFIX}.{token(replica)}"
        self._clock = clock
        self._log = log
        self._description: Replica | None = None
        self._others: dict[str, _Other] = {}  # those alive
        self._left = False
        self.failing = False  # the last heartbeat was not stored
        self._stored: float | None = None  # when our last acknowledged heartbeat was sent
        self._revision = 0  # of the last heartbeat that came, whoever sent it
        # When that of our own heartbeats was sent that came back last, and since when they come back
        # without a break.
        self._heard = self._since = clock.monotonic()

    # -- telling -----------------------------------------------------------------------------

    async def run(self) -> None:
        """A heartbeat every second, without end."""
        while True:
            begun = self._clock.monotonic()
            await self.beat()
            await self._clock.sleep(begun + BEAT_SECONDS - self._clock.monotonic())

    async def announce(self, replica: Replica) -> None:
        """Describe this process: at once when it is new, later with the next heartbeat."""
        new = self._description is None
        self._description = replica
        if new:
            await self.beat()

    async def beat(self) -> None:
        """Tell that we are at work. A failure is seen by `trusted`."""
        if self._left:
            return
        sent = self._clock.monotonic()
        value = _PRESENCE.dump_json(_Presence(self._description, self.wants))
        change = Change(self._key, value, ttl=_FORGET_SECONDS, headers={_SENT: repr(sent)})
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._bucket.commit([change])
        except (QueueError, TimeoutError) as error:
            if not self.failing:
                self._log.warning("replica.heartbeat_failed", detail=str(error) or "no answer")
            self.failing = True
            return
        self.failing = False
        self._stored = sent if self._stored is None else max(self._stored, sent)

    async def leave(self) -> None:
        """Tell that we are gone, which spares the others the waiting."""
        self._left = True
        with suppress(QueueError, TimeoutError):  # or they notice by our silence
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._bucket.delete(self._key)

    def trusted(self) -> bool:
        """Whether nobody can take us for dead yet."""
        if self._left or self._stored is None:
            return False
        return self._clock.monotonic() - self._stored < TRUST_SECONDS

    # -- hearing -----------------------------------------------------------------------------

    def seen(self, entry: Entry) -> None:
        """The watch saw a heartbeat, or that one was deleted. Entries come in the bucket's order."""
        self._revision = max(self._revision, entry.revision)
        replica = name_of(entry.key.removeprefix(f"{PREFIX}."))
        if replica == self.id:
            if (sent := entry.headers.get(_SENT)) is not None:
                self._hear(float(sent))
        elif entry.deleted:
            if self._others.pop(replica, None) is not None:
                self._log.info("replica.left", replica=replica)
        else:
            if replica not in self._others:
                self._log.info("replica.joined", replica=replica)
            self._others[replica] = _Other(_presence(entry.value), self._clock.monotonic())

    def _hear(self, sent: float) -> None:
        """One of our own heartbeats came back.

        With it has come whatever was stored before it was sent. So silence is counted only up to here: while
        the watch hangs, or nobody can store anything, nobody dies of it. After a break, at the beginning as
        well, the others have the full time to be heard again.
        """
        if sent - self._heard >= TRUST_SECONDS:
            self._since = sent
        self._heard = max(self._heard, sent)
        for replica, other in list(self._others.items()):
            if self._heard - max(other.at, self._since) >= LEASE_TTL:
                del self._others[replica]
                self._log.warning("replica.silent", replica=replica, seconds=round(self._heard - other.at, 1))

    def is_alive(self, replica: str, *, revision: int = 0) -> bool:
        """Whether it has to be taken for alive, as everybody is until we have listened long enough.

        *revision* is that of the record which names it. Where that is newer than what the watch has brought,
        so may its heartbeats be: a replica that starts while we are cut off is unknown to us when we see
        its first lease.
        """
        if replica == self.id or replica in self._others:
            return True
        return revision > self._revision or self._heard - self._since < LEASE_TTL

    def alive(self) -> Sequence[Replica]:
        """Descriptions of all that are at work, our own first."""
        described = [self._description, *(other.presence.replica for other in self._others.values())]
        return [replica for replica in described if replica is not None]

    def wanting(self, destination: str) -> Sequence[str]:
        """The other replicas that deliver to *destination* or would."""
        return [name for name, other in self._others.items() if destination in other.presence.wants]


def _presence(value: bytes) -> _Presence:
    try:
        return _PRESENCE.validate_json(value)
    except ValidationError:  # of another version; it is alive all the same
        return _Presence(None)
