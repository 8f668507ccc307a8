"""What follows from what was done, for the next decision: pure functions from state to state."""

from __future__ import annotations

from dataclasses import replace

from relay.recovery.state import Job, Rules, State, Target, Window, Work, covered_of, window_of


def fetched(
    state: State,
    gap: int,
    target: Target,
    window: Window,
    began_at: float,
    rules: Rules,
    *,
    by_pull: bool = False,
) -> State:
    """After everything of *window* came for *gap*, which may have grown meanwhile.

    It serves every other gap in it that was over when that began. Over means for a while, in which what was
    in the air came or was given up, and got into Konnect's log. *by_pull*: what the gap has grown by is
    pulled as well, because a replay of it would begin a margin earlier and bring some of this a second time.
    """
    work = dict(state.work)
    until, settle = min(window.end, began_at), min(rules.settle, rules.margin)
    for each in state.gaps:
        before = state.of(each.id, target.scope)
        so_far = covered_of(before, each, began_at, rules)
        needed = window_of(each, began_at, rules).start if so_far is None else so_far.end
        whole = each.end + settle <= until
        if each.source != target.source or window.start > needed or not (whole or each.id == gap):
            continue
        covered = Window(
            window.start if so_far is None else so_far.start,
            window.end if whole else until - settle,
        )
        pull = before.pull or (by_pull and each.id == gap)
        work[each.id, target.scope] = replace(
            before, covered=covered, failures=0, pull=pull, pulled=None, trouble=""
        )
    return replace(state, work=work)


def failed(
    work: Work, now: float, rules: Rules, trouble: str, *, can_pull: bool, lasting: bool = False
) -> Work:
    """After a replay that did not bring everything.

    *lasting*: another one would bring no more, and the webhook would be switched off by it once more.
    """
    failures = work.failures + 1
    enough = lasting or failures >= rules.attempts
    wait = min(rules.retry * 2 ** min(failures - 1, 20), rules.retry_most)
    if lasting and not can_pull:
        wait = rules.hopeless
    return replace(
        work,
        failures=failures,
        retry_at=now + wait,
        pull=work.pull or (can_pull and enough),
        trouble=trouble,
    )


def failed_job(
    state: State, job: Job, now: float, rules: Rules, trouble: str, *, ours: bool, lasting: bool
) -> State:
    """After a job of ours that did not bring everything, for all gaps that it was for.

    *ours*: we refused what may be taken later, so that nothing more is asked of the source's webhook before.
    """
    scope = job.target.scope
    for number in {job.gap, *_within(state, job)}:
        before = state.of(number, scope)
        work = failed(before, now, rules, trouble, can_pull=job.target.can_pull, lasting=lasting)
        state = state.with_work(number, scope, work)
    return postponed(state, job.target, state.of(job.gap, scope).retry_at) if ours else state


def _within(state: State, job: Job) -> set[int]:
    return {
        gap.id
        for gap in state.gaps
        if gap.source == job.target.source
        and job.window.start <= gap.start
        and gap.end <= min(job.window.end, job.began_at)
    }


def busy(work: Work, now: float, rules: Rules, *, can_pull: bool) -> Work:
    """After a replay that has to wait for another one, which may be stuck in Konnect for ever."""
    since = now if work.busy_since is None else work.busy_since
    trouble = "another replay job runs"
    if can_pull and now >= since + rules.job_most:
        return replace(work, pull=True, retry_at=now, busy_since=since, trouble=trouble)
    return replace(work, retry_at=now + rules.busy, busy_since=since, trouble=trouble)


def forbidden(work: Work, now: float, rules: Rules, trouble: str, *, can_pull: bool) -> Work:
    """After Konnect has said that it will never do this: the other way at once, or this one much later."""
    if can_pull and not work.pull:
        return replace(work, pull=True, trouble=trouble)
    return replace(work, pull=False, pulled=None, retry_at=now + rules.hopeless, trouble=trouble)


def postponed(state: State, target: Target, until: float) -> State:
    """After a failure of our own: nothing more is asked of the source's webhook before *until*."""
    for gap in state.gaps:
        if gap.source == target.source:
            work = state.of(gap.id, target.scope)
            later = replace(work, retry_at=max(work.retry_at, until))
            state = state.with_work(gap.id, target.scope, later)
    return state
