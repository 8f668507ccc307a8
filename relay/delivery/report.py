"""What the worker tells the outside: one wide log line per attempt, metrics, and the last answer.

Never holds an event's content or a secret. A failure that repeats itself word for word is logged at
debug level until something else happens, so that an outage is one line and not thousands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from relay.clock import Clock
from relay.delivery.chunking import Work
from relay.delivery.decide import Decision
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from relay.model import DestinationState, Response, Settlement
from relay.observe import catalog
from relay.observe.logs import Log
from relay.observe.metrics import Metrics

_OUTCOMES: Mapping[type[Outcome], catalog.Outcome] = {
    Delivered: "delivered",
    Partial: "partial",
    Throttled: "throttled",
    Transient: "transient",
    TooLarge: "too_large",
    Rejected: "rejected",
    Misconfigured: "misconfigured",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that was answered, or failed to be."""

    work: Work
    outcome: Outcome
    decision: Decision
    seconds: float
    number: int  # from 1; above 1 it is a retry
    probing: bool


class Report:
    """The public face of one destination's worker."""

    def __init__(self, destination: str, *, clock: Clock, metrics: Metrics, log: Log) -> None:
        self.last_attempt_at: float | None = None  # seconds since the epoch
        self.last_response: Response | None = None
        self._destination = destination
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._failure: tuple[str, int | None, str] | None = None
        self._state: DestinationState | None = None

    def attempted(self, attempt: Attempt) -> None:
        response = attempt.outcome.response
        now = self._clock.now()
        self.last_attempt_at = now
        self.last_response = response
        outcome = _OUTCOMES[type(attempt.outcome)]
        self._metrics.attempt(
            self._destination, outcome, response.status, attempt.seconds, attempt.number > 1
        )
        log = self._log.info
        if outcome == "delivered":
            self._failure = None
        else:
            failure = (outcome, response.status, response.detail)
            log = self._log.debug if failure == self._failure else self._log.warning
            self._failure = failure
        log(
            "delivery.attempted",
            outcome=outcome,
            status=response.status,
            detail=response.detail,
            decision=type(attempt.decision).__name__,
            attempt=attempt.number,
            probe=attempt.probing,
            events=attempt.work.events,
            bytes=attempt.work.nbytes,
            seconds=round(attempt.seconds, 6),
            oldest_age=round(now - attempt.work.oldest_received_at, 3),
        )

    def settled(self, settlement: Settlement) -> None:
        oldest = settlement.oldest_received_at
        latency = None if oldest is None else self._clock.now() - oldest
        self._metrics.settled(self._destination, settlement, latency)

    def state(self, state: DestinationState) -> None:
        """Note the destination's state; a change is logged."""
        if state is not self._state:
            self._state = state
            self._log.debug("destination.state", state=state.value)

    def began(self) -> None:
        """This process is the one that delivers now."""
        self._metrics.lease(self._destination, held=True)
        self._log.info("delivery.began")

    def ended(self, *, lost: bool) -> None:
        """This process delivers no more, because it *lost* the lease or gives it back."""
        self._metrics.lease(self._destination, held=False)
        self._log.info("delivery.ended", lost=lost)
