"""Everything in one process that sees to it that nothing is missing: down time, lost gaps, silence, recovery.

    Heartbeat ─▶ gaps of down time      Expiry ─▶ lost gaps      Silence ─▶ log, metrics
    Supervisor ─▶ Konnect's API, where `recovery.konnect` has a token

Owns which of these run, by the configuration and its changes, and that a fault in one of them stops nothing
else. Only processes that accept have it; the heartbeat says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from random import Random
from typing import Final

from relay.clock import Clock
from relay.config.recovery import KonnectRecovery
from relay.config.schema import Config, Source
from relay.model import Recovering
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.queue.base import Queue
from relay.recovery.answers import Scope
from relay.recovery.api import Hosts, KonnectApi
from relay.recovery.binding import is_ours
from relay.recovery.expiry import Expiry
from relay.recovery.heartbeat import Heartbeat
from relay.recovery.silence import Silence
from relay.recovery.state import Rules, Target
from relay.recovery.supervisor import Supervisor

_PAUSE: Final = 10.0  # seconds before a part that failed begins anew


class Completeness:
    """See the module.

    *leads* tells whether this process is the one to talk to Konnect at present, *recovered* the sources whose
    gaps the relay is to close.
    """

    def __init__(
        self,
        config: Config,
        queue: Queue,
        *,
        leads: Callable[[], bool],
        recovered: Callable[[], Collection[str]],
        clock: Clock,
        rng: Random,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._sources: Sequence[Source] = config.sources
        self._settings = _settings_of(config)
        self._queue = queue
        self._leads = leads
        self._clock = clock
        self._rng = rng
        self._tally = metrics
        self._log = log
        self._heartbeat = Heartbeat(queue, self._names, clock=clock, log=log)
        self._silence = Silence(queue, self._limits, echo=self._echo, clock=clock, gauges=metrics, log=log)
        self._expiry = Expiry(queue, recovered=recovered, clock=clock, log=log)
        self._supervisor: Supervisor | None = None
        self._changed = asyncio.Event()  # the supervisor is not made for the present configuration

    @property
    def doing(self) -> Recovering | None:
        """What recovery does here; None where it does nothing."""
        return None if self._supervisor is None else self._supervisor.doing

    def reload(self, config: Config) -> None:
        """Go by this from now on. What the supervisor was doing is left as it is and taken up again."""
        before = self._settings, self._targets()
        self._sources, self._settings = config.sources, _settings_of(config)
        if (self._settings, self._targets()) != before:
            self._changed.set()

    async def run(self) -> None:
        """Without end; to be started once the intake accepts."""
        loops = [self._heartbeat.run, self._expiry.run, self._silence.run, self._supervise]
        async with asyncio.TaskGroup() as group:
            for loop in loops:
                group.create_task(self._again(loop))

    async def end(self) -> None:
        """The intake no longer accepts."""
        await self._heartbeat.end()

    async def _again(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A bug here must stop neither the intake nor delivery: log it and begin anew."""
        while True:
            try:
                await loop()
            except Exception:  # noqa: BLE001 - whatever it is
                self._log.exception("recovery.failed")
                await self._clock.sleep(_PAUSE)

    async def _supervise(self) -> None:
        """By the present settings, and anew whenever these change."""
        while True:
            self._changed.clear()
            self._supervisor = self._made()
            async with asyncio.TaskGroup() as group:
                running = None if self._supervisor is None else group.create_task(self._supervisor.run())
                await self._changed.wait()
                if running is not None:
                    running.cancel()

    def _made(self) -> Supervisor | None:
        settings = self._settings
        if settings is None or settings.token is None:
            return None
        return Supervisor(
            KonnectApi(Hosts.of(settings), settings.token, clock=self._clock, timeout=settings.timeout),
            self._targets(),
            self._queue,
            leads=self._leads,
            leads_here=self._leads_here,
            rules=Rules(
                margin=settings.margin, poll=settings.status_interval, job_poll=settings.job_interval
            ),
            clock=self._clock,
            rng=self._rng,
            tally=self._tally,
            log=self._log,
            echo=self._silence,
        )

    def _leads_here(self, source: str, endpoint: str | None) -> bool:
        url = self._settings.url if self._settings is not None else None
        base = url.reveal() if url is not None else None
        return is_ours(endpoint, source, base=base, alone=len(self._sources) == 1)

    def _targets(self) -> tuple[Target, ...]:
        return () if self._settings is None else targets_of(self._settings, self._names())

    def _echo(self) -> float | None:
        return self._settings.heartbeat if self._settings is not None else None

    def _names(self) -> Sequence[str]:
        return [source.name for source in self._sources]

    def _limits(self) -> Mapping[str, float | None]:
        return {source.name: source.silence for source in self._sources}


def _settings_of(config: Config) -> KonnectRecovery | None:
    return config.recovery.konnect if config.recovery is not None else None


def targets_of(settings: KonnectRecovery, sources: Sequence[str]) -> tuple[Target, ...]:
    """The webhooks of the organisation and of the configured Dev Portals."""
    own = Target(settings.source or sources[0])
    return (own, *(Target(portal.source, Scope(portal.id)) for portal in settings.portals))
