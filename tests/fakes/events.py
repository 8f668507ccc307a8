"""Events to test with: Konnect's sample lines, made unique, and batches of them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

from relay.konnect.lines import count_formats
from relay.model import Batch

DATA = Path(__file__).parent.parent / "data"
NOW = 1_795_000_000.0  # the wall time at which tests begin, seconds since the epoch

_CEF = (
    b"2026-11-18T10:26:40Z konghq.com CEF:0|KongInc|Konnect|1.0|konnect|Authz.portals|1|rt=%d src=127.0.0.6"
    b" action=retrieve granted=true org_id=b065b594-6afc-4658-9101-5d9cf3f36b7b"
    b" principal_id=87655c36-8d63-48fe-9a1e-53b28dfbc19b actor_id= trace_id=%d user_agent=grpc-go/1.51.0"
)


def cef(number: int, *, at: float = NOW) -> bytes:
    """A CEF line unlike any with another number, that happened at *at*."""
    return _CEF % (int(at * 1000), number)


def lines(count: int, *, first: int = 0, at: float = NOW) -> list[bytes]:
    """Different events, a millisecond apart."""
    return [cef(n, at=at + n / 1000) for n in range(first, first + count)]


def restamped(line: bytes) -> bytes:
    """The line as a replay may send it: the same event under a new header time."""
    return re.sub(rb"^\S+", b"2026-11-19T00:00:00Z", line)


def batch(events: Sequence[bytes], *, source: str = "eu", at: float = NOW, pulled: bool = False) -> Batch:
    """These lines as ingest would hand them to the queue, or as recovery would."""
    body = b"".join(line + b"\n" for line in events)
    payload = gzip.compress(body, 6, mtime=0)
    return Batch(source, at, count_formats(events), body, payload, list(events), pulled)
