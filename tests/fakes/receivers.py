"""Every vendor's intake in one process: `python -m tests.fakes.receivers PORT SYSLOG`.

For tests of volume. Answers as each vendor does when all is well, and counts by taking apart what came;
tests/fakes/siem.py is the one that has moods. `GET /counts` answers JSON: events by destination type.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from relay import gzipped

Taker = Callable[[bytes], tuple[int, web.Response]]
_MAX_BODY = 64 * 1024 * 1024


def _lines(body: bytes) -> tuple[int, web.Response]:
    return body.count(b"\n"), web.Response()


def _collector(body: bytes) -> tuple[int, web.Response]:
    parts = [orjson.loads(part) for part in body.split(b"\n")]
    return len(parts), web.json_response({"text": "Success", "code": 0})


def _bulk(body: bytes) -> tuple[int, web.Response]:
    documents = [orjson.loads(line) for line in body.splitlines()[1::2]]
    items = [{"create": {"status": 201}} for _ in documents]
    return len(documents), web.json_response({"errors": False, "items": items})


def _array(status: int) -> Taker:
    return lambda body: (len(orjson.loads(body)), web.Response(status=status, text="{}"))


def _streams(body: bytes) -> tuple[int, web.Response]:
    streams = orjson.loads(body)["streams"]
    return sum(len(stream["values"]) for stream in streams), web.Response(status=204)


def _groups(body: bytes) -> tuple[int, web.Response]:
    groups = orjson.loads(body)
    return sum(len(group["logs"]) for group in groups), web.Response(status=202, text='{"requestId":"r"}')


def _import(body: bytes) -> tuple[int, web.Response]:
    return len(orjson.loads(body)["inlineSource"]["logs"]), web.json_response({})


TAKERS: dict[str, Taker] = {
    "http": _lines,
    "sumologic": _lines,
    "splunk_hec": _collector,
    "logscale": _collector,
    "elasticsearch": _bulk,
    "datadog": _array(202),
    "loki": _streams,
    "newrelic": _groups,
    "sentinel": _array(204),
    "google_secops": _import,
}


class Receivers:
    """The counts, and how requests add to them."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    async def take(self, request: web.Request) -> web.Response:
        """The first part of the path says whose intake it is."""
        name = request.match_info["name"]
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzipped.decompress(body)
        count, answer = TAKERS[name](body)
        self.events[name] += count
        return answer

    async def token(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"access_token": "t0ken", "expires_in": 3600, "token_type": "Bearer"})

    async def counts(self, _: web.Request) -> web.Response:
        return web.json_response(self.events)

    async def syslog(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            self.events["syslog"] += data.count(b"\n")
        writer.close()


async def serve(port: int, syslog_port: int) -> None:
    receivers = Receivers()
    # Bodies are taken apart by hand, since aiohttp would inflate them piece by piece.
    app = web.Application(client_max_size=_MAX_BODY)
    app.router.add_post("/token", receivers.token)
    app.router.add_get("/counts", receivers.counts)
    app.router.add_post("/{name}{rest:.*}", receivers.take)
    runner = web.AppRunner(app, **_raw())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with await asyncio.start_server(receivers.syslog, "127.0.0.1", syslog_port) as server:
        sys.stdout.write(json.dumps({"port": port, "syslog": syslog_port}) + "\n")
        sys.stdout.flush()
        await server.serve_forever()


def _raw() -> dict[str, Any]:
    return {"auto_decompress": False, "access_log": None}


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
