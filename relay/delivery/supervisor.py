"""Keeps one destination's delivery running through bugs.

Owns the count of crashes and the pause after each; what runs inside is somebody else's. A bug stops
one destination for a moment and is loud about it; it never reaches the others and never spins.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from relay.clock import Clock
from relay.delivery.backoff import wait_before
from relay.delivery.waiting import wait
from relay.observe.logs import Log

MIN_PAUSE = 1.0  # seconds before the first restart; doubles with each crash in a row
MAX_PAUSE = 60.0
_PLACES = 10  # lines of the innermost traceback that are logged


class Supervisor:
    """Restarts what crashed until it returns or *stopping* is set."""

    def __init__(self, *, clock: Clock, rng: Random, log: Log) -> None:
        self.crashes = 0
        self.last_error: str | None = None  # class of the last exception; its text might hold anything
        self.stopping = asyncio.Event()
        self._in_a_row = 0
        self._clock = clock
        self._rng = rng
        self._log = log

    def made_progress(self) -> None:
        """What runs inside did some of its work: the next crash is a first one again."""
        self._in_a_row = 0

    async def run(self, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while not self.stopping.is_set():
            # In a task of its own: a task group in which something fails while it is cancelled raises the
            # failure alone, and a cancellation of ours would be lost in it.
            work = asyncio.create_task(serve())  # noqa: TID251 - it has ended before this goes on, or raises
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError:
                work.cancel()
                await asyncio.wait({work})
                raise
            if work.cancelled():
                raise asyncio.CancelledError
            error = work.exception()
            if isinstance(error, Exception):  # a supervisor is there for whatever may come
                await self._recover(error)
            elif error is not None:
                raise error

    async def _recover(self, error: Exception) -> None:
        self.crashes += 1
        self._in_a_row += 1
        cause = _innermost(error)
        self.last_error = type(cause).__name__
        pause = wait_before(self._in_a_row, min_wait=MIN_PAUSE, max_wait=MAX_PAUSE, rng=self._rng)
        # The place, not the text: an exception's message may quote an event or a secret.
        places = traceback.extract_tb(cause.__traceback__)[-_PLACES:]
        self._log.error(
            "delivery.crashed",
            error=self.last_error,
            places=[f"{place.filename}:{place.lineno} {place.name}" for place in places],
            crashes=self.crashes,
            again_in=round(pause, 3),
        )
        # A stop ends the pause early. The alarm sets an event of its own: `stopping` is not its to set.
        pausing = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_pass_on(self.stopping, pausing))
            await wait(pausing, pause, self._clock)
            watcher.cancel()


async def _pass_on(source: asyncio.Event, target: asyncio.Event) -> None:
    await source.wait()
    target.set()


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
