"""What bounds the intake's memory: the bytes that all requests in progress hold together.

Owns the count of them, and how a body is read within it. Never waits for room: a request that finds none
is refused, and Konnect tries again.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import HttpVersion11
from aiohttp.web import BaseRequest, RequestPayloadError

from relay.errors import RelayError
from relay.ingest.body import TooLarge


class Overloaded(RelayError):
    """Requests in progress already hold as much memory as they may."""


class SenderLeft(RelayError):
    """The connection ended before the whole body had come."""


class TooSlow(RelayError):
    """The body did not come within the time limit."""


class InFlight:
    """Bytes held by requests in progress: bodies as received, and what they decode to."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def share(self) -> Share:
        """One request's share, given back on leaving its `with` block."""
        return Share(self)


class Share:
    """The bytes one request holds."""

    __slots__ = ("_held", "_of")

    def __init__(self, of: InFlight) -> None:
        self._of = of
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._of.used -= self._held

    def take(self, amount: int) -> None:
        """Hold *amount* bytes more. Raises `Overloaded`.

        A request that is alone gets what it asks for, since waiting would never help it; how much one
        request may hold is limited by its own size limits.
        """
        others = self._of.used - self._held
        if others and self._of.used + amount > self._of.limit:
            raise Overloaded
        self._of.used += amount
        self._held += amount


async def read_body(request: BaseRequest, share: Share, *, max_bytes: int, time_limit: float) -> bytes:
    """The whole body as it was sent, within *max_bytes* and *time_limit* seconds.

    Raises `TooLarge`, `Overloaded`, `TooSlow` or `SenderLeft`. Where the size was announced, the first
    two are raised before a byte of it is read.
    """
    announced = request.content_length
    if announced is not None:
        if announced > max_bytes:
            raise TooLarge(f"the request body is more than {max_bytes} bytes")
        share.take(announced)
    content = request.content
    try:
        if content.is_eof() and announced is not None:  # the usual case: it came with the headers
            return content.read_nowait()
        await _invite(request)
        parts = []
        total = 0
        async with asyncio.timeout(time_limit):
            while part := await content.readany():
                total += len(part)
                if total > max_bytes:
                    raise TooLarge(f"the request body is more than {max_bytes} bytes")
                if announced is None:
                    share.take(len(part))
                parts.append(part)
    except TimeoutError as error:
        raise TooSlow from error
    except (OSError, RequestPayloadError) as error:
        # What aiohttp raises here depends on how the connection ended; a chunk whose framing is broken
        # comes the same way and ends the connection too.
        raise SenderLeft from error
    return b"".join(parts)


async def _invite(request: BaseRequest) -> None:
    """Answer `Expect: 100-continue`: the sender waits for that before it sends the body."""
    if request.transport is None:
        # It left before its request had its turn; aiohttp would not say so but raise RuntimeError.
        raise SenderLeft
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
