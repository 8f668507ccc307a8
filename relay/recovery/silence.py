"""Silence: a source from which nothing has come for longer than it should, and our own calls as a test of it.

Owns the two limits and who is over them; tells the log once at each end of a silence. Every call of Konnect's
API is itself an event of the audit log, so what recovery asks must come back by the webhook (docs/konnect.md
section 6.2: probable, not documented, hence off by default).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from relay.clock import Clock
from relay.observe.logs import Log

_LOOK: Final = 10.0  # seconds


class Received(Protocol):
    """Who knows when something came. `relay.queue.base.Queue` is one."""

    def last_received(self) -> Mapping[str, float]: ...


class Gauges(Protocol):
    """Where it shows. `relay.observe.metrics.Metrics` is one."""

    def silence(self, source: str, limit: float | None, *, echo_missing: bool) -> None: ...


class Silence:
    """Watches sources. *limits* gives each one's in seconds, or None where it may be silent for ever."""

    def __init__(
        self,
        received: Received,
        limits: Callable[[], Mapping[str, float | None]],
        *,
        echo: Callable[[], float | None],
        clock: Clock,
        gauges: Gauges,
        log: Log,
    ) -> None:
        """*echo*: seconds within which an event has to follow one of our own calls; None: do not look."""
        self._received = received
        self._limits = limits
        self._echo = echo
        self._clock = clock
        self._gauges = gauges
        self._log = log
        self._began = clock.now()
        self._called: dict[str, float] = {}  # our oldest call that nothing has followed yet
        self._silent: dict[str, set[str]] = {"source.silent": set(), "source.no_echo": set()}

    def called(self, source: str) -> None:
        """Konnect's API answered: an event of *source* should come of it."""
        self._heard(source)
        self._called.setdefault(source, self._clock.now())

    async def run(self) -> None:
        """Without end."""
        while True:
            self.look()
            await self._clock.sleep(_LOOK)

    def look(self) -> None:
        """Judge every source as of now."""
        now, last, echo = self._clock.now(), self._received.last_received(), self._echo()
        for source, limit in self._limits().items():
            age = now - last.get(source, self._began)
            self._tell("source.silent", source, limit is not None and age > limit, age)
            self._heard(source)
            waited = now - self._called.get(source, now)
            missing = echo is not None and waited > echo
            self._tell("source.no_echo", source, missing, waited)
            self._gauges.silence(source, limit, echo_missing=missing)

    def _heard(self, source: str) -> None:
        """Whatever came after our call may be its echo."""
        at = self._received.last_received().get(source)
        if at is not None and at >= self._called.get(source, at + 1.0):
            del self._called[source]

    def _tell(self, what: str, source: str, now: bool, seconds: float) -> None:
        silent = self._silent[what]
        if now and source not in silent:
            silent.add(source)
            self._log.warning(what, source=source, seconds=round(seconds, 1))
        elif not now and source in silent:
            silent.remove(source)
            self._log.info("source.heard", source=source, after=what)
