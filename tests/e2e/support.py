"""What the end-to-end tests share: configurations, an honest sender, and the oracle.

The oracle is the promise itself: what was answered 2xx is owed to every destination byte for byte,
and nothing may arrive that was not sent. It knows nothing of how the relay works.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import aiohttp
import pytest

from tests.fakes import workload
from tests.fakes.process import RelayProcess, free_port, until
from tests.fakes.siem import Siem

AUTHORIZATION = "Bearer e2e"
SOURCE = "konnect"
DELIVERY_LIMIT = 40.0  # seconds within which a backlog of a test must be gone

# The default policy with its times divided by a hundred, so that a test sees all of it.
FAST_RETRY = {"min_wait": "10ms", "max_wait": "300ms", "max_retries": 4, "probe_interval": "200ms"}


def destination(name: str, siem: Siem, **settings: Any) -> dict[str, Any]:
    """The configuration of an `http` destination that sends to *siem*.

    A SIEM that lives in the test's own process may be slow to answer; sent again, an event would come twice.
    """
    return {"name": name, "type": "http", "url": siem.url, "retry": FAST_RETRY, "timeout": "30s", **settings}


def configuration(folder: Path, destinations: Iterable[Mapping[str, Any]], **queue: Any) -> dict[str, Any]:
    """A relay with its queue in *folder*; *queue* changes the queue's settings."""
    return {
        "server": {"host": "127.0.0.1", "port": free_port(), "shutdown_grace": "20s"},
        "admin": {"host": "127.0.0.1", "port": free_port()},
        "sources": [{"name": SOURCE, "authorization": AUTHORIZATION}],
        "queue": {"type": "sqlite", "path": str(folder / "relay.db"), "min_free_disk": 0, **queue},
        "destinations": [dict(each) for each in destinations],
        "logging": {"level": "debug"},
    }


def give_up(reason: str) -> NoReturn:
    """Skip, except where everything a test needs is promised to be there."""
    if os.environ.get("RELAY_CI"):
        pytest.fail(f"{reason} (RELAY_CI is set)")
    pytest.skip(reason)


# -- traffic


class Traffic:
    """Bodies of unique lines in every shape Konnect sends, from one seed."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._made = 0

    def lines(self, count: int) -> list[bytes]:
        """*count* lines: CEF mostly, some JSON, CPS, and some that are nothing of the kind."""
        self._made += count
        start = 1_790_000_000_000 + self._made
        lines = workload.body(self._rng, count, first_ms=start, span_ms=count).splitlines()
        for i in range(count):
            kind = self._rng.random()
            if kind < 0.3:
                lines[i] = self._other(kind, start + i)
        return lines

    def _other(self, kind: float, at_ms: int) -> bytes:
        token = self._rng.randbytes(16).hex()
        if kind < 0.1:
            return b'{"cef_version":"0","name":"Authz.portals","rt":%d,"sig":"%s"}' % (at_ms, token.encode())
        if kind < 0.2:
            return b'{"event":{"name":"Authz.usage","rt":%d,"sig":"%s"}}' % (at_ms, token.encode())
        return b"not a record at all \xff\x00 " + token.encode()


def body_of(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


HEADERS = {"Authorization": AUTHORIZATION, "Content-Type": "text/plain", "Content-Encoding": "gzip"}


@dataclass(slots=True)
class Trail:
    """Sends as Konnect does, and remembers what was sent and what was promised."""

    traffic: Traffic
    sent: set[bytes] = field(default_factory=set)
    owed: set[bytes] = field(default_factory=set)
    codes: Counter[int] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # set whenever something was accepted

    async def post(self, relay: RelayProcess, count: int = 10) -> list[bytes]:
        """Send one batch of new lines, which has to be accepted; the lines."""
        lines = self.traffic.lines(count)
        status = await self.offer(relay, lines)
        assert status == 200
        return lines

    async def offer(self, relay: RelayProcess, lines: list[bytes]) -> int | None:
        """Send a batch; the status, or None when there was no whole answer."""
        self.sent.update(lines)
        try:
            status, answer = await relay.post(gzip.compress(body_of(lines), 1), SOURCE, HEADERS)
        except aiohttp.ClientError:
            return None
        self.codes[status] += 1
        if status == 200:
            receipt = json.loads(answer)
            assert receipt["accepted"] + receipt["duplicates"] == len(lines)
            self.owed.update(lines)
            self.changed.set()
        return status

    @asynccontextmanager
    async def flowing(self, relay: RelayProcess, senders: int = 4) -> AsyncIterator[None]:
        """Several senders at once for the time of the block; at its end nothing is under way any more."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(senders):
                group.create_task(self._flow(relay, stop))
            yield
            stop.set()

    async def _flow(self, relay: RelayProcess, stop: asyncio.Event) -> None:
        """Send batch after batch until *stop*; each again and again until it is accepted."""
        while not stop.is_set():
            lines = self.traffic.lines(10)
            while await self.offer(relay, lines) != 200 and not stop.is_set():
                async with asyncio.timeout(DELIVERY_LIMIT):
                    await relay.up.wait()

    def check(self, received: Collection[bytes]) -> None:
        """Everything promised has come, and nothing that was not sent."""
        got = set(received)
        missing, invented = self.owed - got, got - self.sent
        assert not missing, f"{len(missing)} of {len(self.owed)} events never arrived, e.g. {min(missing)!r}"
        assert not invented, f"{len(invented)} events arrived that nobody sent, e.g. {min(invented)!r}"


# -- what the relay says about itself


@dataclass(frozen=True, slots=True)
class Books:
    """A destination's account as /metrics has it."""

    accepted: int
    owed: int
    delivered: int
    filtered: int
    dead_letters: int  # kept at present
    discarded: int
    backlog: int

    def check(self) -> None:
        """The identity of the architecture's third promise, for a destination there from the start."""
        assert self.owed == self.accepted, self
        settled = self.delivered + self.filtered + self.dead_letters + self.discarded
        assert self.accepted == settled + self.backlog, self


async def books(relay: RelayProcess, name: str) -> Books:
    series = await relay.metrics()

    def of(metric: str) -> int:
        return int(series[f'relay_{metric}{{destination="{name}"}}'])

    return Books(
        accepted=int(sum(n for key, n in series.items() if key.startswith("relay_ingest_events_total{"))),
        owed=of("destination_owed_events_total"),
        delivered=of("delivered_events_total"),
        filtered=of("filtered_events_total"),
        dead_letters=of("dead_letters"),
        discarded=of("discarded_events_total"),
        backlog=of("destination_backlog_events"),
    )


async def drained(relay: RelayProcess, *names: str, within: float = DELIVERY_LIMIT) -> None:
    """Wait until nothing is left to do for these destinations, ranges included; then check the books."""

    async def idle() -> bool:
        status = await relay.status()
        mine = [each for each in status["destinations"] if each["name"] in names]
        assert len(mine) == len(names)
        return all(not each["backlog"] and not each["readers"] for each in mine)

    await until(idle, within, f"an empty backlog of {', '.join(names)}")
    for name in names:
        (await books(relay, name)).check()
