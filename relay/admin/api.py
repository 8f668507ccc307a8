"""The handlers under `/api/v1`: parse what is asked, ask the relay, answer JSON.

Owns the wire form of requests; the wire form of answers is the dataclasses of `status`, `destinations`,
`gaps` and `dead_letters`. Decides nothing about delivery.
"""

from __future__ import annotations

from http import HTTPStatus

import orjson
from aiohttp import web
from aiohttp.web import Request, Response, StreamResponse

from relay.admin import asking
from relay.admin.control import RelayControl
from relay.admin.dead_letters import detail, summary
from relay.admin.destinations import DestinationStatus, destination_statuses, reader_statuses
from relay.admin.events import stream
from relay.admin.gaps import gap_statuses
from relay.admin.readiness import Readiness
from relay.admin.status import relay_status
from relay.clock import Clock
from relay.errors import Conflict, NotFound
from relay.observe.logs import Log
from relay.queue.base import DeadLetterFilter


def json_response(document: object, status: int = HTTPStatus.OK) -> Response:
    """A JSON answer; dataclasses become objects."""
    return Response(body=orjson.dumps(document), status=status, content_type="application/json")


class Api:
    """Version 1 of the admin API."""

    def __init__(self, control: RelayControl, readiness: Readiness, clock: Clock, log: Log) -> None:
        self._control = control
        self._readiness = readiness
        self._queue = control.queue
        self._clock = clock
        self._log = log

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/api/v1/status", self._status)
        router.add_get("/api/v1/destinations", self._destinations)
        router.add_get("/api/v1/destinations/{name}", self._destination)
        router.add_post("/api/v1/destinations/{name}/hold", self._hold)
        router.add_post("/api/v1/destinations/{name}/resume", self._resume)
        router.add_post("/api/v1/destinations/{name}/forget", self._forget)
        router.add_post("/api/v1/destinations/{name}/test", self._test)
        router.add_get("/api/v1/dead-letters", self._dead_letters)
        router.add_get(r"/api/v1/dead-letters/{id:\d{1,18}}", self._dead_letter)
        router.add_post("/api/v1/dead-letters/redrive", self._redrive)
        router.add_post("/api/v1/dead-letters/discard", self._discard)
        router.add_get("/api/v1/replays", self._replays)
        router.add_post("/api/v1/replays", self._replay)
        router.add_get("/api/v1/gaps", self._gaps)
        router.add_post(r"/api/v1/gaps/{id:\d{1,18}}/close", self._close_gap)
        router.add_post("/api/v1/pulls", self._pull)
        router.add_get("/api/v1/events", self._events)

    # -- status

    async def _status(self, _: Request) -> Response:
        trouble = await self._readiness.trouble()
        return json_response(await relay_status(self._control, self._clock.now(), trouble))

    async def _destinations(self, _: Request) -> Response:
        return json_response({"data": destination_statuses(self._control, self._clock.now())})

    async def _destination(self, request: Request) -> Response:
        return json_response(self._status_of(request.match_info["name"]))

    def _status_of(self, name: str) -> DestinationStatus:
        for status in destination_statuses(self._control, self._clock.now()):
            if status.name == name:
                return status
        raise NotFound(f"There is no destination {name!r}.")

    # -- destinations

    async def _hold(self, request: Request) -> Response:
        name = request.match_info["name"]
        asked = await asking.read_body(request, asking.Hold)
        await self._control.hold(name, asked.detail)
        return json_response(self._status_of(name))

    async def _resume(self, request: Request) -> Response:
        name = request.match_info["name"]
        await self._control.resume(name)
        return json_response(self._status_of(name))

    async def _forget(self, request: Request) -> Response:
        name = request.match_info["name"]
        await self._control.forget(name)
        return json_response({"forgotten": name})

    async def _test(self, request: Request) -> Response:
        return json_response(await self._control.test(request.match_info["name"]))

    # -- dead letters

    async def _dead_letters(self, request: Request) -> Response:
        page = asking.read_query(request, asking.DeadLetterPage)
        letters = await self._queue.dead_letters(page.which(), after=page.after, limit=page.limit)
        # A full page may be the last one; the next is empty then, and says so with `next: null`.
        following = letters[-1].id if len(letters) == page.limit else None
        return json_response({"data": list(map(summary, letters)), "meta": {"next": following}})

    async def _dead_letter(self, request: Request) -> Response:
        wanted = int(request.match_info["id"])
        for letter in await self._queue.dead_letters(DeadLetterFilter(ids=(wanted,)), limit=1):
            return json_response(detail(letter))
        raise NotFound(f"There is no dead letter {wanted}.")

    async def _redrive(self, request: Request) -> Response:
        selection = await asking.read_body(request, asking.Selection)
        self._require_delivering()
        return json_response({"events": await self._queue.redrive(selection.which())})

    async def _discard(self, request: Request) -> Response:
        selection = await asking.read_body(request, asking.Selection)
        self._require_delivering()
        return json_response({"events": await self._queue.discard(selection.which())})

    def _require_delivering(self) -> None:
        """Where another process keeps the readers to itself, nobody would read with those made here."""
        if not self._queue.sees_delivery:
            raise Conflict("This process only accepts events; ask the one that delivers.")

    # -- replays and gaps

    async def _replays(self, _: Request) -> Response:
        return json_response({"data": reader_statuses(self._queue.reader_infos())})

    async def _replay(self, request: Request) -> Response:
        asked = await asking.read_body(request, asking.Replay)
        self._require_delivering()
        self._status_of(asked.destination)
        info = await self._queue.replay(asked.destination, asked.start, asked.end, asked.rate)
        return json_response(reader_statuses([info])[0], HTTPStatus.ACCEPTED)

    async def _gaps(self, request: Request) -> Response:
        query = asking.read_query(request, asking.GapQuery)
        gaps = await self._queue.gaps(include_closed=query.include_closed)
        control, now = self._control, self._clock.now()
        return json_response({"data": gap_statuses(gaps, control.konnect(), control.replicas(), now)})

    async def _close_gap(self, request: Request) -> Response:
        """For whoever fetched it, or knows that nothing is missing. Closing a closed one changes nothing."""
        wanted = int(request.match_info["id"])
        asked = await asking.read_body(request, asking.CloseGap)
        now = self._clock.now()
        await self._queue.close_gap(wanted, at=now)
        control = self._control
        for gap in await self._queue.gaps(include_closed=True):
            if gap.id != wanted:
                continue
            (status,) = gap_statuses([gap], control.konnect(), control.replicas(), now)
            if gap.closed_at == now:
                self._log.info(
                    "gap.closed_by_hand",
                    gap=gap.id,
                    source=gap.source,
                    cause=gap.cause,
                    start=status.start,
                    end=status.end,
                    detail=asked.detail,
                    remote=request.remote,
                )
            return json_response(status)
        raise NotFound(f"There is no gap {wanted}.")

    async def _pull(self, request: Request) -> Response:
        """Answered when everything is appended, which may take minutes."""
        asked = await asking.read_body(request, asking.Pull)
        return json_response(await self._control.pull(asked.start, asked.end, asked.region))

    async def _events(self, request: Request) -> StreamResponse:
        asked = asking.read_query(request, asking.EventQuery)
        self._require_delivering()
        return await stream(request, asked, self._control, self._clock.now())
