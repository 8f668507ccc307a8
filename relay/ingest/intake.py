"""One request from its arrival to its answer: who, how much, what, stored, told.

    gate ─▶ read_body ─▶ unpack ─▶ queue.append ─▶ 200

Owns the order of these steps and what each failure is answered with (contract in architecture.md
section 8). Never answers 200 before the queue has the events, and never 503, which Konnect need not
retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp.web import BaseRequest

from relay.clock import Clock
from relay.config.schema import Server, Source
from relay.errors import QueueError, QueueFull
from relay.ingest.answers import Answer, Answers
from relay.ingest.auth import Gate
from relay.ingest.body import TooLarge, Undecodable, Unpacked, is_large, unpack
from relay.ingest.limits import InFlight, Overloaded, SenderLeft, Share, TooSlow, read_body
from relay.model import Receipt
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.queue.base import Queue

_PREFIX: Final = "/audit-logs"
_NOTHING: Final = Receipt(0, 0)
_BUSY_RETRY_AFTER: Final = 1.0  # seconds; requests in progress end soon
# Large bodies being unpacked at a time. What comes out is counted against the in-flight limit only
# afterwards, so this bounds what is not counted yet.
_UNPACKERS: Final = 2


@dataclass(slots=True)
class _Visit:
    """What is known of a request so far."""

    source: str | None
    arrived_at: float  # seconds since the epoch
    received: int = 0  # bytes of the body as sent
    decoded: int = 0  # bytes of the body after decompression
    receipt: Receipt = _NOTHING
    code: int | None = None  # None while, and if, there is no answer


class Intake:
    """Takes requests for all sources."""

    def __init__(
        self,
        server: Server,
        sources: Sequence[Source],
        queue: Queue,
        answers: Answers,
        *,
        clock: Clock,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._server = server
        self._queue = queue
        self._answers = answers
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._in_flight = InFlight(server.max_in_flight_bytes)
        self._unpackers = ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="ingest-unpack")
        self._attempts: dict[str, tuple[float, int]] = {}
        self.set_sources(sources)

    def set_sources(self, sources: Sequence[Source]) -> None:
        """Accept these sources' requests from now on; those in progress are finished as they began."""
        self._gate = Gate(sources)
        self._paths = {f"{_PREFIX}/{source.name}": source.name for source in sources}
        if len(sources) == 1:
            self._paths[_PREFIX] = sources[0].name

    def close(self) -> None:
        self._unpackers.shutdown(wait=False, cancel_futures=True)

    def last_attempt(self, source: str) -> tuple[float | None, int | None]:
        """When the source last sent something, in seconds since the epoch, and what it was answered."""
        return self._attempts.get(source, (None, None))

    async def handle(self, request: BaseRequest) -> Answer:
        """Answer one request. Raises only when it is cancelled."""
        began = self._clock.monotonic()
        # Paths of sources need no decoding; whatever else leads to one (a query string, a proxy's
        # absolute form) shows in the parsed path.
        source = self._paths.get(request.raw_path) or self._paths.get(request.path)
        visit = _Visit(source, self._clock.now())
        try:
            answer = await self._answer(request, visit)
            visit.code = None if answer is None else answer.status
        finally:
            self._record(request, visit, self._clock.monotonic() - began)
        if answer is None:
            # Konnect tries again after a connection that just ends, which it would not after a 408.
            if request.transport is not None:
                request.transport.abort()
            return self._answers.malformed()  # goes nowhere: aiohttp sees that the connection is gone
        if not request.content.is_eof():
            # The rest of the body would have to be read before another request on this connection.
            answer.force_close()
        return answer

    async def _answer(self, request: BaseRequest, visit: _Visit) -> Answer | None:
        """The answer, or None where there is nobody left to be told."""
        admitted = self._gate.admits(visit.source, request.headers.get("Authorization", ""))
        if visit.source is None:
            return self._answers.refused(HTTPStatus.NOT_FOUND)
        if request.method != "POST":
            return self._answers.refused(HTTPStatus.METHOD_NOT_ALLOWED)
        if not admitted:
            return self._answers.refused(HTTPStatus.UNAUTHORIZED)
        retry_after = None
        try:
            with self._in_flight.share() as share:
                await self._take(request, visit.source, visit, share)
            return self._answers.accepted(visit.receipt)
        except SenderLeft:
            return None
        except TooSlow:
            await self._note_gap(visit, "timeout")
            return None
        except TooLarge:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        except Undecodable:
            status = HTTPStatus.BAD_REQUEST
        except Overloaded:
            status, retry_after = HTTPStatus.TOO_MANY_REQUESTS, _BUSY_RETRY_AFTER
        except QueueFull as full:
            status, retry_after = HTTPStatus.TOO_MANY_REQUESTS, full.retry_after
        except QueueError as error:
            self._log.error("ingest.not_stored", source=visit.source, error=str(error))
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        except Exception:  # noqa: BLE001  # a bug of ours must not cost the batch: Konnect retries a 500
            self._log.exception("ingest.failed", source=visit.source)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        await self._note_gap(visit, str(int(status)))
        return self._answers.refused(status, retry_after=retry_after)

    async def _take(self, request: BaseRequest, source: str, visit: _Visit, share: Share) -> None:
        """Read, unpack and store a request's events."""
        raw = await read_body(
            request, share, max_bytes=self._server.max_body, time_limit=self._server.body_timeout
        )
        visit.received = len(raw)
        unpacked = await self._unpack(raw, source, visit)
        visit.decoded = unpacked.nbytes
        share.take(unpacked.nbytes)
        if unpacked.batches:
            visit.receipt = await self._queue.append(unpacked.batches)
            formats = [pair for batch in unpacked.batches for pair in batch.formats]
            self._metrics.accepted(source, formats)

    async def _unpack(self, raw: bytes, source: str, visit: _Visit) -> Unpacked:
        def run() -> Unpacked:
            return unpack(
                raw, source=source, received_at=visit.arrived_at, max_decoded=self._server.max_decoded_body
            )

        try:
            if is_large(raw):
                return await asyncio.get_running_loop().run_in_executor(self._unpackers, run)
            return run()
        except Undecodable as error:
            # Kept before the answer: if that fails too, the sender gets a 500 and tries again.
            await self._queue.quarantine(source, raw, str(error))
            raise

    async def _note_gap(self, visit: _Visit, cause: str) -> None:
        """Konnect may give up on what was refused: let recovery know."""
        if visit.source is not None:
            # A queue that cannot even note this is the reason for most refusals; the answer says so.
            with suppress(QueueError):
                await self._queue.open_gap(visit.source, visit.arrived_at, self._clock.now(), cause)

    def _record(self, request: BaseRequest, visit: _Visit, seconds: float) -> None:
        """Tell metrics, status and log of a request that is over."""
        if visit.source is not None and visit.code is not None:
            self._attempts[visit.source] = (visit.arrived_at, visit.code)
        self._metrics.request(visit.source or "unknown", visit.code, seconds, visit.received)
        self._log.info(
            "ingest.request",
            source=visit.source,
            code=visit.code,
            accepted=visit.receipt.accepted,
            duplicates=visit.receipt.duplicates,
            bytes=visit.received,
            decoded_bytes=visit.decoded,
            seconds=round(seconds, 6),
            remote=request.remote,
        )
