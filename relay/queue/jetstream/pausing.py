"""Waiting in real time: the network keeps its own, whatever clock the relay goes by."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

_PAUSE: Final = 0.1  # seconds between attempts while nobody answers
ATTEMPTS: Final = 50  # so far apart, until somebody who does not answer is given up


async def pause(seconds: float = _PAUSE) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_future()
