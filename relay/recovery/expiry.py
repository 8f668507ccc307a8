"""Gaps that nothing can close any more: after seven days Konnect has deleted what they miss.

Owns the one word that is left to say about them: closed, and lost. Needs no access to Konnect. It is an error
only where the relay was to fetch them: elsewhere an operator may have done so, and the relay cannot know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final, Protocol

from relay.clock import Clock
from relay.errors import NotFound, QueueError
from relay.model import Gap
from relay.observe.ledger import KONNECT_RETENTION
from relay.observe.logs import Log
from relay.recovery.answers import rfc3339

_LOOK: Final = 60.0  # seconds
_NOT_OURS: Final = (
    "was not recovered by the relay, which has no Konnect token or no webhook for this source; "
    "whether somebody replayed it, it cannot know"
)


class Gaps(Protocol):
    """Where gaps are. `relay.queue.base.Queue` is one."""

    async def gaps(self) -> Sequence[Gap]: ...
    async def close_gap(self, number: int, *, at: float, lost_until: float | None = None) -> None: ...


class Expiry:
    """May run in several processes at once: what is closed stays as it is."""

    def __init__(
        self, gaps: Gaps, *, recovered: Callable[[], Collection[str]], clock: Clock, log: Log
    ) -> None:
        """*recovered* names the sources whose gaps the relay is to close."""
        self._gaps = gaps
        self._recovered = recovered
        self._clock = clock
        self._log = log

    async def run(self) -> None:
        """Without end."""
        while True:
            with suppress(QueueError, NotFound):
                await self.close_lost()
            await self._clock.sleep(_LOOK)

    async def close_lost(self) -> None:
        """Close every gap that ended more than seven days ago. Raises `QueueError`."""
        now = self._clock.now()
        for gap in await self._gaps.gaps():
            if gap.id and gap.end <= now - KONNECT_RETENTION:
                await self._gaps.close_gap(gap.id, at=now, lost_until=gap.end)
                self._tell(gap)

    def _tell(self, gap: Gap) -> None:
        log = self._log.bind(
            gap=gap.id,
            source=gap.source,
            cause=gap.cause,
            start=rfc3339(gap.start),
            lost_until=rfc3339(gap.end),
        )
        if gap.source in self._recovered():
            log.error("recovery.lost")
        else:
            log.warning("recovery.not_attempted", detail=_NOT_OURS)
