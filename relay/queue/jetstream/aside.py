"""Work on the events of large requests and batches in threads: the event loop has others to serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

R = TypeVar("R")

_FEW: Final = 2_000  # events; to name so many takes some 10 ms, and Konnect's batches are much smaller


async def aside(events: int, work: Callable[[], R]) -> R:
    """What *work* on so many events comes to; of few it is done at once, as a thread costs more than that."""
    return work() if events <= _FEW else await asyncio.to_thread(work)
