"""A Konnect for the demonstration: makes events, posts them as Konnect does, and has a replay to ask for.

Owns what was made (the truth the demonstration is judged by) and the retry rules, ten times as fast as
documented: after 0.1, 0.2, 0.4 and 0.8 s a batch is given up, nobody keeps it for later, and the webhook is
inactive: nothing is sent until it is enabled again. Signs nothing.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, web

from relay.clock import Clock
from relay.konnect.times import rfc3339

TOKEN: Final = "kpat_demo"  # noqa: S105 - opens nothing but this
AUTHORIZATION: Final = "Bearer demonstration"

_ORGANISATION: Final = "b065b594-6afc-4658-9101-5d9cf3f36b7b"
_PRINCIPAL: Final = "87655c36-8d63-48fe-9a1e-53b28dfbc19b"
_WAITS: Final = (0.1, 0.2, 0.4, 0.8)  # seconds
_ANSWER_LIMIT: Final = 5.0  # seconds
_REPLAY_BATCH: Final = 50
_CHECK: Final = (
    "{stamp} konghq.com CEF:0|KongInc|Konnect|1.0|konnect|Authz.control-planes|1|rt={at} src=127.0.0.6"
    " action=list granted=true org_id={org} principal_id={who} actor_id= trace_id={number} user_agent=deck"
)
_ACCESS: Final = (
    "{stamp} konghq.com CEF:0|KongInc|Konnect|1.0|KongGateway|Ingress|1|rt={at} src=127.0.0.6"
    " request=/v2/control-planes act=POST status=201 org_id={org} principal_id={who} user_agent=curl/8.7"
    " trace_id={number} query={{}}"
)


@dataclass(slots=True)
class Counts:
    """What became of batches."""

    made: int = 0  # events
    retries: int = 0
    given_up: int = 0  # events of batches that nobody took
    unsent: int = 0  # events that happened while the webhook was inactive
    replayed: int = 0  # events sent once more


@dataclass(slots=True)
class _Job:
    start: float | None = None
    end: float | None = None
    status: str = "unconfigured"
    updated_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    at: int  # milliseconds since the epoch
    line: bytes


@dataclass(slots=True)
class _Webhook:
    enabled: bool = True
    failing: bool = False
    last_attempt_at: float | None = None
    last_code: int | None = None


class DemoKonnect:
    """Posts to *url*, the relay's intake, once it is started."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.counts = Counts()
        self.jobs = 0  # replay jobs so far
        self.webhook = _Webhook()
        self.port = 0
        self._url = url
        self._clock = clock
        self._made: list[_Made] = []
        self._job = _Job()
        self._tasks = asyncio.TaskGroup()
        self._session: ClientSession
        self._runner: web.AppRunner

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Listen on loopback; batches and replays run in *tasks*."""
        self._tasks = tasks
        self._session = ClientSession(timeout=ClientTimeout(total=_ANSWER_LIMIT))
        app = web.Application()
        router = app.router
        router.add_get("/v3/audit-log-webhook", self._get_webhook)
        router.add_patch("/v3/audit-log-webhook", self._patch_webhook)
        router.add_get("/v3/audit-log-webhook/status", self._status)
        router.add_get("/v3/audit-log-destinations/demo", self._get_destination)
        router.add_get("/v3/audit-log-replay-job", self._get_job)
        router.add_put("/v3/audit-log-replay-job", self._put_job)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    def truth(self) -> frozenset[int]:
        """The number of every event it still has, which is all of them: none is seven days old."""
        return frozenset(range(self.counts.made))

    def happen(self, events: int) -> None:
        """Something happens in the organisation: one batch."""
        now = round(self._clock.now() * 1000)
        batch = [self._event(now + n) for n in range(events)]
        self._made += batch
        if self.webhook.failing or not self.webhook.enabled:
            self.counts.unsent += events
            return
        self._tasks.create_task(self._send([each.line for each in batch]))

    def _event(self, at: int) -> _Made:
        number = self.counts.made
        self.counts.made += 1
        stamp = f"{rfc3339(at)[:19]}Z"
        text = (_ACCESS if number % 4 == 3 else _CHECK).format(
            stamp=stamp, at=at, org=_ORGANISATION, who=_PRINCIPAL, number=number
        )
        return _Made(at, text.encode())

    async def _send(self, lines: Sequence[bytes]) -> bool:
        """Whether the relay took them."""
        body = gzip.compress(b"".join([line + b"\n" for line in lines]), 1)
        headers = {
            "Authorization": AUTHORIZATION,
            "Content-Encoding": "gzip",
            "Content-Type": "text/plain",
        }
        for wait in (0.0, *_WAITS):
            await self._clock.sleep(wait)
            self.counts.retries += wait > 0
            status = await self._post(body, headers)
            self.webhook.last_attempt_at, self.webhook.last_code = self._clock.now(), status
            if status is not None and 200 <= status < 300:
                return True
            if status not in (None, 429, 500):
                break
        self.webhook.failing = True
        self.counts.given_up += len(lines)
        return False

    async def _post(self, body: bytes, headers: dict[str, str]) -> int | None:
        try:
            async with self._session.post(self._url, data=body, headers=headers) as response:
                await response.read()
                return response.status
        except (ClientError, TimeoutError):
            return None

    # The control API, as far as a recovery asks for it

    async def _get_webhook(self, _: web.Request) -> web.Response:
        return _json({"audit_log_destination_id": "demo", "enabled": self.webhook.enabled})

    async def _get_destination(self, _: web.Request) -> web.Response:
        return _json({"id": "demo", "name": "demo", "endpoint": self._url})

    async def _patch_webhook(self, request: web.Request) -> web.Response:
        self.webhook.enabled = bool(orjson.loads(await request.read()).get("enabled", False))
        self.webhook.failing = False
        return await self._get_webhook(request)

    async def _status(self, _: web.Request) -> web.Response:
        it = self.webhook
        return _json(
            {
                "webhook_enabled": it.enabled,
                "webhook_status": "active" if it.enabled and not it.failing else "inactive",
                "last_attempt_at": _time(it.last_attempt_at),
                "last_response_code": it.last_code or 0,
            }
        )

    async def _get_job(self, _: web.Request) -> web.Response:
        job = self._job
        return _json(
            {
                "start_at": _time(job.start),
                "end_at": _time(job.end),
                "status": job.status,
                "updated_at": _time(job.updated_at),
            }
        )

    async def _put_job(self, request: web.Request) -> web.Response:
        if self._job.status in ("accepted", "running"):
            return _json({"status": 409, "title": "Conflict"}, 409)
        asked = orjson.loads(await request.read())
        start, end = (datetime.fromisoformat(asked[name]).timestamp() for name in ("start_at", "end_at"))
        self._job = _Job(start, end, "accepted", self._clock.now())
        self.jobs += 1
        self._tasks.create_task(self._replay(self._job))
        return _json({"status": "accepted", "start_at": asked["start_at"], "end_at": asked["end_at"]}, 202)

    async def _replay(self, job: _Job) -> None:
        """Everything of the window once more, whoever has it already."""
        job.status = "running"
        first, last = (job.start or 0.0) * 1000, (job.end or 0.0) * 1000
        lines = [each.line for each in self._made if first <= each.at <= last]
        whole = True
        for at in range(0, len(lines), _REPLAY_BATCH):
            batch = lines[at : at + _REPLAY_BATCH]
            self.counts.replayed += len(batch)
            whole = await self._send(batch) and whole
        job.status, job.updated_at = "completed" if whole else "failed", self._clock.now()


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


def _time(seconds: float | None) -> str:
    return "0001-01-01T00:00:00Z" if seconds is None else rfc3339(round(seconds * 1000))
