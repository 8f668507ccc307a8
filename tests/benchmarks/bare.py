"""The yardstick: an aiohttp application that reads a body and answers, and does nothing else.

`python -m tests.benchmarks.bare PORT`. Every accept rate is given as a part of what this reaches in
the same run on the same machine, under uvloop like the relay.
"""

from __future__ import annotations

import argparse
import asyncio

import uvloop
from aiohttp import web


async def _answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=b"ok")


async def serve(port: int) -> None:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/audit-logs/{source}", _answer)
    runner = web.AppRunner(app, auto_decompress=False, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
