"""Closes gaps through Konnect: does what `plan` decides, one action after the other.

    queue.gaps, accepting ─▶ State ─▶ decide ─▶ Konnect's API, queue ─▶ State ─▶ …

Owns the I/O around the decision, what is remembered between two decisions, and the words about it. All of
that is in memory: after a restart, or on another replica, a gap is fetched once more, for duplicates vanish.
On a cluster one replica does this; should two for a moment, Konnect answers the second 409.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Final

from relay.clock import Clock
from relay.errors import NotFound, QueueError
from relay.model import Gap, Recovering
from relay.observe.logs import Log
from relay.queue.base import Queue
from relay.recovery.answers import ORGANISATION, rfc3339
from relay.recovery.api import KonnectApi
from relay.recovery.counting import Counting, Tally
from relay.recovery.errors import (
    KonnectConflict,
    KonnectError,
    KonnectForbidden,
    KonnectNotFound,
    KonnectThrottled,
    KonnectUnauthorised,
    KonnectUnavailable,
)
from relay.recovery.plan import (
    Action,
    Close,
    Job,
    Judge,
    Look,
    Mend,
    Poll,
    Pull,
    Replay,
    Rules,
    State,
    Target,
    Wait,
    busy,
    decide,
    failed,
    fetched,
    forbidden,
    postponed,
)
from relay.recovery.puller import Puller
from relay.recovery.webhooks import Echo, LeadsHere, Webhooks

_TICK: Final = 5.0  # seconds at most between two looks at the gaps
_FIRST_WAIT: Final = 5.0  # seconds after the first failed call, doubled after each further one
_LONGEST_WAIT: Final = 300.0


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
        self._tally = tally
        self._log = log
        self._webhooks = Webhooks(api, queue, leads_here, self._complain, clock=clock, log=log, echo=echo)
        self._puller = Puller(api, queue, clock=clock)
        self._state = State(targets)
        self._doing: Recovering | None = None
        self._trouble = ""  # the last one that was logged
        self._complained = False  # during this step
        self._failures = 0  # of calls, in a row
        self._counting = Counting(queue, tally)

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
            self._state, self._doing = State(self._targets), None
            return _TICK
        try:
            gaps = tuple(await self._queue.gaps())
            self._counting.look()
            self._state = _trimmed(
                replace(self._state, gaps=gaps, accepting=self._queue.stats().accepting), gaps
            )
            self._complained = False
            action = decide(self._state, self._clock.now(), self._rules)
            if isinstance(action, Wait):
                self._idle()
                return min(_TICK, max(0.1, action.until - self._clock.now()))
            await self._do(action)
        except KonnectError as error:
            self._back_off(error)
        except QueueError as error:
            self._complain(f"the queue: {error}")
            return _TICK
        else:
            self._failures = 0
            if not self._complained:
                self._trouble = ""
        return 0.0

    async def _do(self, action: Action) -> None:
        match action:
            case Poll(target):
                hook = await self._webhooks.poll(target, self._state.hooks.get(target.scope))
                self._state = self._state.with_hook(target.scope, hook)
            case Mend(target):
                if await self._comes_here(target):
                    hook = await self._webhooks.mend(target, self._state.hooks[target.scope])
                    self._state = self._state.with_hook(target.scope, hook)
            case Replay():
                if await self._comes_here(action.target):
                    await self._replay(action)
            case Look(job):
                await self._look(job)
            case Judge(job, trouble, ours):
                if not trouble and not await self._comes_here(job.target):
                    trouble = "the webhook was bound to another receiver while it ran"
                self._judge(job, trouble, ours=ours)
            case Pull():
                await self._pull(action)
            case Close(gap, lost_until):
                await self._close(gap, lost_until)

    async def _comes_here(self, target: Target) -> bool:
        """Whether what Konnect sends comes to us, looked up anew; the next decision goes by it too."""
        hook = await self._webhooks.locate(target, self._state.hooks[target.scope])
        self._state = self._state.with_hook(target.scope, hook)
        return hook.elsewhere is None

    # -- replay ------------------------------------------------------------------------------

    async def _replay(self, action: Replay) -> None:
        gap, target, window = action.gap, action.target, action.window
        work = self._state.of(gap.id, target.scope)
        now = self._clock.now()
        try:
            await self._api.start_replay(target.scope, window.start, window.end)
        except KonnectConflict:
            self._say(gap, f"waiting for another replay job of {target.scope}")
            waiting = busy(work, now, self._rules, can_pull=target.scope == ORGANISATION)
            self._state = self._state.with_work(gap.id, target.scope, waiting)
            return
        except (KonnectForbidden, KonnectNotFound) as error:
            self._complain(str(error))
            can_pull = target.scope == ORGANISATION
            given_up = forbidden(work, now, self._rules, str(error), can_pull=can_pull)
            self._state = self._state.with_work(gap.id, target.scope, given_up)
            return
        except (KonnectUnauthorised, KonnectThrottled, KonnectUnavailable):
            raise
        except KonnectError as error:  # it takes the window for wrong
            self._fail(gap.id, target, str(error))
            return
        now = self._clock.now()
        self._state = replace(self._state, job=Job(gap.id, target, window, now, now))
        self._state = self._state.with_work(gap.id, target.scope, replace(work, busy_since=None))
        self._counting.begin(target.source)
        self._say(gap, f"replaying {_span(window.start, window.end)} of {target.scope}")
        self._log.info(
            "recovery.replaying",
            gap=gap.id,
            source=gap.source,
            webhook=str(target.scope),
            start=rfc3339(window.start),
            end=rfc3339(window.end),
        )

    async def _look(self, job: Job) -> None:
        found = await self._api.replay_job(job.target.scope)
        now = self._clock.now()
        if found.start is None or abs(found.start - job.window.start) >= 1.0:
            self._judge(job, "another replay job took its place")  # ours ended, nobody knows how
            return
        over_at = now if found.state.over else None
        self._state = replace(self._state, job=replace(job, state=found.state, asked_at=now, over_at=over_at))

    def _judge(self, job: Job, trouble: str, *, ours: bool = False) -> None:
        self._counting.end()
        self._state = replace(self._state, job=None)
        if trouble:
            self._fail(job.gap, job.target, trouble, ours=ours)
            return
        self._state = fetched(self._state, job.target, job.window, job.began_at)
        self._log.info("recovery.replayed", gap=job.gap, webhook=str(job.target.scope))

    def _fail(self, gap: int, target: Target, trouble: str, *, ours: bool = False) -> None:
        work = failed(
            self._state.of(gap, target.scope),
            self._clock.now(),
            self._rules,
            trouble,
            can_pull=target.scope == ORGANISATION and not ours,
        )
        self._state = self._state.with_work(gap, target.scope, work)
        if ours:  # it would be no better with the source's other gaps
            self._state = postponed(self._state, target, work.retry_at)
        self._log.warning(
            "recovery.replay_failed",
            gap=gap,
            webhook=str(target.scope),
            failures=work.failures,
            detail=trouble,
        )

    # -- pull and close ----------------------------------------------------------------------

    async def _pull(self, action: Pull) -> None:
        gap, target, window = action.gap, action.target, action.window
        work = self._state.of(gap.id, target.scope)
        began_at = self._clock.now()
        self._say(gap, f"pulling {_span(window.start, window.end)} from the organisation's log")
        try:
            pulled = await self._puller.pull(target.source, window)
        except (KonnectForbidden, KonnectNotFound) as error:
            self._complain(str(error))
            work = replace(work, pull=True)
            given_up = forbidden(work, self._clock.now(), self._rules, str(error), can_pull=True)
            self._state = self._state.with_work(gap.id, target.scope, given_up)
            return
        except QueueError as error:
            self._fail(gap.id, target, f"the queue: {error}", ours=True)
            return
        self._tally.recovered(target.source, pulled.accepted)
        self._log.info(
            "recovery.pulled",
            gap=gap.id,
            source=target.source,
            entries=pulled.entries,
            accepted=pulled.accepted,
            complete=pulled.complete,
        )
        if pulled.complete:
            self._state = fetched(self._state, target, window, began_at)
        else:
            self._fail(gap.id, target, "Konnect's pages came in a circle")

    async def _close(self, gap: Gap, lost_until: float | None) -> None:
        with suppress(NotFound):
            await self._queue.close_gap(gap.id, at=self._clock.now(), lost_until=lost_until)
        work = {key: each for key, each in self._state.work.items() if key[0] != gap.id}
        self._state = replace(self._state, work=work)
        if lost_until is None:
            self._log.info("recovery.closed", gap=gap.id, source=gap.source, cause=gap.cause)
        else:
            self._log.error(
                "recovery.lost",
                gap=gap.id,
                source=gap.source,
                cause=gap.cause,
                start=rfc3339(gap.start),
                lost_until=rfc3339(lost_until),
            )

    # -- words -------------------------------------------------------------------------------

    def _say(self, gap: Gap, detail: str) -> None:
        self._doing = Recovering(gap.id, detail, at_work=True)

    def _idle(self) -> None:
        """What is being waited for, where nothing is being done."""
        if self._clock.now() < self._state.not_before:
            self._doing = Recovering(None, self._trouble or "waiting for Konnect")
        elif self._state.job is None:
            self._doing = self._obstacle() or Recovering(None, "waiting" if self._state.gaps else "watching")

    def _obstacle(self) -> Recovering | None:
        """What keeps the oldest gap open."""
        for target in self._targets:
            hook = self._state.hooks.get(target.scope)
            if hook is not None and hook.elsewhere is not None:
                return Recovering(
                    None, f"the webhook of {target.scope} sends to {hook.elsewhere}, not to this relay"
                )
            if hook is not None and hook.off_by_hand and hook.is_failing:
                return Recovering(None, f"somebody switched off the webhook of {target.scope} in Konnect")
        for gap in sorted(self._state.gaps, key=lambda gap: gap.start):
            for target in self._targets:
                if trouble := self._state.of(gap.id, target.scope).trouble:
                    return Recovering(gap.id, trouble)
        return None

    def _complain(self, trouble: str) -> None:
        """Log it, once as long as it is the same."""
        self._complained = True
        if trouble != self._trouble:
            self._log.warning("recovery.trouble", detail=trouble)
            self._trouble = trouble

    def _back_off(self, error: KonnectError) -> None:
        self._complain(str(error))
        self._failures += 1
        wait = min(_FIRST_WAIT * 2 ** min(self._failures - 1, 20), _LONGEST_WAIT)
        if isinstance(error, KonnectUnauthorised):
            wait = _LONGEST_WAIT  # nothing changes until somebody gives us another token
        asked = getattr(error, "retry_after", None)
        if isinstance(asked, float | int):
            wait = max(wait, min(float(asked), _LONGEST_WAIT))
        wait *= self._rng.uniform(1.0, 1.25)
        self._state = replace(self._state, not_before=self._clock.now() + wait)


def _trimmed(state: State, gaps: tuple[Gap, ...]) -> State:
    """Without work on gaps that are closed, by whomever."""
    ids = {gap.id for gap in gaps}
    return replace(state, work={key: work for key, work in state.work.items() if key[0] in ids})


def _span(start: float, end: float) -> str:
    return f"{rfc3339(start)} to {rfc3339(end)}"
