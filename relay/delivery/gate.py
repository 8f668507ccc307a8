"""When a destination may be sent to: its circuit and the time of its next attempt or probe.

Owns the circuit, which follows the hold in the queue, and the schedule as a span of elapsed time. Never
sends and never decides: `Shift` tells what a flight came back with, `decide` had said what that means.
"""

from __future__ import annotations

from contextlib import suppress

from relay.clock import Clock
from relay.config.destination import Retry
from relay.delivery.circuit import Circuit
from relay.errors import QueueError
from relay.model import Hold, HoldReason
from relay.observe.logs import Log
from relay.queue.base import Queue


class Gate:
    """Starts as the queue remembers it; a destination that was held is probed at once."""

    def __init__(
        self, destination: str, queue: Queue, *, policy: Retry, max_events: int, clock: Clock, log: Log
    ) -> None:
        self.circuit = Circuit(
            probe_max_events=policy.probe_max_events, max_events=max_events, hold=queue.hold(destination)
        )
        self._destination = destination
        self._queue = queue
        self._policy = policy
        self._clock = clock
        self._log = log
        self._not_before = 0.0  # monotonic: the next attempt, or the next probe

    def opens_in(self) -> float:
        """Seconds until the next request may go, as far as time decides; 0 or less: now."""
        return self._not_before - self._clock.monotonic()

    def wait_until(self, at: float) -> None:
        """Let nothing through before *at* (seconds since the epoch).

        The span is bounded by the longest wait the policy knows: when somebody has set the
        machine's clock back, a stored schedule must not stop delivery for hours.
        """
        longest = max(self._policy.max_wait, self._policy.max_retry_after)
        span = min(at - self._clock.now(), longest)
        self._not_before = max(self._not_before, self._clock.monotonic() + span)

    def follow(self) -> bool:
        """Take over the hold the queue knows where it is not ours; whether it was so.

        The queue puts our own holds in force from the call on, so what differs is always somebody else's.
        """
        hold = self._queue.hold(self._destination)
        if hold == self.circuit.hold:
            return False
        if hold is None:
            self._close()
        else:
            self._open(hold)
        return True

    async def hold(self, reason: HoldReason, detail: str, probe_in: float = 0.0) -> None:
        """Open the circuit, or note why it is still open; the next probe is due in *probe_in* seconds."""
        self._not_before = self._clock.monotonic() + probe_in
        before = self.circuit.hold
        if before is not None and (before.reason, before.detail) == (reason, detail):
            return
        since = self._clock.now() if before is None else before.since
        self._open(Hold(reason, since, detail))
        await self._store()

    async def release(self) -> None:
        """Close the circuit; whatever time was set is over."""
        was_open = self.circuit.is_open
        self._close()
        if was_open:
            await self._store()

    def _open(self, hold: Hold) -> None:
        self.circuit.open(hold)
        self._log.warning("destination.held", reason=hold.reason.value, detail=hold.detail)

    def _close(self) -> None:
        self._not_before = 0.0
        if self.circuit.is_open:
            self.circuit.close()
            self._log.info("destination.resumed")

    async def _store(self) -> None:
        # A full disk must not stop delivery. The hold is in force; if the relay dies before the
        # disk takes it, the next run finds out again what this one knew.
        with suppress(QueueError):
            await self._queue.set_hold(self._destination, self.circuit.hold)
