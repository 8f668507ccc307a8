"""The admin listener: health, metrics, console and API on one port of their own.

Owns the listening socket and the way from a request to an answer; what the answers say is made in
`api`, `status` and `events`. Stores no event.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from relay.admin import console
from relay.admin.api import Api, json_response
from relay.admin.control import RelayControl
from relay.admin.events import EVENTS, HEADERS
from relay.admin.guard import Guard
from relay.admin.problems import problem, problem_of
from relay.admin.readiness import Readiness
from relay.clock import Clock
from relay.config.schema import Admin
from relay.errors import RelayError
from relay.observe.logs import Log
from relay.observe.metrics import CONTENT_TYPE, Metrics

_MAX_BODY: Final = 1024 * 1024  # bytes; the largest request is a list of dead-letter ids
_STOP_LIMIT: Final = 2.0  # seconds requests in progress may take when the relay stops


class AdminServer:
    """Serves the admin API of one relay."""

    def __init__(
        self, config: Admin, control: RelayControl, metrics: Metrics, *, clock: Clock, log: Log
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._readiness = Readiness(control.queue, clock)
        self._log = log
        self._guard = Guard(config.token.reveal() if config.token else None)
        self._runner = web.AppRunner(
            self._application(Api(control, self._readiness, clock, log)),
            access_log=None,
            shutdown_timeout=_STOP_LIMIT,
        )

    async def start(self) -> None:
        """Listen. Raises `OSError` when the address is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._config.host, self._config.port).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port listened on; differs from the configured one only where that is 0."""
        port: int = self._runner.addresses[0][1]
        return port

    def _application(self, api: Api) -> web.Application:
        app = web.Application(middlewares=[self._answer], client_max_size=_MAX_BODY)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/", console.page)
        api.add_routes(app.router)
        return app

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Admit, handle, and turn every error into a problem."""
        try:
            self._guard.admit(request)
            response = await handler(request)
        except RelayError as error:
            response = problem_of(error)
        except web.HTTPException as error:
            response = problem(error.status, f"{request.method} {request.path}: {error.reason}")
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except Exception:  # noqa: BLE001  # a bug in one handler must not show its stack to the client
            self._log.exception("admin.failed", method=request.method, path=request.path)
            response = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The relay's log says what went wrong.")
        if not response.prepared:
            response.headers.update(HEADERS)
        if request.method == "POST" or request.path == EVENTS:
            # Whoever held a destination, discarded events or read them should be found in the log afterwards.
            self._log.info("admin.request", path=request.path, status=response.status, remote=request.remote)
        return response

    async def _healthz(self, _: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        if (trouble := await self._readiness.trouble()) is not None:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
        return json_response({"status": "ready"})

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})
