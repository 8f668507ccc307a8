"""What is to be done next, by what is known: a pure decision, without I/O and without a clock.

    State ──decide(state, now)──▶ Action ──supervisor──▶ State

Owns the order of work: see how the webhooks are, mend them, then close gaps, the oldest first, one replay job
at a time; and that a call which keeps failing keeps nothing else waiting. How an action is done is
`supervisor`'s affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from relay.model import Gap
from relay.observe.ledger import KONNECT_RETENTION, RETENTION_SLACK
from relay.recovery.actions import Action, Close, Judge, Look, Mend, Poll, Pull, Replay, Wait
from relay.recovery.answers import ReplayState, Scope
from relay.recovery.hook import INACTIVE, Hook
from relay.recovery.patience import Call, Kind
from relay.recovery.state import Job, Rules, State, Target, Window, Work, covered_of, window_of

# What this relay answers to a batch and would answer again, and what an operator can do about it.
_LASTING: Final = {
    "413": "this relay refused a batch of it as too large (413): raise server.max_body",
    "400": "this relay could not read a batch of it (400): look at what its log says of that",
}
_PASSING: Final = frozenset({408, 425, 429})  # 4xx answers that may be others the next time


def decide(state: State, now: float, rules: Rules) -> Action:
    """What to do next."""
    if now < state.patience.everything.until:
        return Wait(state.patience.everything.until)
    for target in state.targets:
        hook = state.hooks.get(target.scope)
        if now >= _poll_at(state, target.scope, rules):
            return Poll(target)
        rests = now < _rests_until(state, Kind.MEND, target.scope)
        if hook is not None and state.accepting and _may_mend(hook, now, rules) and not rests:
            return Mend(target)
    if state.job is not None:
        return _follow(state, state.job, now, rules)
    return _recover(state, now, rules)


def _poll_at(state: State, scope: Scope, rules: Rules) -> float:
    hook = state.hooks.get(scope)
    due = 0.0 if hook is None else hook.is_due_at(rules.poll)
    return max(due, _rests_until(state, Kind.STATUS, scope))


def _rests_until(state: State, kind: Kind, scope: Scope) -> float:
    return state.patience.of(Call(kind, scope)).until


def _given_up(state: State, kind: Kind, scope: Scope, rules: Rules) -> bool:
    """Whether a call has failed so often that another way is better."""
    return state.patience.of(Call(kind, scope)).failures >= rules.calls


def _may_mend(hook: Hook, now: float, rules: Rules) -> bool:
    # Where a clock was set back it was done in the future, which is no reason to wait for that.
    lately = hook.mended_at is not None and abs(now - hook.mended_at) < rules.mend
    return hook.is_ours_to_mend and not lately


# -- a replay job of ours


def _follow(state: State, job: Job, now: float, rules: Rules) -> Action:
    if job.over_at is None:
        if now >= job.began_at + rules.job_most:
            hours = rules.job_most / 3600
            return Judge(job, f"Konnect's replay job was still {job.state} after {hours:g} h")
        if now < job.asked_at + rules.job_poll:
            return Wait(job.asked_at + rules.job_poll)
        return _unless_resting(state, job, Kind.JOB, Look(job), now, rules)
    completed = job.state is ReplayState.COMPLETED
    settled = job.over_at + (rules.settle if completed else 0.0)
    if now < settled:
        return Wait(settled)
    hook = state.hooks[job.target.scope]
    if hook.polled_at < settled:
        return _unless_resting(state, job, Kind.STATUS, Poll(job.target), now, rules)
    ended = f"Konnect's replay job ended as {job.state}"
    refused = _refused(state, job, "requests were refused while it ran" if completed else ended)
    if refused is not None:
        return refused
    if hook.is_failing:
        return _given_up_on(job, hook)
    if not completed:
        return Judge(job, ended)
    return _unless_resting(state, job, Kind.BINDING, Judge(job, ""), now, rules)


def _unless_resting(state: State, job: Job, kind: Kind, action: Action, now: float, rules: Rules) -> Action:
    """The action; where its call has failed too often, the job is not believed: others wait for its end."""
    rest = state.patience.of(Call(kind, job.target.scope))
    if now >= rest.until:
        return action
    if _given_up(state, kind, job.target.scope, rules):
        return Judge(job, f"what became of the replay job cannot be seen: {rest.trouble}")
    return Wait(rest.until)


def _refused(state: State, job: Job, trouble: str) -> Judge | None:
    """The judgement where this relay refused requests of the source while the job ran."""
    causes = {gap.cause for gap in state.gaps if _was_refused(gap, job)}
    for cause, advice in _LASTING.items():
        if cause in causes:
            return Judge(job, advice, lasting=True)
    return Judge(job, trouble, ours=True) if causes else None


def _was_refused(gap: Gap, job: Job) -> bool:
    return gap.source == job.target.source and gap.cause != INACTIVE and gap.end >= job.began_at


def _given_up_on(job: Job, hook: Hook) -> Judge:
    code = None if hook.status is None else hook.status.last_response_code
    if code is None or not 400 <= code < 500 or code in _PASSING:
        return Judge(job, "Konnect gave up on a batch while it ran")
    advice = "is it a proxy's limit?" if code == 413 else "konnect-relay konnect doctor tells more"
    return Judge(job, f"Konnect gave up on a batch that was answered {code}; {advice}", lasting=True)


# -- gaps


def _recover(state: State, now: float, rules: Rules) -> Action:
    looks = [_poll_at(state, target.scope, rules) for target in state.targets]
    wake = min(looks, default=now + rules.poll)
    for gap in sorted(state.gaps, key=lambda gap: gap.start):
        targets = [target for target in state.targets if target.source == gap.source]
        if not targets or not gap.id or gap.end <= now - KONNECT_RETENTION + RETENTION_SLACK:
            continue  # nobody can help, it is not written down yet, or `expiry` is about to close it
        settled_at = _settled_at(state, gap, now, rules)
        grows = _grows(state, gap, now, rules)
        if now < settled_at and not grows:
            wake = min(wake, settled_at)
            continue
        left = [each for each in targets if not _is_covered(state.of(gap.id, each.scope), gap, now, rules)]
        if not left and not grows:
            return Close(gap, _lost_until(state, gap, targets))
        for target in left:
            part = _part(state, gap, target, now, rules, grows=grows)
            if part is None:
                wake = min(wake, settled_at) if now < settled_at else wake
                continue
            action = _fetch(state, part, target, now, rules)
            if isinstance(action, Wait):
                wake = min(wake, action.until)
            elif action is not None:
                return action
    return Wait(max(wake, now))


def _part(state: State, gap: Gap, target: Target, now: float, rules: Rules, *, grows: bool) -> Gap | None:
    """What is left of a gap to be fetched; None while it grows and that is of the last hour.

    It may grow for days: a refusal a minute, a webhook that somebody switched off. How far it has grown may
    not be known, while nobody can ask how the webhook is. A pull that has begun goes on with the end it had
    then.
    """
    work = state.of(gap.id, target.scope)
    so_far = covered_of(work, gap, now, rules)
    left = gap if so_far is None else replace(gap, start=max(gap.start, so_far.end))
    if not grows:
        return left
    if work.pulled is not None:
        return replace(left, end=min(gap.end, work.pulled.end))
    ends = now - rules.settle
    return replace(left, end=min(gap.end, ends)) if ends - left.start >= rules.growing else None


def _settled_at(state: State, gap: Gap, now: float, rules: Rules) -> float:
    """When a gap can be fetched, together with one that began within its margin and was noticed later.

    Such a one is waited for as long as the margin, and no longer: it may grow for ever.
    """
    at = gap.end + rules.settle
    if now < gap.end + rules.margin:
        window = window_of(gap, now, rules)
        beside = [it.end + rules.settle for it in state.gaps if _overlap(it, gap, window)]
        at = max([at, *beside])
    return at


def _overlap(other: Gap, gap: Gap, window: Window) -> bool:
    return other.source == gap.source and other.start <= window.end and other.end >= window.start


def _grows(state: State, gap: Gap, now: float, rules: Rules) -> bool:
    """Whether it may go on for days: by refusals one after the other, or a webhook that stays inactive.

    Down time is over when it is noticed, unless the clock was set back since.
    """
    if gap.cause == INACTIVE:
        return _is_failing(state, gap)
    return now < gap.end + rules.settle and (gap.refusals > 0 or now < gap.end)


def _is_failing(state: State, gap: Gap) -> bool:
    """Whether it is of a webhook that is inactive still: each look at that widens it."""
    hooks = [state.hooks.get(target.scope) for target in state.targets if target.source == gap.source]
    return gap.cause == INACTIVE and any(hook is not None and hook.is_failing for hook in hooks)


def _fetch(state: State, gap: Gap, target: Target, now: float, rules: Rules) -> Action | None:
    """A replay, or a pull where that is all that is left; None where neither can be done at present."""
    work, scope = state.of(gap.id, target.scope), target.scope
    if now < work.retry_at:
        return Wait(work.retry_at)
    if not state.accepting:
        return None
    window = _joint_window(state, gap, target, now, rules)
    pull_at, replay_at = (_rests_until(state, kind, scope) for kind in (Kind.PULL, Kind.REPLAY))
    pull = _pull(gap, target, window, work) if now >= pull_at else Wait(pull_at)
    # What was pulled and comes by a replay afterwards comes twice, so a pull that has begun goes on.
    if work.pulls and not _given_up(state, Kind.PULL, scope, rules):
        return pull
    hook = state.hooks.get(scope)
    receives = hook is not None and hook.receives
    if receives and now >= replay_at:
        return Replay(gap, target, window)
    if work.pulls or (target.can_pull and _no_replay(state, scope, hook, rules)):
        return pull
    return Wait(replay_at) if receives else None


def _pull(gap: Gap, target: Target, window: Window, work: Work) -> Pull:
    """One that has begun goes on where it was, with the end it had then; what a gap has grown by is next."""
    if work.pulled is None:
        return Pull(gap, target, window)
    return Pull(gap, target, Window(window.start, work.pulled.end), done=work.pulled)


def _no_replay(state: State, scope: Scope, hook: Hook | None, rules: Rules) -> bool:
    """Whether nothing is left to be tried that would let a replay get here."""
    if hook is None:
        return _given_up(state, Kind.STATUS, scope, rules)
    if hook.receives:
        return _given_up(state, Kind.REPLAY, scope, rules)
    # One that was switched on not long ago will be again: a replay then.
    return not hook.is_ours_to_mend or _given_up(state, Kind.MEND, scope, rules)


def _joint_window(state: State, gap: Gap, target: Target, now: float, rules: Rules) -> Window:
    """The gap's window and those of the source's other gaps that overlap: one trouble has several causes.

    Without those that grow or are left alone for a while, for what cannot be had of them would keep this one
    open, and a replay without those that are pulled, for they would come a second time.
    """
    window, pulls = window_of(gap, now, rules), state.of(gap.id, target.scope).pulls
    for other in sorted(state.gaps, key=lambda each: each.start):
        work = state.of(other.id, target.scope)
        grows = now < other.end + rules.settle or _is_failing(state, other)
        apart = grows or now < work.retry_at or (work.pulls and not pulls)
        if other.source == gap.source and other.id != gap.id and not apart:
            its = window_of(other, now, rules)
            if its.start <= window.end and its.end >= window.start:
                window = Window(min(window.start, its.start), max(window.end, its.end))
    return window


def _is_covered(work: Work, gap: Gap, now: float, rules: Rules) -> bool:
    """Whether it was fetched. A gap may have grown since."""
    so_far = covered_of(work, gap, now, rules)
    return so_far is not None and so_far.end >= gap.end


def _lost_until(state: State, gap: Gap, targets: Sequence[Target]) -> float | None:
    found = [state.of(gap.id, each.scope).covered for each in targets]
    start = max([window.start for window in found if window is not None])
    return min(start, gap.end) if start > gap.start else None
