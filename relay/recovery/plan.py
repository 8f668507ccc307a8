"""What recovery knows, and what follows from it: a pure decision, without I/O and without a clock.

    State ──decide(state, now)──▶ Action ──supervisor──▶ State

Owns the order of work: see how the webhooks are, mend them, then close gaps, the oldest first, one replay job
at a time. How an action is done is `supervisor`'s affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from relay.model import Gap
from relay.recovery.answers import ORGANISATION, ReplayState, Scope, WebhookState, WebhookStatus

RETENTION: Final = 7 * 86_400.0
"""Seconds; docs/konnect.md section 5: afterwards Konnect has deleted it for good."""

_SLACK: Final = 60.0  # seconds at the far end: clocks differ, and the job starts a little later
_TAKES_EFFECT: Final = 60.0  # seconds after which Konnect's status must know that we switched it on
_ASK_AGAIN: Final = 3600.0  # seconds until a webhook is tried that we were not allowed to switch on
INACTIVE: Final = "inactive"


@dataclass(frozen=True, slots=True)
class Rules:
    """How patient recovery is. All in seconds."""

    margin: float = 120.0  # before and after a gap: header and event time differ, batches were in flight
    poll: float = 60.0  # between two looks at a webhook's status
    job_poll: float = 5.0  # between two looks at our replay job
    settle: float = 20.0  # until what is in flight has come or was given up: Konnect tries for 15
    job_most: float = 21_600.0  # how long a job, ours or somebody else's, is waited for
    busy: float = 30.0  # until another try while somebody else's job runs
    attempts: int = 3  # at a replay before the log is pulled instead
    retry: float = 30.0  # after the first failed replay, doubled after each further one
    retry_most: float = 900.0
    hopeless: float = 3600.0  # until another try at what Konnect does not allow
    growing: float = 3600.0  # how long a gap that grows is left to grow before a part of it is fetched
    mend: float = 600.0  # between two times a webhook is switched on


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook that brings a source's events."""

    source: str
    scope: Scope = ORGANISATION


@dataclass(frozen=True, slots=True)
class Window:
    """From *start* to *end*, both inclusive, seconds since the epoch."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Hook:
    """What is known of a webhook."""

    polled_at: float
    status: WebhookStatus | None  # None: Konnect would not tell
    mended_at: float | None = None  # when we last switched it on
    mended_attempt: float | None = None  # the failed attempt, by Konnect's clock, after which we did
    well: WebhookStatus | None = None  # what Konnect said when it last was enabled and active
    elsewhere: str | None = None  # where it sends to, in words, if that is not here
    refused_at: float | None = None  # when Konnect last did not let us switch it on

    @property
    def is_failing(self) -> bool:
        """Whether Konnect calls it inactive, and has had a reason to since we switched it on."""
        if self.status is None or self.status.state is not WebhookState.INACTIVE:
            return False
        at = self.status.last_attempt_at
        if self.mended_at is None or self._off_without_failure:
            return True
        return at is not None and at > self.mended_at and at != self.mended_attempt

    @property
    def off_by_hand(self) -> bool:
        """Whether somebody, not a failure, switched it off."""
        status = self.status
        if status is None or status.enabled:
            return False
        code = status.last_response_code
        if status.last_attempt_at is None or (code is not None and 200 <= code < 300):
            return True
        return self._off_without_failure

    @property
    def _off_without_failure(self) -> bool:
        """Whether it was well or switched on by us, and is off though nothing was tried since."""
        status, well = self.status, self.well
        if status is None or status.enabled:
            return False
        if well is not None and status.last_attempt_at == well.last_attempt_at:
            return True
        if self.mended_at is None or self.polled_at - self.mended_at < _TAKES_EFFECT:
            return False
        return status.last_attempt_at == self.mended_attempt

    @property
    def is_ours_to_mend(self) -> bool:
        """Whether Konnect, not a person, switched it off, it leads here as far as is known, and we may."""
        refused = self.refused_at is not None and self.polled_at < self.refused_at + _ASK_AGAIN
        return self.is_failing and not self.off_by_hand and self.elsewhere is None and not refused

    @property
    def receives(self) -> bool:
        """Whether a replay would get here."""
        if self.status is None or self.status.state is WebhookState.UNCONFIGURED:
            return False
        return self.elsewhere is None and not self.off_by_hand and not self.is_failing


@dataclass(frozen=True, slots=True)
class Job:
    """Our replay job."""

    gap: int
    target: Target
    window: Window
    began_at: float
    asked_at: float
    state: ReplayState = ReplayState.ACCEPTED
    over_at: float | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """How far one gap is with one webhook."""

    covered: Window | None = None  # what was fetched completely
    failures: int = 0
    retry_at: float = 0.0
    pull: bool = False  # a replay will not do it
    busy_since: float | None = None  # somebody else's job runs
    trouble: str = ""  # the last reason, for people


Key = tuple[int, Scope]


@dataclass(frozen=True, slots=True)
class State:
    """Everything at one moment. *gaps* are the open ones."""

    targets: tuple[Target, ...]
    gaps: tuple[Gap, ...] = ()
    accepting: bool = True  # the queue has room
    hooks: Mapping[Scope, Hook] = field(default_factory=dict)
    job: Job | None = None
    work: Mapping[Key, Work] = field(default_factory=dict)
    not_before: float = 0.0  # the API asked to be left alone, or cannot be reached

    def of(self, gap: int, scope: Scope) -> Work:
        return self.work.get((gap, scope), Work())

    def with_work(self, gap: int, scope: Scope, work: Work) -> State:
        return replace(self, work={**self.work, (gap, scope): work})

    def with_hook(self, scope: Scope, hook: Hook) -> State:
        return replace(self, hooks={**self.hooks, scope: hook})


# -- actions


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before *until*, seconds since the epoch, unless something happens."""

    until: float


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask how a webhook is."""

    target: Target


@dataclass(frozen=True, slots=True)
class Mend:
    """Switch a webhook on that Konnect has given up on."""

    target: Target


@dataclass(frozen=True, slots=True)
class Replay:
    """Have everything of a window sent once more."""

    gap: Gap
    target: Target
    window: Window


@dataclass(frozen=True, slots=True)
class Look:
    """Ask how our job is."""

    job: Job


@dataclass(frozen=True, slots=True)
class Judge:
    """Our job is over: it brought everything, or not."""

    job: Job
    trouble: str  # empty: it did
    ours: bool = False  # Konnect did its part, we did not


@dataclass(frozen=True, slots=True)
class Pull:
    """Read the organisation's log and append what is missing."""

    gap: Gap
    target: Target
    window: Window


@dataclass(frozen=True, slots=True)
class Close:
    """A gap is dealt with; what lies before *lost_until* is gone for good."""

    gap: Gap
    lost_until: float | None


Action = Wait | Poll | Mend | Replay | Look | Judge | Pull | Close


def decide(state: State, now: float, rules: Rules) -> Action:
    """What to do next."""
    if now < state.not_before:
        return Wait(state.not_before)
    for target in state.targets:
        hook = state.hooks.get(target.scope)
        if hook is None or now - hook.polled_at >= rules.poll:
            return Poll(target)
        if hook.is_ours_to_mend and state.accepting and _may_mend(hook, now, rules):
            return Mend(target)
    if state.job is not None:
        return _follow(state, state.job, now, rules)
    return _recover(state, now, rules)


def _may_mend(hook: Hook, now: float, rules: Rules) -> bool:
    return hook.mended_at is None or now - hook.mended_at >= rules.mend


def _follow(state: State, job: Job, now: float, rules: Rules) -> Action:
    if job.over_at is None:
        if now >= job.began_at + rules.job_most:
            hours = rules.job_most / 3600
            return Judge(job, f"Konnect's replay job was still {job.state} after {hours:g} h")
        due = job.asked_at + rules.job_poll
        return Look(job) if now >= due else Wait(due)
    if job.state is not ReplayState.COMPLETED:
        refused = any(_was_refused(gap, job) for gap in state.gaps)
        return Judge(job, f"Konnect's replay job ended as {job.state}", ours=refused)
    if now < job.over_at + rules.settle:
        return Wait(job.over_at + rules.settle)
    hook = state.hooks[job.target.scope]
    if hook.polled_at < job.over_at + rules.settle:
        return Poll(job.target)
    if any(_was_refused(gap, job) for gap in state.gaps):
        return Judge(job, "requests were refused while it ran", ours=True)
    if hook.is_failing:
        return Judge(job, "Konnect gave up on a batch while it ran")
    return Judge(job, "")


def _was_refused(gap: Gap, job: Job) -> bool:
    return gap.source == job.target.source and gap.cause != INACTIVE and gap.end >= job.began_at


def _recover(state: State, now: float, rules: Rules) -> Action:
    wake = min([hook.polled_at + rules.poll for hook in state.hooks.values()], default=now + rules.poll)
    for gap in sorted(state.gaps, key=lambda gap: gap.start):
        targets = [target for target in state.targets if target.source == gap.source]
        if not targets or not gap.id or gap.end <= now - RETENTION + _SLACK:
            continue  # nobody can help, it is not written down yet, or `expiry` is about to close it
        if gap.cause == INACTIVE and now < gap.start + rules.growing and _is_failing(state, targets):
            continue
        if now < gap.end + rules.settle:  # it may still grow
            wake = min(wake, gap.end + rules.settle)
            continue
        left = [each for each in targets if not _is_covered(state.of(gap.id, each.scope), gap, now, rules)]
        if not left:
            return Close(gap, _lost_until(state, gap, targets))
        for target in left:
            work = state.of(gap.id, target.scope)
            if now < work.retry_at:
                wake = min(wake, work.retry_at)
            elif state.accepting and (action := _fetch(state, gap, target, now, rules)) is not None:
                return action
    return Wait(max(wake, now))


def _is_failing(state: State, targets: list[Target]) -> bool:
    return any(state.hooks[target.scope].is_failing for target in targets)


def _fetch(state: State, gap: Gap, target: Target, now: float, rules: Rules) -> Action | None:
    """A replay, or a pull where that is all that is left; None where neither can be done at present."""
    window = _joint_window(state, gap, now, rules)
    hook = state.hooks[target.scope]
    if not state.of(gap.id, target.scope).pull:
        if hook.receives:
            return Replay(gap, target, window)
        if hook.is_ours_to_mend:
            return None  # it was switched on not long ago and will be again: a replay then
    return Pull(gap, target, window) if target.scope == ORGANISATION else None


def window_of(gap: Gap, now: float, rules: Rules) -> Window:
    """What is to be fetched for a gap: with a margin, of what Konnect still has."""
    return Window(max(gap.start - rules.margin, now - RETENTION + _SLACK), min(gap.end + rules.margin, now))


def _joint_window(state: State, gap: Gap, now: float, rules: Rules) -> Window:
    """The gap's window and those of the source's other gaps that overlap: one trouble has several causes."""
    window = window_of(gap, now, rules)
    for other in sorted(state.gaps, key=lambda each: each.start):
        if other.source == gap.source and now >= other.end + rules.settle:
            its = window_of(other, now, rules)
            if its.start <= window.end and its.end >= window.start:
                window = Window(min(window.start, its.start), max(window.end, its.end))
    return window


def _is_covered(work: Work, gap: Gap, now: float, rules: Rules) -> bool:
    """Whether it was fetched. A gap may have grown since."""
    if work.covered is None:
        return False
    wanted = window_of(gap, now, rules)
    return work.covered.start <= wanted.start and work.covered.end >= gap.end


def _lost_until(state: State, gap: Gap, targets: list[Target]) -> float | None:
    found = [state.of(gap.id, each.scope).covered for each in targets]
    start = max([window.start for window in found if window is not None])
    return min(start, gap.end) if start > gap.start else None


# -- what came of it


def fetched(state: State, target: Target, window: Window, began_at: float) -> State:
    """After everything of *window* came: it serves every gap that was over when that began."""
    work = dict(state.work)
    for gap in state.gaps:
        if gap.source == target.source and gap.end <= began_at:
            before = state.of(gap.id, target.scope)
            if window.start <= gap.end and window.end >= gap.end:
                work[gap.id, target.scope] = replace(before, covered=window, failures=0, trouble="")
    return replace(state, work=work)


def failed(work: Work, now: float, rules: Rules, trouble: str, *, can_pull: bool) -> Work:
    """After a replay that did not bring everything."""
    failures = work.failures + 1
    wait = min(rules.retry * 2 ** min(failures - 1, 20), rules.retry_most)
    return replace(
        work,
        failures=failures,
        retry_at=now + wait,
        pull=can_pull and failures >= rules.attempts,
        trouble=trouble,
    )


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
    return replace(work, pull=False, retry_at=now + rules.hopeless, trouble=trouble)


def postponed(state: State, target: Target, until: float) -> State:
    """After a failure of our own: nothing more is asked of the source's webhook before *until*."""
    for gap in state.gaps:
        if gap.source == target.source:
            work = state.of(gap.id, target.scope)
            later = replace(work, retry_at=max(work.retry_at, until))
            state = state.with_work(gap.id, target.scope, later)
    return state
