"""What was received of a window, as keys in memory: read once, asked for page by page.

Owns the bound on that memory. Eight bytes a key, and where there are too many the window's newest part is
kept: `floor` tells from where on. The log is read from the window's start to the present, for an event may
have come at any time after it happened; so it is read once for each part, and parts are large.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from typing import Final

from relay.queue.base import Queue
from relay.recovery.known import Number, keys_of
from relay.recovery.state import Window

MOST: Final = 4_000_000  # keys, 32 MB
_EARLIER: Final = 900.0  # seconds by which Konnect's clock may be ahead of ours
_LATE: Final = 60.0  # seconds within which a batch that has come is stored, and then seen by a reading
_MINUTE: Final = 60_000  # milliseconds


class Received:
    """Of one source. Twins are counted."""

    def __init__(self, source: str, window: Window, *, most: int = MOST) -> None:
        self.source = source
        self.window = window
        self.floor = window.start  # seconds since the epoch; what happened before is not all here
        self._most = most
        self._size = 0
        self._minutes: dict[int, array[int]] = {}
        self._read_to: float | None = None  # what was received before is in it, but for what was stored late
        self._recent: dict[int, float] = {}  # batches that are in it and are met again, and when they came

    def serves(self, source: str, window: Window) -> bool:
        """Whether it tells of the whole window, or of its newest part."""
        return source == self.source and self.floor < window.end <= self.window.end

    async def read(self, queue: Queue, now: float) -> None:
        """Take in what was received by *now* and is not in it yet.

        Raises `QueueError`; it is of no use then, for nobody knows how much of that it holds.
        """
        start, end = self.window.start - _EARLIER, math.inf  # what came before a clock was set back, too
        if self._read_to is not None:
            start, end = self._read_to - _LATE, now
        # A clock that was set back would have the same read again.
        read_to = now if self._read_to is None else max(now, self._read_to)
        async with aclosing(queue.received(start, end)) as batches:
            async for batch in batches:
                # Not by its number: JetStream's may become a higher one, and it would be counted twice.
                known = hash((batch.received_at, batch.payload))
                if batch.source == self.source and known not in self._recent:
                    if batch.received_at >= read_to - _LATE:
                        self._recent[known] = batch.received_at
                    # Reading lines takes long: the intake goes on meanwhile.
                    self._add(await asyncio.to_thread(keys_of, batch.lines, self.window))
        self._recent = {known: at for known, at in self._recent.items() if at >= read_to - _LATE}
        self._read_to = read_to

    def count(self, moments: Iterable[int | None]) -> Counter[Number]:
        """How often each event of the minutes around these moments came; milliseconds since the epoch."""
        found: Counter[Number] = Counter()
        for minute in {at // _MINUTE for at in moments if at is not None}:
            found.update(self._minutes.get(minute, ()))
        return found

    def _add(self, keys: Iterable[tuple[int, Number]]) -> None:
        first = int(self.floor * 1000)
        for at, key in keys:
            if at >= first:
                self._minutes.setdefault(at // _MINUTE, array("q")).append(key)
                self._size += 1
        while self._size > self._most:
            minutes = sorted(self._minutes)
            if len(minutes) < 2 or minutes[1] * _MINUTE / 1000 >= self.window.end:
                return  # one minute alone is taken whatever it holds
            self._size -= len(self._minutes.pop(minutes[0]))
            self.floor = minutes[1] * _MINUTE / 1000
