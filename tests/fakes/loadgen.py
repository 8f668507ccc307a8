"""A load generator as a process of its own: `python -m tests.fakes.loadgen POOL PORT [PORT …]`.

Sends the requests of a pool over keep-alive connections, either as fast as answers come (closed
loop) or at a fixed rate, and prints one JSON document. Connections take the ports in turn, as a load
balancer would. Raw protocols on uvloop, because it shares
two cores with the relay it measures. Owns how requests are sent, never what is in them.

At a fixed rate a request is due when its tick comes, whether or not a connection is free then, so a
stall is charged to every request that had to wait for it (no coordinated omission). How late the
generator's own ticks were is told apart, as `lag`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import uvloop

from tests.fakes.workload import Pool, Requests

_RETRY_SECONDS = 0.05  # how soon a refused request is tried again; Konnect would wait longer


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did. Times are CLOCK_MONOTONIC, so they compare across processes."""

    requests: int  # answered with a 2xx
    events: int  # in them, as the sender counts
    accepted: int  # events, as the receiver counted in its answers
    duplicates: int
    started: float
    ended: float  # the last answer
    codes: dict[str, int]  # every answer, refused ones included; `reset` where none came
    p50: float  # seconds
    p90: float
    p99: float
    worst: float
    lag_p99: float  # seconds the generator's own ticks came late, fixed rate only
    cpu: float  # seconds this process used

    @property
    def seconds(self) -> float:
        return self.ended - self.started


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self, run: _Run, port: int) -> None:
        self._run = run
        self.port = port
        self._transport: asyncio.WriteTransport | None = None
        self._rest = b""
        self.index = -1
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own is no subclass
        self._run.free(self)

    def send(self, index: int, due: float) -> None:
        self.index, self._due = index, due
        assert self._transport is not None
        self._transport.write(self._run.requests[index])

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            self._rest = data
            return
        at = data.lower().find(b"content-length:", 0, head)
        length = int(data[at + 15 : data.index(b"\r\n", at)]) if at >= 0 else 0
        if len(data) < head + 4 + length:
            self._rest = data
            return
        self._rest = b""
        index, self.index = self.index, -1
        self._run.answered(index, int(data[9:12]), data[head + 4 :], self._due)
        assert self._transport is not None
        if not self._transport.is_closing():
            self._run.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost(self)


class _Run:
    """One measurement: which request comes next, and what came of the ones before."""

    def __init__(self, requests: Requests, ports: Sequence[int], count: int, rate: float | None) -> None:
        self.requests = requests
        self._ports = ports
        self._loop = asyncio.get_running_loop()
        self._rate = rate
        self._count = count
        self._next = 0
        self._again: deque[int] = deque()
        self._due: deque[float] = deque()  # ticks for which no connection was free
        self._idle: list[_Connection] = []
        self._latencies: list[float] = []
        self._lags: list[float] = []
        self._codes: Counter[str] = Counter()
        self._accepted = self._duplicates = 0
        self._started = self._ended = 0.0
        self._done = asyncio.Event()

    async def __call__(self, connections: int, time_limit: float) -> Result:
        for n in range(connections):
            await self._connect(self._ports[n % len(self._ports)])
        self._started = time.monotonic()
        cpu = time.process_time()
        async with asyncio.timeout(time_limit):
            if self._rate is None:
                while self._idle and self._more():
                    self._send(self._idle.pop(), time.monotonic())
            else:
                await self._tick(self._rate)
            await self._done.wait()
        return self._result(time.process_time() - cpu)

    async def _connect(self, port: int) -> None:
        await self._loop.create_connection(lambda: _Connection(self, port), "127.0.0.1", port)

    def _more(self) -> bool:
        return bool(self._again) or self._next < self._count

    def _send(self, connection: _Connection, due: float) -> None:
        if self._again:
            index = self._again.popleft()
        else:
            index = self._next
            self._next += 1
        connection.send(index, due)

    async def _tick(self, rate: float) -> None:
        for n in range(self._count):
            due = self._started + n / rate
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(due - now)
                now = time.monotonic()
            self._lags.append(now - due)
            if self._idle:
                self._send(self._idle.pop(), now)
            else:
                self._due.append(now)

    def free(self, connection: _Connection) -> None:
        """A connection can take a request."""
        if not self._started or self._done.is_set():
            self._idle.append(connection)
        elif self._rate is None and self._more():
            self._send(connection, time.monotonic())
        elif self._due and self._more():
            self._send(connection, self._due.popleft())
        else:
            self._idle.append(connection)

    def answered(self, index: int, code: int, text: bytes, due: float) -> None:
        self._codes[str(code)] += 1
        if not 200 <= code < 300:
            self._loop.call_later(_RETRY_SECONDS, self._retry, index)
            return
        self._ended = time.monotonic()
        self._latencies.append(self._ended - due)
        if text[:1] == b"{":
            receipt = json.loads(text)
            self._accepted += receipt["accepted"]
            self._duplicates += receipt["duplicates"]
        if len(self._latencies) == self._count:
            self._done.set()

    def lost(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        if self._done.is_set():
            return
        if connection.index >= 0:
            self._codes["reset"] += 1
            self._again.append(connection.index)
        self._loop.call_later(_RETRY_SECONDS, self._reconnect, connection.port)

    def _retry(self, index: int) -> None:
        self._again.append(index)
        if self._idle:
            self._send(self._idle.pop(), time.monotonic())
        elif self._rate is not None:
            self._due.append(time.monotonic())

    def _reconnect(self, port: int) -> None:
        async def connect() -> None:
            try:
                await self._connect(port)
            except OSError:
                self._loop.call_later(_RETRY_SECONDS, self._reconnect, port)

        self._connecting = self._loop.create_task(connect())  # kept: a task nobody holds may vanish

    def _result(self, cpu: float) -> Result:
        ranked = sorted(self._latencies)
        return Result(
            requests=len(ranked),
            events=len(ranked) * self.requests.pool.events_per_request,
            accepted=self._accepted,
            duplicates=self._duplicates,
            started=self._started,
            ended=self._ended,
            codes=dict(self._codes),
            p50=quantile(ranked, 0.5),
            p90=quantile(ranked, 0.9),
            p99=quantile(ranked, 0.99),
            worst=ranked[-1],
            lag_p99=quantile(sorted(self._lags), 0.99) if self._lags else 0.0,
            cpu=cpu,
        )


def quantile(ranked: Sequence[float], q: float) -> float:
    """The *q* quantile of ascending values."""
    return ranked[min(len(ranked) - 1, int(q * len(ranked)))]


async def run(
    pool: Path,
    ports: Sequence[int],
    *,
    connections: int,
    rate: float | None,
    requests: int | None,
    time_limit: float,
) -> Result:
    """Send a pool's first *requests* requests, each until it is accepted."""
    mapped = Pool.load(pool).open()
    count = len(mapped) if requests is None else min(requests, len(mapped))
    return await _Run(mapped, ports, count, rate)(connections, time_limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("ports", type=int, nargs="+", metavar="port")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, help="requests a second; without it a closed loop")
    parser.add_argument("--requests", type=int, help="how many; all of the pool without it")
    parser.add_argument("--time-limit", type=float, default=120.0)
    given = parser.parse_args()
    result = uvloop.run(
        run(
            given.pool,
            given.ports,
            connections=given.connections,
            rate=given.rate,
            requests=given.requests,
            time_limit=given.time_limit,
        )
    )
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main()
