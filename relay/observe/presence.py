"""This process among the others of its relay: tells them of itself, and notices a different configuration.

Owns the beat. What is told is made by the composition root, how it reaches the others is the queue's
affair; on a cluster they take a replica that falls silent for dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from relay.clock import Clock
from relay.errors import QueueError
from relay.model import Replica
from relay.observe.logs import Log

BEAT: Final = 1.0  # seconds


class Board(Protocol):
    """Where replicas tell of themselves. `relay.queue.base.Queue` is one."""

    async def announce(self, replica: Replica) -> None: ...
    def replicas(self) -> Sequence[Replica]: ...


class Presence:
    """This process among the others."""

    def __init__(self, board: Board, describe: Callable[[], Replica], *, clock: Clock, log: Log) -> None:
        self._board = board
        self._describe = describe
        self._clock = clock
        self._log = log
        self._complaint: tuple[str, dict[str, str]] | None = None  # our configuration, and those unlike it

    async def run(self) -> None:
        """Tell it again with every beat, changed or not: it is a sign of life as well."""
        while True:
            # A queue that cannot be reached is reported by whoever has something to store in it.
            with suppress(QueueError):
                await self._board.announce(self._describe())
            self._compare()
            await self._clock.sleep(BEAT)

    def replicas(self) -> tuple[Replica, ...]:
        """All processes at work: this one first and as it is now, the others as they last said."""
        own = self._describe()
        return (own, *(each for each in self._board.replicas() if each.id != own.id))

    def _compare(self) -> None:
        """Complain when configurations begin to differ in what must be alike, and of every change in that."""
        own, *others = self.replicas()
        unlike = {each.id: each.configuration for each in others if each.configuration != own.configuration}
        complaint = (own.configuration, unlike) if unlike else None
        if complaint == self._complaint:
            return
        if complaint:
            self._log.warning("configuration.differs", configuration=own.configuration, others=unlike)
        else:
            self._log.info("configuration.agrees", configuration=own.configuration)
        self._complaint = complaint
