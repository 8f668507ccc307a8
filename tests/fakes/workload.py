"""Audit-log traffic as Konnect sends it, made up in advance: lines, bodies, whole HTTP requests.

Owns what traffic looks like and never sends anything. A *pool* is a file of ready-made requests, so
that a load generator on the relay's own two cores costs little more than a write per request.

Every event is unique by its signature of 64 random bytes, which is also most of what is left of it
after gzip: 100 events are 42.5 kB, 8.5 kB gzip'd. Times ascend as they would over several connections
at once: each sender gathers a batch for some milliseconds, so that neighbouring batches overlap, and
the dedup index is asked what it would be asked in life.
"""

from __future__ import annotations

import mmap
import random
import struct
import time
from array import array
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from relay import gzipped

AUTHORIZATION = "Bearer benchmark"
SENDERS = 16  # connections that Konnect is imagined to gather batches for

_PRINCIPALS = [b"%08x-8d63-48fe-9a1e-53b28dfbc19b" % (0x87655C36 + n * 7919) for n in range(50)]
_AGENTS = [
    b"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/138.0",
    b"grpc-node-js/1.12.4",
    b"terraform-provider-konnect/2.7.4 kong-sdk-go/0.5.0",
    b"grpc-node/1.24.11 grpc-c/8.0.0 (linux; chttp2; ganges)",
]
_HEAD = b"%b konghq.com CEF:0|KongInc|Konnect|1.0|"
_TAIL = b" org_id=b065b594-6afc-4658-9101-5d9cf3f36b7b principal_id=%b trace_id=%d user_agent=%b sig=%b\n"
_AUTHZ = _HEAD + b"konnect|Authz.NAME|1|rt=%d src=127.0.0.6 action=ACTION granted=true" + _TAIL
# Sixteen kinds, as likely as each other: authorization checks are by far the bulk of what Konnect sends.
_CHECKS = ["control-planes", "services", "runtime-groups", "identity-provider", "portals", "usage", "teams"]
_EVENTS = [
    *[
        _AUTHZ.replace(b"NAME", name.encode()).replace(b"ACTION", action)
        for name in _CHECKS
        for action in (b"retrieve", b"list")
    ],
    _HEAD
    + b"KongGateway|Ingress|1|rt=%d src=127.0.0.6 request=/v2/control-planes act=POST status=200"
    + _TAIL,
    _HEAD
    + b"AUTHENTICATION_TYPE_PAT|AUTHENTICATION_OUTCOME_SUCCESS|0"
    + b"|rt=%d src=127.0.0.1 request=/authenticate success=true"
    + _TAIL,
]
_RUN = 10  # events in a row of one user's call, under one trace id: it asks for several permissions


def body(rng: random.Random, count: int, *, first_ms: int, span_ms: int) -> bytes:
    """*count* CEF lines, each ended by a newline, with ascending times in [first, first + span)."""
    signatures = urlsafe_b64encode(rng.randbytes(66 * count))
    runs = -(-count // _RUN)
    traces = struct.unpack(f"<{runs}Q", rng.randbytes(8 * runs))
    choices = rng.randbytes(count)
    lines = []
    second, stamp = -1, b""
    for i in range(count):
        rt = first_ms + span_ms * i // count
        if rt // 1000 != second:
            second = rt // 1000
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)).encode()
        run, within = divmod(i, _RUN)
        user = choices[i - within]
        who, agent = _PRINCIPALS[user % len(_PRINCIPALS)], _AGENTS[user % len(_AGENTS)]
        signature = signatures[88 * i : 88 * i + 86]
        line = _EVENTS[choices[i] % len(_EVENTS)]
        lines.append(line % (stamp, rt, who, traces[run] >> 1 | 1 << 62, agent, signature))
    return b"".join(lines)


def bodies(
    rng: random.Random, count: int, events: int, *, rate: float, start_ms: int | None = None
) -> Iterator[bytes]:
    """*count* bodies of *events* lines as *SENDERS* senders would make them at *rate* events a second."""
    start = round(time.time() * 1000) if start_ms is None else start_ms
    gather_ms = max(1, round(1000 * events * SENDERS / rate))
    for n in range(count):
        yield body(rng, events, first_ms=start + round(1000 * events * n / rate), span_ms=gather_ms)


def request(path: str, payload: bytes, *, authorization: str = AUTHORIZATION, gzip: bool = True) -> bytes:
    """A whole HTTP/1.1 request as Konnect sends it."""
    encoding = "Content-Encoding: gzip\r\n" if gzip else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: relay.test\r\nUser-Agent: Go-http-client/1.1\r\n"
        f"Content-Length: {len(payload)}\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: text/plain\r\n{encoding}\r\n"
    )
    return head.encode() + payload


@dataclass(frozen=True, slots=True)
class Pool:
    """Ready-made requests in a file: one after another, then their ends, then the sizes in words."""

    path: Path
    events_per_request: int
    requests: int
    body_bytes: int  # as sent, gzip'd
    line_bytes: int  # uncompressed

    @property
    def events(self) -> int:
        return self.requests * self.events_per_request

    @classmethod
    def make(
        cls,
        path: Path,
        requests: int,
        events_per_request: int,
        *,
        rate: float = 200_000,
        seed: int = 1,
        sign: Callable[[bytes], bytes] = bytes,
    ) -> Pool:
        """Write a pool. *rate* is how fast its clock runs, in events a second; *sign* rewrites each body."""
        rng = random.Random(seed)
        ends = array("Q")
        end = body_bytes = line_bytes = 0
        with path.open("wb") as file:
            for plain in bodies(rng, requests, events_per_request, rate=rate):
                plain = sign(plain)
                payload = gzipped.compress(plain)
                end += file.write(request("/audit-logs/bench", payload))
                ends.append(end)
                body_bytes += len(payload)
                line_bytes += len(plain)
            file.write(ends.tobytes())
            file.write(struct.pack("<4Q", requests, events_per_request, body_bytes, line_bytes))
        return cls(path, events_per_request, requests, body_bytes, line_bytes)

    @classmethod
    def load(cls, path: Path) -> Pool:
        with path.open("rb") as file:
            file.seek(-32, 2)
            requests, events, body_bytes, line_bytes = struct.unpack("<4Q", file.read())
        return cls(path, events, requests, body_bytes, line_bytes)

    def open(self) -> Requests:
        return Requests(self)


class Requests:
    """A pool mapped into memory; `requests[i]` is the whole i-th request."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        with pool.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        at = len(self._map) - 32 - 8 * pool.requests
        self._ends = array("Q", self._map[at : at + 8 * pool.requests])

    def __len__(self) -> int:
        return self.pool.requests

    def __getitem__(self, index: int) -> bytes:
        start = self._ends[index - 1] if index else 0
        return self._map[start : self._ends[index]]
