"""Closes gaps through Konnect: does what `plan` decides, one action after the other.

    queue.gaps, accepting ─▶ State ─▶ decide ─▶ Konnect's API, queue ─▶ State ─▶ …

Owns the loop, what is remembered between two decisions, and that no failed call ends it. On a cluster one
replica does this; should two for a moment, Konnect answers the second 409.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from relay.clock import Clock
from relay.errors import QueueError
from relay.model import Recovering
from relay.observe.logs import Log
from relay.queue.base import Queue
from relay.recovery.actions import Action, Close, Judge, Look, Mend, Poll, Pull, Replay, Wait, call_of
from relay.recovery.api import KonnectApi
from relay.recovery.counting import Tally
from relay.recovery.errors import KonnectError
from relay.recovery.fetching import Fetching
from relay.recovery.memory import Memory
from relay.recovery.patience import Call, told
from relay.recovery.plan import decide
from relay.recovery.state import Rules, State, Target
from relay.recovery.webhooks import Echo, LeadsHere, Webhooks
from relay.recovery.words import waiting_for

_TICK: Final = 5.0  # seconds at most between two looks at the gaps
_SET_BACK: Final = 60.0  # seconds by which a clock may be corrected without anybody's minding
_STRETCH: Final = 1.25  # how much longer than said a wait may be


class Supervisor:
    """Of one process. *leads*: this one is to do it at present; *leads_here*: an endpoint is ours."""

    def __init__(
        self,
        api: KonnectApi,
        targets: tuple[Target, ...],
        queue: Queue,
        *,
        leads: Callable[[], bool],
        leads_here: LeadsHere,
        rules: Rules,
        clock: Clock,
        rng: Random,
        tally: Tally,
        log: Log,
        echo: Echo | None = None,
    ) -> None:
        self._api = api
        self._targets = targets
        self._queue = queue
        self._leads = leads
        self._rules = rules
        self._clock = clock
        self._rng = rng
        self._log = log
        self._memory = Memory(queue)
        self._webhooks = Webhooks(api, queue, leads_here, self._complain, clock=clock, log=log, echo=echo)
        self._fetching = Fetching(
            api,
            queue,
            rules=rules,
            clock=clock,
            tally=tally,
            log=log,
            say=self._say,
            complain=self._complain,
            keep=self._keep,
        )
        self._state: State | None = None  # None: not recalled yet
        self._looked_at = 0.0  # by the clock
        self._doing: Recovering | None = None
        self._call: Call | None = None  # of this step
        self._complained = False  # during this step
        self._troubles: dict[Call | None, str] = {}  # what was complained of last

    @property
    def doing(self) -> Recovering | None:
        """What it does or waits for; None on a replica that leaves it to another."""
        return self._doing

    async def run(self) -> None:
        """Without end."""
        await self._api.open()
        try:
            while True:
                await self._clock.sleep(await self._step())
        finally:
            await self._api.close()

    async def _step(self) -> float:
        """Do one thing; the seconds until the next one."""
        if not self._leads():
            self._state = self._doing = None
            self._fetching.forget()
            return _TICK
        try:
            return await self._next(await self._look_around())
        except QueueError as error:
            self._call = None
            self._complain(f"the queue: {error}")
            return _TICK

    async def _look_around(self) -> State:
        now = self._clock.now()
        if now < self._looked_at - _SET_BACK:  # what was to be done at its times is far away: begin anew
            self._state = None
            self._fetching.forget()
        self._looked_at = now
        state = self._state if self._state is not None else await self._memory.recall(self._targets)
        gaps = tuple(await self._queue.gaps())
        self._fetching.look_around()
        self._state = replace(state.trimmed(gaps), accepting=self._queue.stats().accepting)
        return self._state

    async def _next(self, state: State) -> float:
        action = decide(state, self._clock.now(), self._rules)
        if isinstance(action, Wait):
            if state.job is None or self._clock.now() < state.patience.everything.until:
                self._doing = waiting_for(state, self._clock.now())
            return min(_TICK, max(0.1, action.until - self._clock.now()))
        self._call, self._complained = call_of(action), False
        try:
            after = await self._do(state, action)
        except KonnectError as error:
            self._back_off(error)
            return 0.0
        if self._call is not None:
            after = replace(after, patience=after.patience.answered(self._call))
        await self._keep(after)
        if not self._complained:
            self._troubles.pop(self._call, None)
        return 0.0

    async def _do(self, state: State, action: Action) -> State:
        match action:
            case Poll(target):
                hook = await self._webhooks.poll(target, state.hooks.get(target.scope))
                return state.with_hook(target.scope, hook)
            case Mend(target):
                state = await self._located(state, target)
                if not _comes_here(state, target):
                    return state
                return state.with_hook(
                    target.scope, await self._webhooks.mend(target, state.hooks[target.scope])
                )
            case Replay():
                state = await self._located(state, action.target)
                return (
                    await self._fetching.replay(state, action) if _comes_here(state, action.target) else state
                )
            case Look(job):
                return await self._fetching.look(state, job)
            case Judge(job, trouble):
                if not trouble:
                    state = await self._located(state, job.target)
                    if not _comes_here(state, job.target):
                        action = replace(
                            action, trouble="the webhook was bound to another receiver while it ran"
                        )
                return self._fetching.judge(state, action)
            case Pull():
                return await self._fetching.pull(state, action)
            case Close():
                return await self._fetching.close(state, action)
        return state

    async def _located(self, state: State, target: Target) -> State:
        """With where a webhook sends looked up anew; the next decision goes by it too."""
        hook = await self._webhooks.locate(target, state.hooks[target.scope])
        return state.with_hook(target.scope, hook)

    async def _keep(self, state: State) -> None:
        self._state = state
        await self._memory.keep(state)

    # -- words -------------------------------------------------------------------------------

    def _say(self, doing: Recovering) -> None:
        self._doing = doing

    def _complain(self, trouble: str) -> None:
        """Log it, once as long as it is the same of this call."""
        self._complained = True
        if trouble != self._troubles.get(self._call):
            self._log.warning("recovery.trouble", detail=trouble)
            self._troubles[self._call] = trouble

    def _back_off(self, error: KonnectError) -> None:
        """Leave the call alone for a while; its trouble is logged once as long as it is the same."""
        state, call = self._state, self._call
        if state is None or call is None:
            raise error
        stretch = self._rng.uniform(1.0, _STRETCH)
        before, now = state.patience.of(call).trouble, self._clock.now()
        patience = state.patience.failed(call, error, now, stretch)
        self._state = replace(state, patience=patience)
        if told(error) != before:
            rest = max(patience.of(call).until, patience.everything.until) - now
            self._log.warning(
                "recovery.trouble", detail=told(error), call=str(call.kind), seconds=round(rest)
            )


def _comes_here(state: State, target: Target) -> bool:
    return state.hooks[target.scope].elsewhere is None
