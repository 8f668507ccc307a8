"""What an acknowledgement of the servers is worth when power fails, and one honest line about it in the log.

NATS acknowledges an event when most of its replicas have handed it to their kernels. It is on their disks
some time later, by default within two minutes, and at once only with `sync_interval: always`. No client can
ask for that; the monitoring endpoints tell. So would `$SYS.REQ.SERVER.PING.JSZ`, but only to the system
account, which cannot hold streams: no relay may use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from relay.config.queue import JetStreamQueueConfig
from relay.config.types import format_duration
from relay.observe.logs import Log

_ANSWER_SECONDS: Final = 3.0
_NANOSECONDS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Syncing:
    """How long written events may stay out of a server's disk."""

    server: str
    seconds: float | None  # 0: never at all; None: it did not say


async def report(config: JetStreamQueueConfig, *, log: Log) -> None:
    """Ask the configured endpoints and tell the log what was found. Never fails."""
    said = await ask(config.monitoring)
    known: list[float] = [each.seconds for each in said if each.seconds is not None]
    silent = [each.server for each in said if each.seconds is None]
    worst = max(known, default=None)
    if worst == 0 and not silent:
        log.info("queue.durability", sync="always", servers=[each.server for each in said])
        return
    if worst is None or silent:
        sync, within = "unknown", "an unknown time (by default 2m)"
    else:
        sync = within = format_duration(worst)
    log.warning(
        "queue.durability", sync=sync, unanswered=silent, detail=_consequence(config.replicas, within)
    )


def _consequence(replicas: int, within: str) -> str:
    if replicas == 1:
        failure = "a power failure or a crash of the server's machine"
    else:
        failure = f"a power failure of {replicas // 2 + 1} of the {replicas} servers at once"
    return f"{failure} may lose what was accepted within {within} before; sync_interval: always prevents it"


async def ask(endpoints: Sequence[str]) -> list[Syncing]:
    """What each server behind these URLs says."""
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return await asyncio.gather(*[_ask(session, endpoint) for endpoint in endpoints])


async def _ask(session: aiohttp.ClientSession, endpoint: str) -> Syncing:
    server = urlsplit(endpoint).netloc
    try:
        async with session.get(f"{endpoint}/jsz", params={"config": "true"}) as answer:
            said: dict[str, Any] = (await answer.json())["config"]
            # A server that syncs always still tells the interval in which it would.
            seconds = 0.0 if said.get("sync_always") else said["sync_interval"] / _NANOSECONDS
            return Syncing(server, seconds)
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
        return Syncing(server, None)
