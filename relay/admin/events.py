"""`GET /api/v1/events`: what was accepted, and what became of each event, as one long stream of JSON lines.

    {"from": …, "to": …, "version": …, "destinations": {"splunk": {"discarded": 0}, …}, …}
    {"id": …, "source": …, "received_at": …, "pulled": false, "line": …,
     "fates": {"splunk": "delivered", …}, "kept_back": false}
    …
    {"events": 2, "retained_from": null}

Owns the form of the stream. However long it is, a few batches are in memory; a stream without its last line
is not whole. What a fate can and cannot tell is the affair of `relay.queue.fates`.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

import orjson
from aiohttp.web import Request, StreamResponse

from relay.admin.asking import EventQuery
from relay.admin.control import RelayControl
from relay.admin.times import rfc3339
from relay.batch import StoredBatch
from relay.errors import RelayError
from relay.konnect.times import line_time
from relay.queue.base import Queue
from relay.queue.fates import Standing, Wanted, standings

EVENTS: Final = "/api/v1/events"
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# An event comes after it happened, but the sender's clock may be ahead of ours.
_CLOCKS_DIFFER: Final = 300.0  # seconds
_SIGN_OF_LIFE: Final = b"\n"  # for who waits while a long stretch of the log holds nothing of the range


async def stream(request: Request, asked: EventQuery, control: RelayControl, now: float) -> StreamResponse:
    """Answer with the events that happened in the range. Raises `QueueError` before the first byte only."""
    queue = control.queue
    names = queue.destinations()
    standing = await standings(queue, names)
    lines = _Lines(asked, standing, {name: control.wanted(name) for name in names})
    response = StreamResponse(headers={**HEADERS, "Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    await response.write(_header(control, asked, now))
    try:
        async with aclosing(queue.received(asked.start - _CLOCKS_DIFFER, now + _CLOCKS_DIFFER)) as batches:
            async for batch in batches:
                if asked.source in (None, batch.source):
                    # Reading lines takes a while; a thread leaves the event loop to intake and delivery.
                    await response.write(await asyncio.to_thread(lines.of, batch))
        # Now, and not before: what was purged while we read counts as gone.
        retained_from = await _retained_from(queue, now)
    except RelayError:
        # The status is gone already. Without the last line the other side knows that this was not all.
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write(orjson.dumps({"events": lines.count, "retained_from": retained_from}) + b"\n")
    await response.write_eof()
    return response


def _header(control: RelayControl, asked: EventQuery, now: float) -> bytes:
    queue = control.queue
    own = control.replicas()[0]
    document = {
        "from": rfc3339(asked.start),
        "to": rfc3339(asked.end),
        "time": rfc3339(now),
        "version": own.version,
        "replica": own.id,
        "sources": [source.name for source in control.sources()],
        "destinations": {name: {"discarded": queue.books(name).discarded} for name in queue.destinations()},
    }
    return orjson.dumps(document) + b"\n"


async def _retained_from(queue: Queue, now: float) -> str | None:
    """Since when the log holds everything that was accepted; None: it still holds its first event."""
    async with aclosing(queue.received(0.0, now + _CLOCKS_DIFFER)) as batches:
        async for batch in batches:
            return None if batch.sequence <= 1 else rfc3339(batch.received_at)
    return None if queue.stats().head.sequence <= 1 else rfc3339(now)


class _Lines:
    """Batches as lines of the stream. Used for one batch at a time, in the log's order."""

    def __init__(
        self, asked: EventQuery, standing: Mapping[str, Standing], wanted: Mapping[str, Wanted]
    ) -> None:
        self.count = 0
        # Exact at the millisecond: what is next to a border must not depend on the last bit of a float.
        self._start, self._end = round(asked.start * 1000), round(asked.end * 1000)
        self._standing = standing
        self._wanted = wanted

    def of(self, batch: StoredBatch) -> bytes:
        fates = {name: each.fates(batch, self._wanted[name](batch)) for name, each in self._standing.items()}
        received_at = rfc3339(batch.received_at)
        found = []
        for index in range(batch.count):
            line, number = batch.line(index), batch.sequence + index
            if self._start <= line_time(line, batch.received_at) < self._end:
                document = {
                    "id": batch.ids[index],
                    "source": batch.source,
                    "received_at": received_at,
                    "pulled": batch.pulled,
                    **_line(line),
                    "fates": {name: each[index] for name, each in fates.items()},
                    "kept_back": any(number in each.kept_back for each in self._standing.values()),
                }
                found.append(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
        self.count += len(found)
        return b"".join(found) or _SIGN_OF_LIFE


def _line(line: bytes) -> Mapping[str, str]:
    text = line.decode("utf-8", "replace")
    if text.encode() == line:
        return {"line": text}
    return {"line": text, "line_base64": b64encode(line).decode()}
