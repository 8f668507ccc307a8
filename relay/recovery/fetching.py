"""Fetches what a gap misses, as `plan` decided: begins a replay job, follows and judges it, pulls, closes.

Owns the I/O for one gap, what Konnect's refusals mean for it, and the words about it. Each step takes the
state and gives the next one; it raises `KonnectError` where `patience` has to say how to go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from relay.clock import Clock
from relay.errors import Conflict, NotFound, QueueError
from relay.model import Gap, Recovering
from relay.observe.logs import Log
from relay.queue.base import Queue
from relay.recovery.actions import Close, Judge, Pull, Replay
from relay.recovery.answers import rfc3339
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
from relay.recovery.outcome import busy, failed, failed_job, fetched, forbidden, postponed
from relay.recovery.patience import Call, Kind
from relay.recovery.puller import Puller
from relay.recovery.state import Job, Rules, State, Target, Window

Keep = Callable[[State], Awaitable[None]]
"""Take a state for the present one, so that an error does not undo it."""


class Fetching:
    """Of one organisation. *say* shows what is being done; *complain* logs a trouble once."""

    def __init__(
        self,
        api: KonnectApi,
        queue: Queue,
        *,
        rules: Rules,
        clock: Clock,
        tally: Tally,
        log: Log,
        say: Callable[[Recovering], None],
        complain: Callable[[str], None],
        keep: Keep,
    ) -> None:
        self._api = api
        self._queue = queue
        self._rules = rules
        self._clock = clock
        self._tally = tally
        self._log = log
        self._say = say
        self._complain = complain
        self._keep = keep
        self._puller = Puller(api, queue, clock=clock)
        self._counting = Counting(queue, tally)
        self._pulled: dict[int, tuple[int, int]] = {}  # by gap: entries read, and those that were new

    def look_around(self) -> None:
        """Count what a job has brought so far."""
        self._counting.look()

    def forget(self) -> None:
        """Another process goes on."""
        self._counting.end()
        self._puller.forget()
        self._pulled.clear()

    # -- replay ------------------------------------------------------------------------------

    async def replay(self, state: State, action: Replay) -> State:
        gap, target, window = action.gap, action.target, action.window
        work = state.of(gap.id, target.scope)
        now = self._clock.now()
        try:
            await self._api.start_replay(target.scope, window.start, window.end)
        except KonnectConflict:
            self._say(Recovering(gap.id, f"waiting for another replay job of {target.scope}", at_work=True))
            waiting = busy(work, now, self._rules, can_pull=target.can_pull)
            return state.with_work(gap.id, target.scope, waiting)
        except (KonnectForbidden, KonnectNotFound) as error:
            self._complain(str(error))
            given_up = forbidden(work, now, self._rules, str(error), can_pull=target.can_pull)
            return state.with_work(gap.id, target.scope, given_up)
        except (KonnectUnauthorised, KonnectThrottled, KonnectUnavailable):
            raise
        except KonnectError as error:  # it takes the window for wrong
            return self._failed(state, Judge(Job(gap.id, target, window, now, now), str(error)))
        now = self._clock.now()
        self._counting.begin(target.source)
        self._say(Recovering(gap.id, f"replaying {_span(window)} of {target.scope}", at_work=True))
        self._log.info(
            "recovery.replaying",
            gap=gap.id,
            source=gap.source,
            webhook=str(target.scope),
            start=rfc3339(window.start),
            end=rfc3339(window.end),
        )
        state = replace(
            state,
            job=Job(gap.id, target, window, now, now),
            patience=state.patience.forgiven(Call(Kind.JOB, target.scope)),
        )
        return state.with_work(gap.id, target.scope, replace(work, busy_since=None))

    async def look(self, state: State, job: Job) -> State:
        found = await self._api.replay_job(job.target.scope)
        now = self._clock.now()
        if found.start is None or abs(found.start - job.window.start) >= 1.0:
            # Ours ended, nobody knows how.
            return self.judge(state, Judge(job, "another replay job took its place"))
        over_at = now if found.state.over else None
        return replace(state, job=replace(job, state=found.state, asked_at=now, over_at=over_at))

    def judge(self, state: State, judged: Judge) -> State:
        job = judged.job
        self._counting.end()
        state = replace(state, job=None)
        if judged.trouble:
            return self._failed(state, judged)
        self._log.info("recovery.replayed", gap=job.gap, webhook=str(job.target.scope))
        return fetched(state, job.gap, job.target, job.window, job.began_at, self._rules)

    def _failed(self, state: State, judged: Judge) -> State:
        job = judged.job
        state = failed_job(
            state,
            job,
            self._clock.now(),
            self._rules,
            judged.trouble,
            ours=judged.ours,
            lasting=judged.lasting,
        )
        self._tell_failure(state, job.gap, job.target, judged.trouble)
        return state

    # -- pull and close ----------------------------------------------------------------------

    async def pull(self, state: State, action: Pull) -> State:
        gap, target, window = action.gap, action.target, action.window
        began_at = self._clock.now()
        self._say(Recovering(gap.id, f"pulling {_span(window)} from the organisation's log", at_work=True))

        async def told(done: Window, entries: int, accepted: int) -> None:
            nonlocal state
            self._tally.recovered(target.source, accepted)
            read, new = self._pulled.get(gap.id, (0, 0))
            self._pulled[gap.id] = read + entries, new + accepted
            work = replace(state.of(gap.id, target.scope), pulled=done)
            state = replace(state, patience=state.patience.answered(Call(Kind.PULL, target.scope)))
            state = state.with_work(gap.id, target.scope, work)
            await self._keep(state)

        try:
            over = await self._puller.pull(target.source, window, action.done, told)
        except (KonnectForbidden, KonnectNotFound) as error:
            self._complain(str(error))
            work = replace(state.of(gap.id, target.scope), pull=True)
            given_up = forbidden(work, self._clock.now(), self._rules, str(error), can_pull=True)
            return state.with_work(gap.id, target.scope, given_up)
        except QueueError as error:
            return self._not_kept(state, gap, target, f"the queue: {error}")
        if not over:
            return state
        entries, accepted = self._pulled.pop(gap.id, (0, 0))
        self._log.info(
            "recovery.pulled", gap=gap.id, source=target.source, entries=entries, accepted=accepted
        )
        return fetched(state, gap.id, target, window, began_at, self._rules, by_pull=True)

    def _not_kept(self, state: State, gap: Gap, target: Target, trouble: str) -> State:
        """After the queue took nothing: it would be no better with the source's other gaps."""
        work = failed(state.of(gap.id, target.scope), self._clock.now(), self._rules, trouble, can_pull=False)
        state = state.with_work(gap.id, target.scope, work)
        self._tell_failure(state, gap.id, target, trouble)
        return postponed(state, target, work.retry_at)

    def _tell_failure(self, state: State, gap: int, target: Target, trouble: str) -> None:
        self._log.warning(
            "recovery.replay_failed",
            gap=gap,
            webhook=str(target.scope),
            failures=state.of(gap, target.scope).failures,
            detail=trouble,
        )

    async def close(self, state: State, action: Close) -> State:
        gap, lost_until = action.gap, action.lost_until
        try:
            await self._queue.close_gap(gap.id, at=self._clock.now(), lost_until=lost_until, known=gap)
        except Conflict:  # another replica has widened it: what it has grown by is next
            return state
        except NotFound:
            pass
        self._pulled.pop(gap.id, None)
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
        return state.trimmed(tuple([each for each in state.gaps if each.id != gap.id]))


def _span(window: Window) -> str:
    return f"{rfc3339(window.start)} to {rfc3339(window.end)}"
