"""The composition root: reads top-down as the architecture, and says in which order things start and stop.

    sources ─▶ IngestServer ─▶ queue ─▶ one DestinationWorker each ─▶ destinations
                                 ▲ ▲
                 AdminServer ────┘ └── Presence ◀─▶ the other replicas, on a cluster
     (metrics, status, putting things right)     Completeness ─▶ gaps ─▶ Konnect's API

Owns which parts run in this process's role, and how a changed configuration reaches them. Holds no
logic of its own: whatever can be tested without a process lives in the parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from relay import __version__
from relay.admin.control import ConfiguredDestination, ConfiguredSource, KonnectAccess, PulledSpan
from relay.admin.server import AdminServer
from relay.admin.times import rfc3339
from relay.clock import Clock
from relay.config.agreement import agreement
from relay.config.destination import Filter
from relay.config.load import Loaded
from relay.config.schema import Admin, Config, Source
from relay.delivery.deliveries import Deliveries
from relay.delivery.filter import wanted
from relay.delivery.views import Views
from relay.destinations.base import ProbeReport
from relay.errors import Conflict, NotFound
from relay.ingest.server import IngestServer
from relay.model import Hold, HoldReason, Replica, Role, Sighting
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.observe.presence import Presence
from relay.observe.replicas import holder, oldest_accepting
from relay.queue.base import Queue
from relay.queue.fates import Wanted
from relay.recovery.by_hand import PullByHand
from relay.recovery.completeness import Completeness, targets_of
from relay.recovery.state import Window
from relay.signing.checker import Checker
from relay.signing.fetch import with_token
from relay.signing.keeper import Fetch

# Restarting is needed for these: a socket, a file or the process's own set-up hangs on them.
_FIXED_SECTIONS = ("server", "admin", "queue", "logging")
# How much of the shutdown grace the intake may take to answer what it has begun to read.
_INGEST_SHARE = 0.4


class Relay:
    """One relay process, called *replica*. Implements `relay.admin.control.RelayControl`."""

    def __init__(
        self,
        config: Config,
        role: Role,
        queue: Queue,
        metrics: Metrics,
        *,
        replica: str,
        clock: Clock,
        log: Log,
    ) -> None:
        self._config = config
        self._agreement = agreement(config)
        self._role = role
        self._replica = replica
        self.queue = queue
        self._started_at = clock.now()
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._rng = Random()  # noqa: S311 - spreads retries, keeps no secret
        # Whoever accepts asks it, too, whether a stored event stands for one that is signed otherwise.
        self._checker = Checker(
            clock=clock, metrics=metrics, log=log, fetch=self._fetch_keys, writes=role != "ingest"
        )
        queue.judge_by(self._checker)
        self._deliveries = Deliveries(
            queue,
            Views(self._checker),
            delivers=role != "ingest",
            clock=clock,
            rng=self._rng,
            metrics=metrics,
            log=log,
        )
        self._workers: asyncio.TaskGroup | None = None
        self._ingest: IngestServer | None = None
        self._completeness: Completeness | None = None
        if role != "deliver":
            self._ingest = IngestServer(
                config.server, config.sources, queue, clock=clock, metrics=metrics, log=log
            )
            self._completeness = Completeness(
                config,
                queue,
                leads=self._leads,
                recovered=lambda: self.konnect().recovered,
                clock=clock,
                rng=self._rng,
                metrics=metrics,
                log=log,
            )
        self._by_hand = PullByHand(queue, clock=clock, tally=metrics, log=log)
        self._presence = Presence(queue, self._describe, clock=clock, log=log)
        self._admin = AdminServer(_admin_of(config, role), self, metrics, clock=clock, log=log)

    # -- life --------------------------------------------------------------------------------

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until *stop* is set, then shut down in order within the configured grace."""
        self._metrics.bind(self.queue, clock=self._clock)
        self._metrics.set_recovered(self.konnect().recovered)
        async with asyncio.TaskGroup() as workers:
            self._workers = workers
            self._checker.follow(await self._checker.prepare(self._config))
            background = [
                workers.create_task(self._presence.run(), name="presence"),
                workers.create_task(self._checker.run(), name="keys"),
            ]
            try:
                prepared = await self._deliveries.prepare(self._config.destinations)
                self._deliveries.start(prepared, workers)
                await self._admin.start()
                if self._ingest is not None:  # last: whoever is answered 200 finds everything running
                    await self._ingest.start()
                if self._completeness is not None:
                    background.append(workers.create_task(self._completeness.run(), name="completeness"))
                self._log.info(
                    "relay.started",
                    role=self._role,
                    version=__version__,
                    replica=self._replica,
                    **self._where(),
                )
                await stop.wait()
            finally:
                await self._shut_down()
                self._checker.close()
                for task in background:
                    task.cancel()  # last: who falls silent with requests in the air loses its leases

    async def _shut_down(self) -> None:
        """Accept no more, finish what was accepted, stop sending, let go. The queue is closed by `run`."""
        grace = self._config.server.shutdown_grace
        self._log.info("relay.stopping", grace=grace)
        if self._ingest is not None:
            await self._ingest.stop(grace * _INGEST_SHARE)
        if self._completeness is not None:
            await self._completeness.end()
        await self._deliveries.stop(grace * (1 - _INGEST_SHARE))
        await self._admin.stop()

    async def _fetch_keys(self, url: str) -> bytes:
        return await _keys_fetcher(self._config)(url)

    def _where(self) -> dict[str, object]:
        server = self._config.server
        where: dict[str, object] = {"admin": f"{self._config.admin.host}:{self._admin.port}"}
        if self._ingest is not None:
            where["ingest"] = f"{server.host}:{self._ingest.port}"
        return where

    async def reload(self, loaded: Loaded) -> None:
        """Follow a changed configuration without dropping a connection.

        Sources and destinations change at once; sections that need a restart are named in the log.
        Whatever can fail is done first, so that after an error everything is as it was. Raises
        `ConfigError` or `QueueError`.
        """
        if self._workers is None:
            raise RuntimeError("a relay is reloaded while it serves")
        new = loaded.config
        stale, fresh = self._deliveries.differing(new.destinations)
        desks = await self._checker.prepare(new)
        prepared = await self._deliveries.prepare(fresh)
        try:
            await self.queue.set_sources(windows(new.sources))
        except BaseException:
            await self._deliveries.discard(prepared)
            raise

        fixed = [name for name in _FIXED_SECTIONS if getattr(new, name) != getattr(self._config, name)]
        if fixed:
            self._log.warning("relay.restart_needed", sections=fixed)
        kept = {name: getattr(self._config, name) for name in _FIXED_SECTIONS}
        self._config = new.model_copy(update=kept)
        self._agreement = agreement(self._config)
        self._metrics.set_targets(*targets(new))
        self._checker.follow(desks)
        if self._ingest is not None:
            self._ingest.reload(new.sources)
        if self._completeness is not None:
            self._completeness.reload(new)
        self._metrics.set_recovered(self.konnect().recovered)
        await self._deliveries.remove(stale, self._config.server.shutdown_grace)
        self._deliveries.start(prepared, self._workers)
        names = [config.name for config in new.destinations]
        self._log.info("relay.reloaded", changed=stale, destinations=names)

    # -- control -----------------------------------------------------------------------------

    def replicas(self) -> Sequence[Replica]:
        return self._presence.replicas()

    def _describe(self) -> Replica:
        """This process as the others are to see it."""
        sources: dict[str, Sighting] = {}
        if self._ingest is not None:
            names = [source.name for source in self._config.sources]
            sources = {name: Sighting(*self._ingest.last_attempt(name)) for name in names}
        return Replica(
            id=self._replica,
            version=__version__,
            role=self._role,
            started_at=self._started_at,
            configuration=self._agreement,
            sources=sources,
            destinations=self._deliveries.sightings(),
            recovering=self._completeness.doing if self._completeness is not None else None,
        )

    def _leads(self) -> bool:
        """Whether this is the replica that closes gaps."""
        return oldest_accepting(self.replicas()) == self._replica

    def sources(self) -> Sequence[ConfiguredSource]:
        checks = self._role != "ingest"  # there only to judge duplicates
        return [
            ConfiguredSource(name, f"/audit-logs/{name}", self._checker.status(name) if checks else None)
            for name in self._names()
        ]

    def konnect(self) -> KonnectAccess:
        if self._config.recovery is None:
            return KonnectAccess()
        settings = self._config.recovery.konnect
        webhooks = {each.source: each.scope.portal for each in targets_of(settings, self._names())}
        return KonnectAccess(settings.region, settings.token is not None, settings.margin, webhooks)

    def _names(self) -> list[str]:
        return [source.name for source in self._config.sources]

    def destinations(self) -> Sequence[ConfiguredDestination]:
        return [ConfiguredDestination(config.name, config.type) for config in self._config.destinations]

    def wanted(self, destination: str) -> Wanted:
        for config in self._config.destinations:
            if config.name == destination:
                return wanted(config.filter)
        return wanted(Filter())

    async def pull(self, start: float, end: float, region: str | None) -> PulledSpan:
        if self._role == "deliver":
            raise Conflict("this process only delivers; ask one that accepts")
        window = Window(start, end)
        source, entries, accepted, reached = await self._by_hand.pull(self._config, region, window)
        return PulledSpan(source, entries, accepted, rfc3339(reached))

    async def hold(self, destination: str, detail: str) -> None:
        self._require_sight()
        before = self.queue.hold(destination)
        again = before is not None and before.reason is HoldReason.OPERATOR
        since = before.since if before is not None and again else self._clock.now()
        # Whoever delivers, here or elsewhere, follows what the queue says.
        await self.queue.set_hold(destination, Hold(HoldReason.OPERATOR, since, detail))

    async def resume(self, destination: str) -> None:
        self._require_sight()
        await self.queue.set_hold(destination, None)
        await self._deliveries.try_now(destination)

    async def forget(self, destination: str) -> None:
        self._require_sight()
        if any(config.name == destination for config in self._config.destinations):
            raise Conflict(f"{destination} is configured; take it out of the configuration first")
        if (replica := holder(self.replicas(), destination)) is not None:
            raise Conflict(
                f"replica {replica.id} still delivers to {destination}; reload its configuration first"
            )
        await self.queue.forget(destination)

    async def test(self, destination: str) -> ProbeReport:
        if self._role == "ingest":
            raise Conflict("this process only accepts; ask one that delivers")
        if destination not in self._deliveries:
            raise NotFound(f"no destination called {destination} is configured")
        return await self._deliveries.probe(destination)

    def _require_sight(self) -> None:
        if not self.queue.sees_delivery:
            raise Conflict("this process only accepts; ask the one that delivers")


def _admin_of(config: Config, role: Role) -> Admin:
    """Two processes of one relay cannot share a port: the intake's admin listener is one higher."""
    admin = config.admin
    if role == "ingest" and admin.port:
        return admin.model_copy(update={"port": admin.port + 1})
    return admin


def _keys_fetcher(config: Config) -> Fetch:
    konnect = None if config.recovery is None else config.recovery.konnect
    return with_token(None, None) if konnect is None else with_token(konnect.token, konnect.regional_url)


def windows(sources: Sequence[Source]) -> dict[str, float | None]:
    """Each source's deduplication window in seconds, None where it is off."""
    return {source.name: source.deduplicate for source in sources}


def targets(config: Config) -> tuple[list[str], list[str]]:
    """The sources and destinations that there are metrics of."""
    return [source.name for source in config.sources], [each.name for each in config.destinations]
