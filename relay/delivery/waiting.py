"""Waiting for an event or a time, whichever is first, by the relay's own clock."""

from __future__ import annotations

import asyncio
import math

from relay.clock import Clock


async def wait(event: asyncio.Event, seconds: float, clock: Clock) -> None:
    """Return once *event* is set; set it after *seconds* (may be infinite) if nobody else did."""
    if math.isinf(seconds):
        await event.wait()
        return

    async def alarm() -> None:
        await clock.sleep(seconds)
        event.set()

    async with asyncio.TaskGroup() as group:
        timer = group.create_task(alarm())
        await event.wait()
        timer.cancel()
