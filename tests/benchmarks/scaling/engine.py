"""A discrete-event simulation in a few lines: a clock that jumps, and servers with a line before them.

Owns time and waiting; knows nothing of relays. Nothing is left to chance but what the model draws itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Engine:
    """Runs actions at their times, those of the same time in the order they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0  # seconds
        self._due: list[tuple[float, int, Action]] = []
        self._order = count()

    def at(self, when: float, action: Action) -> None:
        heapq.heappush(self._due, (when, next(self._order), action))

    def after(self, seconds: float, action: Action) -> None:
        self.at(self.now + seconds, action)

    def run(self, until: float) -> None:
        """Go on to the time *until*."""
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = until


class Station:
    """Serves one after the other, in the order they come: a core, a stream's leader, a disk.

    It needs no list of who waits: with a fixed order everybody knows on arrival when his turn will be over.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.free_at = 0.0  # the end of what has come so far
        self.busy = 0.0  # seconds of service given or promised

    def use(self, seconds: float, then: Action) -> None:
        """Be served for *seconds*, and go on with *then*."""
        self.busy += seconds
        self.free_at = max(self._engine.now, self.free_at) + seconds
        self._engine.at(self.free_at, then)
