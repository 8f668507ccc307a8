"""Pulling the organisation's log for a person, as recovery does it for a gap by itself.

Owns that one pull runs at a time, for each holds a slice of the log in memory, and the connection for it.
"""

from __future__ import annotations

import asyncio

from relay.clock import Clock
from relay.config.recovery import KonnectRecovery
from relay.config.secret import Secret
from relay.observe.logs import Log
from relay.queue.base import Queue
from relay.recovery.answers import rfc3339
from relay.recovery.api import Hosts, KonnectApi
from relay.recovery.counting import Tally
from relay.recovery.plan import Window
from relay.recovery.puller import Pulled, Puller


class PullByHand:
    """Of one organisation, whose events come in at *source*."""

    def __init__(
        self,
        settings: KonnectRecovery,
        token: Secret,
        source: str,
        queue: Queue,
        *,
        clock: Clock,
        tally: Tally,
        log: Log,
    ) -> None:
        self.source = source
        self._settings = settings
        self._token = token
        self._queue = queue
        self._clock = clock
        self._tally = tally
        self._log = log
        self._turn = asyncio.Lock()

    async def pull(self, start: float, end: float) -> Pulled:
        """Append what the source did not receive of this span. Raises `KonnectError` or `QueueError`."""
        settings = self._settings
        api = KonnectApi(Hosts.of(settings), self._token, clock=self._clock, timeout=settings.timeout)
        async with self._turn, api:
            pulled = await Puller(api, self._queue, clock=self._clock).pull(self.source, Window(start, end))
        self._tally.recovered(self.source, pulled.accepted)
        self._log.info(
            "recovery.pulled_by_hand",
            source=self.source,
            start=rfc3339(start),
            end=rfc3339(end),
            entries=pulled.entries,
            accepted=pulled.accepted,
            complete=pulled.complete,
        )
        return pulled
