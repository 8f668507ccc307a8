"""A SIEM that answers at once and counts honestly: `python -m tests.fakes.sink PORT`.

Stands in for a fast receiver in benchmarks; tests/fakes/siem.py is the one with a mind of its own.
Plain bodies are counted by their newlines as they arrive. Gzip'd ones are kept and counted on demand,
after the run, because inflating them here would cost as much as what is being measured; nothing is
taken from a header or on trust.

`GET /progress` answers JSON: events counted so far, requests, bytes, and when the first and last body
came. `GET /count` first counts what was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop

from relay import gzipped

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_BUFFER_BYTES = 256 * 1024


class Totals:
    """What all connections of a sink received."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0  # bodies as sent
        self.newlines = 0
        self.zipped: list[bytes] = []  # bodies not yet counted
        self.first: float | None = None  # CLOCK_MONOTONIC, so it compares across processes
        self.last: float | None = None

    def count(self) -> None:
        """Count the gzip'd bodies that were only kept so far."""
        bodies, self.zipped = self.zipped, []
        for zipped in bodies:
            self.newlines += gzipped.decompress(zipped).count(b"\n")

    def report(self) -> bytes:
        return json.dumps(
            {
                "events": self.newlines,
                "requests": self.requests,
                "bytes": self.bytes,
                "first": self.first,
                "last": self.last,
            }
        ).encode()


class _Connection(asyncio.BufferedProtocol):
    """HTTP/1.1 as far as a sender of bodies with a length needs it."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._head = b""
        self._left = 0  # bytes of the body still to come
        self._zipped: list[bytes] | None = None  # the parts of a gzip'd body
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own is no subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        at = 0
        while at < nbytes:
            if self._left:
                end = min(nbytes, at + self._left)
                self._body(at, end)
                at = end
            else:
                at = self._begin(at, nbytes)

    def _begin(self, at: int, end: int) -> int:
        """Read a request's head from the buffer; where the body starts."""
        seen = len(self._head)
        self._head += self._view[at:end]
        head = self._head.find(b"\r\n\r\n")
        if head < 0:
            return end
        text = self._head[:head].lower()
        self._head = b""
        if text.startswith(b"get "):
            if text.startswith(b"get /count "):
                self._totals.count()
            self._answer(b"HTTP/1.1 200 OK\r\n", self._totals.report())
            return at + head + 4 - seen
        found = text.find(b"\r\ncontent-length:")
        if found < 0:
            self._answer(b"HTTP/1.1 411 Length Required\r\n", b"")
            return end
        self._left = int(text[found + 17 :].split(b"\r\n", 1)[0])
        self._zipped = [] if b"\r\ncontent-encoding: gzip" in text else None
        if self._totals.first is None:
            self._totals.first = time.monotonic()
        if not self._left:
            self._finish()
        return at + head + 4 - seen

    def _body(self, at: int, end: int) -> None:
        if self._zipped is None:
            self._totals.newlines += self._buffer.count(b"\n", at, end)
        else:
            self._zipped.append(bytes(self._view[at:end]))
        self._totals.bytes += end - at
        self._left -= end - at
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        if self._zipped:
            self._totals.zipped.append(b"".join(self._zipped))
        self._totals.requests += 1
        self._totals.last = time.monotonic()
        assert self._transport is not None
        self._transport.write(_OK)

    def _answer(self, status: bytes, body: bytes) -> None:
        assert self._transport is not None
        self._transport.write(status + b"Content-Length: %d\r\n\r\n" % len(body) + body)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    totals = Totals()
    server = await loop.create_server(lambda: _Connection(totals), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
