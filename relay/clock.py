"""Time as an argument: the only module that reads the system clock or sleeps.

Everything that needs the time takes a `Clock`; tests pass one they can turn by hand.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time, elapsed time and waiting, in seconds."""

    def now(self) -> float:
        """Seconds since the Unix epoch. May jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin that never runs backwards."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*; negative values count as zero."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
