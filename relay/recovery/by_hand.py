"""Pulling the organisation's log for a person, as recovery does it for a gap by itself.

Owns that one pull runs at a time, for each holds the keys of what was received in memory; the connection for
it; and that the answer comes before nobody waits for it any more. What is left is asked for by another call.
"""

from __future__ import annotations

import asyncio
from typing import Final

from relay.clock import Clock
from relay.config.schema import Config
from relay.errors import Conflict
from relay.observe.ledger import KONNECT_RETENTION
from relay.observe.logs import Log
from relay.queue.base import Queue
from relay.recovery.answers import rfc3339
from relay.recovery.api import Hosts, KonnectApi
from relay.recovery.completeness import targets_of
from relay.recovery.counting import Tally
from relay.recovery.errors import KonnectThrottled, KonnectUnavailable
from relay.recovery.patience import Tries
from relay.recovery.puller import Puller
from relay.recovery.state import Window

_LASTS: Final = 1200.0
"""Seconds after which a call does not go on, and says how far it came.

A command waits for an hour, but what has begun by then, some pages, may last as long again.
"""


class PullByHand:
    """Of one process that accepts."""

    def __init__(self, queue: Queue, *, clock: Clock, tally: Tally, log: Log) -> None:
        self._queue = queue
        self._clock = clock
        self._tally = tally
        self._log = log
        self._turn = asyncio.Lock()

    async def pull(self, config: Config, region: str | None, window: Window) -> tuple[str, int, int, float]:
        """Append what the organisation's log holds and its source did not receive, the newest first.

        Returns the source, how many entries there were, how many of them were new, and from when on all of
        the window is done: later than its start where that takes longer than a call may.

        What Konnect has deleted is not asked for. Raises `Conflict` where that is all of it, where there is
        no token, or it is not *region*'s; `KonnectError` where it does not pass, or `QueueError`.
        """
        settings = None if config.recovery is None else config.recovery.konnect
        if settings is None or settings.token is None:
            raise Conflict("the relay has no token of Konnect's to pull with; set recovery.konnect.token")
        if region not in (None, settings.region):
            raise Conflict(f"the relay's region is {settings.region}, not {region}")
        now = self._clock.now()
        asked = window.start
        window = Window(max(asked, now - KONNECT_RETENTION), min(window.end, now))
        if window.start >= window.end:
            raise Conflict("Konnect has nothing of this span: it keeps seven days, up to now")
        source = targets_of(settings, [each.name for each in config.sources])[0].source
        api = KonnectApi(Hosts.of(settings), settings.token, clock=self._clock, timeout=settings.timeout)
        entries = accepted = 0
        tries = Tries()
        done: Window | None = None

        async def told(so_far: Window, read: int, new: int) -> None:
            nonlocal done, entries, accepted
            tries.answered()
            done, entries, accepted = so_far, entries + read, accepted + new
            self._tally.recovered(source, new)

        async with self._turn, api:
            until = self._clock.monotonic() + _LASTS
            puller = Puller(api, self._queue, clock=self._clock)
            over = False
            while not over and self._clock.monotonic() < until:
                try:
                    over = await puller.pull(source, window, done, told)
                except (KonnectThrottled, KonnectUnavailable) as error:
                    seconds = tries.pause(error)
                    if self._clock.monotonic() + seconds > until:
                        raise
                    await self._clock.sleep(seconds)
        reached = asked if over else window.end if done is None else done.start
        self._log.info(
            "recovery.pulled_by_hand",
            source=source,
            start=rfc3339(max(reached, window.start)),
            end=rfc3339(window.end),
            entries=entries,
            accepted=accepted,
        )
        return source, entries, accepted, reached
