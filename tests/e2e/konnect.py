"""Konnect as a cluster of relays knows it: batches at a steady rate, each sent five times at most.

Between it and the relays is a load balancer in miniature: first attempts take the relays in turn, and what
one of them refused goes to the next. Owns what was sent and what was promised, never what became of it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import aiohttp

from tests.e2e.support import HEADERS, SOURCE, Traffic, body_of

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds, Konnect's documented policy
_ANSWER_LIMIT = 10.0  # seconds Konnect is imagined to wait for an answer
_RETRIED = {429, 500}
_EVENTS = (20, 100)  # of one batch


@dataclass(frozen=True, slots=True)
class Moment:
    """Between two batches."""

    at: float  # of the event loop's clock
    batch: int  # the number of the first one after it


class Progress:
    """When something was seen of ever later batches."""

    def __init__(self) -> None:
        self._batches: list[int] = []
        self._times: list[float] = []

    def note(self, batch: int) -> None:
        if not self._batches or batch > self._batches[-1]:
            self._batches.append(batch)
            self._times.append(asyncio.get_running_loop().time())

    def since(self, moment: Moment) -> float | None:
        """Seconds from *moment* until something was seen of a batch made after it."""
        found = bisect_left(self._batches, moment.batch)
        return self._times[found] - moment.at if found < len(self._times) else None

    def longest_pause(self, moment: Moment) -> float:
        """Seconds between two looks after *moment*, at most."""
        times = [moment.at, *[time for time in self._times if time > moment.at]]
        return max(later - earlier for earlier, later in pairwise(times))


@dataclass(slots=True)
class Sent:
    """A batch and what was answered to each attempt; None: there was no whole answer."""

    number: int
    lines: list[bytes]
    answers: list[int | None] = field(default_factory=list)


class Konnect:
    """Sends *rate* batches a second to relays on *ports*."""

    def __init__(self, ports: Sequence[int], seed: int, *, rate: float = 50.0) -> None:
        self.batches: list[Sent] = []
        self.numbers: dict[bytes, int] = {}  # of the batch each line was sent in
        self.owed: set[bytes] = set()
        self.accepted = Progress()
        self.given_up: list[Sent] = []
        self._ports = ports
        self._rate = rate
        self._rng = Random(seed)
        self._traffic = Traffic(seed)
        self._refused = 0  # batches that wait to be sent again
        self._stopped = False

    def now(self) -> Moment:
        return Moment(asyncio.get_running_loop().time(), len(self.batches))

    @property
    def is_calm(self) -> bool:
        """Whether no batch waits for another attempt."""
        return not self._refused

    def refusals(self) -> Counter[int | None]:
        """What was answered other than 200, and how often."""
        return Counter(answer for batch in self.batches for answer in batch.answers if answer != 200)

    def sent_elsewhere(self) -> int:
        """Batches that were accepted after a relay had not answered."""
        return sum(None in batch.answers and batch.answers[-1] == 200 for batch in self.batches)

    def unclear(self) -> int:
        """Events of batches given up on that may be stored all the same."""
        return sum(len(batch.lines) for batch in self.given_up if set(batch.answers) != {429})

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """For the time of the block. At its end every batch is accepted or given up on."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_LIMIT)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._begin_batches(session, group))
            yield
            self._stopped = True

    async def _begin_batches(self, session: aiohttp.ClientSession, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        self._stopped = False
        while not self._stopped:
            batch = Sent(len(self.batches), self._lines())
            self.batches.append(batch)
            self.numbers.update(dict.fromkeys(batch.lines, batch.number))
            group.create_task(self._send(session, batch))
            due += 1 / self._rate
            await asyncio.sleep(due - loop.time())

    def _lines(self) -> list[bytes]:
        """Authorization checks, as nearly always; one batch in five is of all kinds, and stored in pieces."""
        lines = self._traffic.lines(self._rng.randint(*_EVENTS))
        return lines if self._rng.random() < 0.2 else [line for line in lines if b" CEF:0|" in line]

    async def _send(self, session: aiohttp.ClientSession, batch: Sent) -> None:
        body = gzip.compress(body_of(batch.lines), 1)
        for attempt, wait in enumerate((0.0, *WAITS)):
            if attempt == 1:
                self._refused += 1
            await asyncio.sleep(wait)
            port = self._ports[(batch.number + attempt) % len(self._ports)]
            batch.answers.append(await self._offer(session, port, batch, body))
            if batch.answers[-1] == 200:
                self.owed.update(batch.lines)
                self.accepted.note(batch.number)
                break
        else:
            self.given_up.append(batch)
        self._refused -= len(batch.answers) > 1

    async def _offer(self, session: aiohttp.ClientSession, port: int, batch: Sent, body: bytes) -> int | None:
        url = f"http://127.0.0.1:{port}/audit-logs/{SOURCE}"
        try:
            async with session.post(url, data=body, headers=HEADERS) as response:
                status, answer = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return None
        if status == 200:
            receipt = json.loads(answer)
            assert receipt["accepted"] + receipt["duplicates"] == len(batch.lines), receipt
        else:
            assert status in _RETRIED, f"Konnect would not repeat a request that was answered {status}"
        return status
