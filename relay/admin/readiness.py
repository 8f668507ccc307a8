"""Whether the relay can accept, proven by a commit of the queue.

Owns the proof and how long it is good for: anyone may ask, and each proof costs a commit.
"""

from __future__ import annotations

import asyncio
from typing import Final

from relay.clock import Clock
from relay.errors import QueueError
from relay.queue.base import Queue

_LIMIT: Final = 5.0  # seconds a commit may take before the relay counts as not ready
_FRESH: Final = 1.0  # seconds


class Readiness:
    """Of one process."""

    def __init__(self, queue: Queue, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._proven_at: float | None = None  # when the queue last committed, monotonic

    async def trouble(self) -> str | None:
        """Why nothing can be accepted at present; None while everything is well."""
        now = self._clock.monotonic()
        if self._proven_at is not None and now - self._proven_at < _FRESH:
            return None
        try:
            async with asyncio.timeout(_LIMIT):
                await self._queue.ping()
        except TimeoutError:
            return "The queue does not answer."
        except QueueError as error:
            return str(error)
        self._proven_at = now
        return None
