"""What this replica does again and again: stores progress, writes down what is due, makes room.

Owns the rhythm; everything that is done belongs to others. Heartbeats and leases keep their own, so that a
purge that takes long never makes a replica look dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from relay.clock import Clock
from relay.errors import NotFound, QueueError
from relay.queue.jetstream.accounts import Accounts
from relay.queue.jetstream.gaps import Gaps
from relay.queue.jetstream.janitor import JanitorLease
from relay.queue.jetstream.laggards import Laggards
from relay.queue.jetstream.log import Log
from relay.queue.jetstream.quarantine import Quarantine
from relay.queue.jetstream.roster import Roster
from relay.queue.jetstream.space import Space

_SECOND: Final = 1.0
_TEND_EVERY: Final = 20  # rounds; well below the consumers' ack wait


class Upkeep:
    """Two loops, each run until cancelled."""

    def __init__(
        self,
        *,
        clock: Clock,
        janitor: JanitorLease,
        roster: Roster,
        space: Space,
        laggards: Laggards,
        log: Log,
        gaps: Gaps,
        quarantine: Quarantine,
        accounts: Accounts,
    ) -> None:
        self._clock = clock
        self._janitor = janitor
        self._roster = roster
        self._space = space
        self._laggards = laggards
        self._log = log
        self._gaps = gaps
        self._quarantine = quarantine
        self._accounts = accounts

    async def store_progress(self) -> None:
        while True:
            await self._clock.sleep(_SECOND)
            await self.store()

    async def store(self) -> None:
        """Store the progress of every destination this replica holds."""
        await asyncio.gather(*[_try(partial(self._roster.store, name)) for name in self._roster.held()])

    async def keep_house(self) -> None:
        rounds = 0
        while True:
            await self._clock.sleep(_SECOND)
            await _try(self._gaps.write)
            await _try(self._space.measure)
            await _try(self._as_janitor)
            await _try(self._laggards.release)
            await _try(self._roster.refresh_hints)
            rounds += 1
            if rounds % _TEND_EVERY == 0:
                await _try(self._roster.tend)
                await _try(self._quarantine.count)
                await _try(self._accounts.check)

    async def _as_janitor(self) -> None:
        if await self._janitor.ours():
            await self._log.store()
            await self._space.give_back()


async def _try(step: Callable[[], Awaitable[object]]) -> None:
    # NATS may be away: appends and readiness say so, the heartbeat draws the consequence; this tries again.
    # A destination may be forgotten in the middle of it.
    with suppress(QueueError, NotFound):
        await step()
