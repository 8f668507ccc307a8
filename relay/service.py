"""One relay process from its configuration to its exit: loading, signals, and what goes wrong at the start.

Owns the event loop's signal handlers. What a relay consists of is `relay.app`'s affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from relay.app import Relay, targets, windows
from relay.clock import SystemClock
from relay.config.load import load
from relay.destinations.registry import CONFIG_TYPES
from relay.errors import ConfigError, RelayError
from relay.model import Role
from relay.observe import logs
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.queue.base import Queue
from relay.queue.open import open_queue

_SWITCH_SECONDS = 0.0005


async def run(path: Path, role: Role) -> None:
    """Run a relay until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Raises `ConfigError` for an invalid configuration and `RelayError` when it cannot start.
    """
    with _signals() as (stop, hangup):  # first of all: a SIGHUP must not end a relay that is starting
        await _run(path, role, stop, hangup)


async def _run(path: Path, role: Role, stop: asyncio.Event, hangup: asyncio.Event) -> None:
    loaded = load(path, destination_types=CONFIG_TYPES)
    config = loaded.config
    log = logs.configure(config.logging.level, config.logging.format)
    for warning in loaded.warnings:
        log.warning("config.warning", detail=warning)
    clock = SystemClock()
    metrics = Metrics(*targets(config))
    replica = secrets.token_hex(8)
    opening = open_queue(
        config.queue,
        replica=replica,
        role=role,
        deduplicate=windows(config.sources),
        clock=clock,
        metrics=metrics,
        log=log,
    )
    queue = await _unless(stop, opening)
    if queue is None:
        log.info("relay.stopped")
        return
    try:
        relay = Relay(config, role, queue, metrics, replica=replica, clock=clock, log=log)
        # What is loaded by now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        # The writer's thread takes the interpreter lock a few times in every commit; a busy event loop would
        # keep it for the default 5 ms each time. Measured in docs/performance.md.
        sys.setswitchinterval(_SWITCH_SECONDS)
        async with asyncio.TaskGroup() as group:
            reloading = group.create_task(_reload_on(hangup, path, relay, log))
            await relay.serve(stop)
            reloading.cancel()
    except BaseExceptionGroup as group:
        error = _innermost(group)
        if isinstance(error, OSError):  # e.g. the port is taken
            raise RelayError(f"cannot start: {error}") from error
        if isinstance(error, RelayError):
            raise error from None
        raise
    finally:
        await queue.close()
        log.info("relay.stopped")


async def _unless(stop: asyncio.Event, opening: Coroutine[Any, Any, Queue]) -> Queue | None:
    """The queue; None where we are stopped first: a cluster may keep us waiting for a minute."""
    opened, stopping = asyncio.ensure_future(opening), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({opened, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        opened.cancel()  # no effect on one that is done
    with contextlib.suppress(asyncio.CancelledError):
        return await opened
    return None


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _reload_on(hangup: asyncio.Event, path: Path, relay: Relay, log: Log) -> None:
    """Reload at every SIGHUP. Whatever is wrong with the new configuration, the relay goes on."""
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            loaded = load(path, destination_types=CONFIG_TYPES)
            for warning in loaded.warnings:
                log.warning("config.warning", detail=warning)
            await relay.reload(loaded)
        except ConfigError as error:
            log.error("config.refused", problems=error.problems)  # noqa: TRY400 - the sentence, not our stack
        except RelayError as error:
            log.error("config.failed", detail=str(error))  # noqa: TRY400 - the sentence, not our stack
        except Exception:
            log.exception("config.failed")


@contextlib.contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Events for "stop" (SIGTERM, SIGINT) and "read the configuration again" (SIGHUP)."""
    loop = asyncio.get_running_loop()
    stop, hangup = asyncio.Event(), asyncio.Event()
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hangup}
    for number, event in handlers.items():
        loop.add_signal_handler(number, event.set)
    try:
        yield stop, hangup
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
