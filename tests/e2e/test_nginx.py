"""A relay that delivers to nginx, which is reloaded, killed, and particular about certificates."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from signal import SIGHUP
from typing import Any

import trustme

from tests.e2e.support import DELIVERY_LIMIT, FAST_RETRY, Traffic, Trail, books, configuration, drained
from tests.fakes.nginx import Nginx
from tests.fakes.process import RelayProcess, until

_ROUNDS = 3


def sink(nginx: Nginx, tls: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A destination that sends compressed lines to *nginx*."""
    return {
        "name": "nginx",
        "type": "http",
        "url": nginx.url,
        "tls": tls,
        "batch": {"compression": "gzip", "max_events": 50},
        "retry": FAST_RETRY,
        "timeout": "30s",
        **settings,
    }


async def more_than(trail: Trail, events: int) -> None:
    """Wait until so many more events were accepted."""
    goal = len(trail.owed) + events
    async with asyncio.timeout(DELIVERY_LIMIT):
        while len(trail.owed) < goal:
            trail.changed.clear()
            await trail.changed.wait()


async def reloaded(nginx: Nginx, times: int) -> None:
    await until(lambda: nginx.reloads() >= times, DELIVERY_LIMIT, "a reload")


async def test_reloaded_and_killed_under_load(tmp_path: Path) -> None:
    """Whatever happens to nginx while events flow, each of them is on its disk in the end, byte for byte."""
    trail = Trail(Traffic(21))
    async with Nginx(tmp_path) as nginx:
        config = configuration(tmp_path, [sink(nginx, nginx.tls(), max_in_flight=3)])
        async with RelayProcess(config, tmp_path) as relay:
            async with trail.flowing(relay):
                for n in range(1, _ROUNDS + 1):
                    await more_than(trail, 100)
                    nginx.reload()
                    await reloaded(nginx, n)
                    await more_than(trail, 100)
                    await nginx.kill()
                    await more_than(trail, 100)
                    await nginx.start()
            await drained(relay, "nginx")
            account = await books(relay, "nginx")
    trail.check(nginx.lines())
    assert account.delivered == account.accepted == len(trail.owed)
    assert account.dead_letters == 0


async def refused(relay: RelayProcess, why: str) -> None:
    """Wait until the destination is held for that."""

    async def so() -> bool:
        (of,) = (await relay.status())["destinations"]
        return of["state"] == "held" and why in json.dumps(of)

    await until(so, DELIVERY_LIMIT, why)


async def test_certificates_put_right_later(tmp_path: Path) -> None:
    """Held while ours is missing or foreign, with every event kept; with the right one all of them arrive."""
    trail = Trail(Traffic(22))
    async with Nginx(tmp_path) as nginx:
        right = nginx.tls()
        missing = {"ca_file": right["ca_file"]}
        config = configuration(tmp_path, [sink(nginx, missing)])
        async with RelayProcess(config, tmp_path) as relay:
            await trail.post(relay)
            await refused(relay, "it wants a client certificate and got none")
            for tls in (nginx.tls(by=trustme.CA()), right):
                assert nginx.bodies() == []
                relay.configure({**config, "destinations": [sink(nginx, tls)]})
                relay.signal(SIGHUP)
                if tls is not right:
                    await refused(relay, "it refuses our client certificate")
                await trail.post(relay)
            await drained(relay, "nginx")
            account = await books(relay, "nginx")
    trail.check(nginx.lines())
    assert account.delivered == len(trail.owed) == 30
    assert account.dead_letters == 0
