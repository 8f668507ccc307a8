"""Kong Konnect on loopback: its control API, its webhooks, and what it still knows.

    async with FakeKonnect(clock) as konnect:
        konnect.organisation.bind(relay_url, "Bearer x")     # as after a set-up
        sendings = konnect.happen(maker.some(100, at=clock.now()), batch=10)
        await konnect.sent()                                 # each was accepted or given up on
        konnect.faults.add(Fault("PUT", "*/audit-log-replay-job", status=429, retry_after="3"))
        KonnectApi(Hosts(konnect.url("us"), konnect.url("global")), token, clock=clock)

One port serves every host: regions and the global one are base paths. Time is the clock's: waits of the
retry rules, the pace of replay jobs, and the seven days after which events are deleted.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from relay.clock import Clock
from tests.fakes.konnect.call import Call, Handler
from tests.fakes.konnect.destinations_api import DestinationsApi
from tests.fakes.konnect.events import AuditEvent
from tests.fakes.konnect.faults import Fault, Faults
from tests.fakes.konnect.organisation import REGION, Organisation, Place
from tests.fakes.konnect.problems import Problem
from tests.fakes.konnect.pull_api import PullApi
from tests.fakes.konnect.replays import Replays
from tests.fakes.konnect.sender import Sender, Sending
from tests.fakes.konnect.truth import Kept, Truth
from tests.fakes.konnect.webhooks_api import WebhooksApi
from tests.fakes.process import free_port

TIME_LIMIT = 40.0  # real seconds any wait may take before the test fails
GLOBAL = "global"
REGIONS = ("us", "eu", "au", "me", "in", "sg")


class FakeKonnect:
    """The server. `calls` is everything that was asked of the control API."""

    def __init__(self, clock: Clock, *, trust: ssl.SSLContext | None = None) -> None:
        """*trust* are the authorities that webhooks' certificates are checked against."""
        self.calls: list[Call] = []
        self.faults = Faults()
        self.organisation = Organisation(clock.now)
        self.truth = Truth(clock.now)
        self.sender = Sender(self.organisation, clock, trust)
        self.replays = Replays(self.organisation, self.truth, self.sender, clock)
        self.pull = PullApi(self.truth)
        self.port = 0
        self.date: str | None = None  # a Date header in place of the true one
        self._clock = clock
        self._closing = asyncio.Event()
        self._arrival = asyncio.Condition()  # a call came
        self._runner: web.ServerRunner | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._routes = self._table()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, port: int | None = None) -> None:
        """Listen; with *port* on one of the test's choice."""
        self._closing.clear()
        await self.sender.open()
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port or free_port()).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening and sending."""
        self._closing.set()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.sender.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # Where it is

    def url(self, host: str = REGION) -> str:
        """The base URL of a region, or of `global`."""
        return f"http://127.0.0.1:{self.port}/{host}"

    # What happens

    def record(self, events: Iterable[AuditEvent], region: str = REGION) -> None:
        """Events that Konnect keeps but sends to nobody: its webhook failed, or was off."""
        self.truth.add(region, events)

    def happen(self, events: Sequence[AuditEvent], *, batch: int = 10, region: str = REGION) -> list[Sending]:
        """Keep *events* and send them in this order, *batch* at a time, in the background."""
        self.record(events, region)
        sendings: list[Sending] = []
        for portal in dict.fromkeys(event.portal for event in events):
            ours = [event for event in events if event.portal == portal]
            place = Place(region, portal)
            cuts = range(0, len(ours), batch)
            sendings += [self.sender.begin(place, ours[first : first + batch]) for first in cuts]
        for sending in sendings:
            self._start(self.sender.send(sending))
        return sendings

    async def sent(self, *, within: float = TIME_LIMIT) -> None:
        """Wait until every batch is over. Retries wait for the clock, which somebody has to turn."""
        async with asyncio.timeout(within):
            for sending in self.sender.sendings:
                await sending.over.wait()

    def begin_replay(self, start: float, end: float, place: Place | None = None) -> None:
        """Accept a job as the API does, for a test that does not ask the API."""
        where = place or Place()
        job = self.organisation.job(where)
        job.start, job.end, job.status = start, end, "accepted"
        self._start_replay(where)

    async def replayed(self, place: Place | None = None, *, within: float = TIME_LIMIT) -> str:
        """Wait until no background work is left; the replay job's last status."""
        async with asyncio.timeout(within):
            while self._background:
                await asyncio.wait(self._background)
        return self.organisation.job(place or Place()).status

    def held(self, place: Place | None = None) -> list[Kept]:
        """What it still knows of a place, oldest first."""
        where = place or Place()
        return self.truth.held(where.region, where.portal)

    def called(self, method: str, path: str) -> list[Call]:
        """The calls of this method whose path ends like that."""
        return [call for call in self.calls if call.method == method and call.path.endswith(path)]

    async def asked(self, method: str, path: str, *, times: int = 1, within: float = TIME_LIMIT) -> None:
        """Wait until so many such calls have come, answered or not."""
        async with asyncio.timeout(within), self._arrival:
            await self._arrival.wait_for(lambda: len(self.called(method, path)) >= times)

    # The server's side

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)  # awaited by `close`
        task.add_done_callback(self._background.discard)

    def _start_replay(self, place: Place) -> None:
        self._start(self.replays.run(place))

    def _table(self) -> list[tuple[str, re.Pattern[str], Handler]]:
        destinations = DestinationsApi(self.organisation)
        webhooks = WebhooksApi(self.organisation, self._start_replay)
        pull = self.pull
        one, portal = r"/(?P<destination>[^/]+)", r"(?:/portals/(?P<portal>[^/]+))"
        routes: list[tuple[str, str, Handler]] = [
            ("POST", r"/v[23]/audit-log-destinations", destinations.create),
            ("GET", r"/v[23]/audit-log-destinations", destinations.list),
            ("GET", rf"/v[23]/audit-log-destinations{one}", destinations.get),
            ("PATCH", rf"/v[23]/audit-log-destinations{one}", destinations.patch),
            ("DELETE", rf"/v[23]/audit-log-destinations{one}", destinations.delete),
            ("GET", r"/v2/audit-log-webhook", webhooks.get_inline),
            ("PATCH", r"/v2/audit-log-webhook", webhooks.patch_inline),
            ("GET", r"/v2/audit-log-webhook/jwks\.json", webhooks.keys),
            ("GET", rf"/v3{portal}?/audit-log-webhook", webhooks.get),
            ("PATCH", rf"/v3{portal}?/audit-log-webhook", webhooks.patch),
            ("DELETE", rf"/v3{portal}?/audit-log-webhook", webhooks.delete),
            ("GET", rf"/v[23]{portal}?/audit-log-webhook/status", webhooks.status),
            ("GET", rf"/v[23]{portal}?/audit-log-replay-job", webhooks.get_replay),
            ("PUT", rf"/v[23]{portal}?/audit-log-replay-job", webhooks.put_replay),
            ("GET", r"/v3/audit-logs", pull.get),
        ]
        return [(method, re.compile(path), handler) for method, path, handler in routes]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        _, host, path = request.path.split("/", 2) if request.path.count("/") > 1 else ("", "", "")
        authorization = request.headers.get("Authorization")
        call = Call(request.method, host, f"/{path}", request.query, await request.read(), authorization)
        async with self._arrival:
            self.calls.append(call)
            self._arrival.notify_all()
        fault = self.faults.take(call.method, call.path)
        if fault is None:
            response = await self._answer(call)
        else:
            response = await self._misbehave(request, call, fault)
        if self.date is not None:
            response.headers["Date"] = self.date
        return response

    async def _misbehave(self, request: web.BaseRequest, call: Call, fault: Fault) -> web.StreamResponse:
        if fault.effective:
            await self._answer(call)
        if fault.hang:
            await self._closing.wait()
        if fault.hang or fault.reset:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if fault.body is not None:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else None
            return web.Response(status=fault.status, body=fault.body, headers=headers)
        return Problem(fault.status).response(fault.retry_after)

    async def _answer(self, call: Call) -> web.StreamResponse:
        try:
            handler, names = self._route(call)
            if not call.path.endswith("jwks.json"):
                self._admit(call)
            return await handler(call, **names)
        except Problem as problem:
            return problem.response()

    def _route(self, call: Call) -> tuple[Handler, dict[str, Any]]:
        regional = "audit-log-destinations" not in call.path
        if call.host not in REGIONS and (regional or call.host != GLOBAL):
            raise Problem(404)
        for method, pattern, handler in self._routes:
            found = pattern.fullmatch(call.path)
            if found is not None and method == call.method:
                return handler, found.groupdict()
        raise Problem(404)

    def _admit(self, call: Call) -> None:
        scheme, _, token = (call.authorization or "").partition(" ")
        if scheme != "Bearer" or token not in self.organisation.tokens:
            raise Problem(401)
        if not self.organisation.tokens[token]:
            raise Problem(403)
