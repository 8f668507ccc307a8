"""One piece of work on its way to the destination, from the first request to the last settlement.

Owns what splitting, bisecting and partial answers leave to do: a stack of parts, taken in log order.
Carries out what `decide` says and never waits: what has to be sent later goes back to the lane.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import assert_never

from relay.clock import Clock
from relay.config.destination import Retry
from relay.delivery.chunking import Work
from relay.delivery.decide import (
    Decision,
    PutOnHold,
    Resend,
    RetryAt,
    SetAside,
    Settle,
    SettlePartial,
    Split,
    decide,
)
from relay.delivery.lanes import Lane
from relay.delivery.report import Attempt, Report
from relay.destinations.base import Destination, Outcome, Partial
from relay.model import Reason, Response, RetryState, Settlement, Unfit


@dataclass(frozen=True, slots=True)
class Landing:
    """How a flight ended."""

    proved: bool  # the destination judged events, so it is there and lets us in
    left: tuple[Work, ...] = ()  # to be sent again
    decision: RetryAt | PutOnHold | None = None  # when and why; None: nothing is left
    attempts: int = 0  # spent on what is left, this flight's last one included
    detail: str = ""


class Flight:
    """The work of one lane. `run` once."""

    def __init__(
        self,
        work: Work,
        lane: Lane,
        destination: Destination,
        *,
        probe: bool,
        policy: Retry,
        clock: Clock,
        rng: Random,
        report: Report,
    ) -> None:
        self.lane = lane
        self.probe = probe
        self._parts = [work]  # the next one last
        self._destination = destination
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._report = report
        self._attempts = lane.attempts
        self._proved = False

    async def run(self) -> Landing:
        """Send until everything is settled or has to wait. Raises `QueueError` where settling fails."""
        while self._parts:
            work = self._parts.pop()
            if unfit := work.unfit():
                await self._set_aside(work, unfit)
                continue
            outcome, decision = await self._attempt(work)
            verdict = await self._carry_out(decision, work, outcome)
            if verdict is not None:
                detail = outcome.response.detail
                return Landing(self._proved, tuple(self._parts), verdict, self._attempts + 1, detail)
        return Landing(self._proved)

    async def _set_aside(self, work: Work, unfit: Mapping[int, Unfit]) -> None:
        """Dead-letter what must not go out, and stack the rest."""
        apart, rest = work.part(unfit)
        whys = [unfit[index] for index in sorted(unfit)]
        await self._book(
            apart.settlements({n: (why.reason, Response(why.detail)) for n, why in enumerate(whys)})
        )
        if rest.events:
            self._parts.append(rest)
        else:
            await self._book(rest.settlements())

    async def _attempt(self, work: Work) -> tuple[Outcome, Decision]:
        began = self._clock.monotonic()
        outcome = await self._destination.send(work.chunk)
        seconds = self._clock.monotonic() - began
        probing = self.probe and not self._proved
        decision = decide(
            outcome,
            events=work.events,
            attempts=self._attempts,
            probing=probing,
            policy=self._policy,
            now=self._clock.now(),
            rng=self._rng,
        )
        self._report.attempted(Attempt(work, outcome, decision, seconds, self._attempts + 1, probing))
        return outcome, decision

    async def _carry_out(
        self, decision: Decision, work: Work, outcome: Outcome
    ) -> RetryAt | PutOnHold | None:
        """Settle what can be settled and stack the rest; the verdict, where it ends the flight."""
        match decision:
            case Settle():
                await self._settle(work.settlements())
            case Split():
                self._proved = True
                left, right = work.halves()
                self._parts += (right, left)
            case SetAside(reason):
                await self._settle(work.all_dead(reason, self._kept(outcome.response)))
            case SettlePartial():
                assert isinstance(outcome, Partial)  # noqa: S101 - `decide` answers a partial outcome with it
                return await self._carry_out_partial(decision, work, outcome)
            case RetryAt() | PutOnHold():
                self._parts.append(work)
                return decision
            case _:
                assert_never(decision)
        return None

    async def _carry_out_partial(
        self, decision: SettlePartial, work: Work, outcome: Partial
    ) -> RetryAt | PutOnHold | None:
        refused = {refusal.index for refusal in decision.rejected}
        places = {index: n for n, index in enumerate(sorted(refused.union(decision.delivered)))}
        kept = self._kept(outcome.response)
        dead: dict[int, tuple[Reason, Response]] = {
            places[refusal.index]: (refusal.reason, replace(kept, detail=refusal.detail))
            for refusal in decision.rejected
        }
        settled, rest = work.part(places)
        await self._settle(settled.settlements(dead))
        if not rest.events:
            await self._settle(rest.settlements())
            return None
        match decision.rest:
            case Resend():
                self._parts.append(rest)
            case SetAside(reason):
                await self._settle(rest.all_dead(reason, kept))
            case RetryAt() | PutOnHold() as later:
                self._parts.append(rest)
                return later
            case _:
                assert_never(decision.rest)
        return None

    async def _book(self, settlements: Iterable[Settlement]) -> None:
        for settlement in settlements:
            await self.lane.reader.settle(settlement)
            self._report.settled(settlement)

    async def _settle(self, settlements: Iterable[Settlement]) -> None:
        """Book what the destination judged."""
        await self._book(settlements)
        self._proved = True
        if self._attempts:
            # The head is through and what follows starts anew. A flight that began without attempts
            # leaves the schedule alone: it is that of an older one, which failed meanwhile.
            self._attempts = 0
            if self.lane.attempts:
                await self.lane.note_retry(RetryState())

    def _kept(self, response: Response) -> Response:
        """The response as a dead letter keeps it."""
        return replace(response, attempt=self._attempts + 1)
