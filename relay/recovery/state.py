"""What recovery knows: values only, which `plan` decides by and `outcome` changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from relay.model import Gap
from relay.observe.ledger import KONNECT_RETENTION, RETENTION_SLACK
from relay.recovery.answers import ORGANISATION, ReplayState, Scope
from relay.recovery.hook import Hook
from relay.recovery.patience import Patience


@dataclass(frozen=True, slots=True)
class Rules:
    """How patient recovery is. In seconds, but for two."""

    margin: float = 120.0  # before and after a gap: header and event time differ, batches were in flight
    poll: float = 60.0  # between two looks at a webhook's status
    job_poll: float = 5.0  # between two looks at our replay job
    settle: float = 20.0  # until what is in flight has come or was given up: Konnect tries for 15
    job_most: float = 21_600.0  # how long a job, ours or somebody else's, is waited for
    busy: float = 30.0  # until another try while somebody else's job runs
    attempts: int = 3  # at a replay before the log is pulled instead
    calls: int = 6  # failed calls of one kind in a row before another way is taken; two and a half minutes
    retry: float = 30.0  # after the first failed replay, doubled after each further one
    retry_most: float = 900.0
    hopeless: float = 3600.0  # until another try at what Konnect or this relay does not allow
    growing: float = 3600.0  # how long a gap that grows is left to grow before a part of it is fetched
    mend: float = 600.0  # between two times a webhook is switched on


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook that brings a source's events."""

    source: str
    scope: Scope = ORGANISATION

    @property
    def can_pull(self) -> bool:
        """Whether there is a log to be read in place of a replay: Dev Portals have none."""
        return self.scope == ORGANISATION


@dataclass(frozen=True, slots=True)
class Window:
    """From *start* to *end*, both inclusive, seconds since the epoch."""

    start: float
    end: float


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
    pulled: Window | None = None  # what a pull that is not over has read so far
    busy_since: float | None = None  # somebody else's job runs
    trouble: str = ""  # the last reason, for people

    @property
    def pulls(self) -> bool:
        """Whether the log is read for it, be it that this has begun."""
        return self.pull or self.pulled is not None


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
    patience: Patience = field(default_factory=Patience)

    def of(self, gap: int, scope: Scope) -> Work:
        return self.work.get((gap, scope), Work())

    def with_work(self, gap: int, scope: Scope, work: Work) -> State:
        return replace(self, work={**self.work, (gap, scope): work})

    def with_hook(self, scope: Scope, hook: Hook) -> State:
        return replace(self, hooks={**self.hooks, scope: hook})

    def trimmed(self, gaps: tuple[Gap, ...]) -> State:
        """With these gaps, and without work on those that are closed, by whomever."""
        ids = {gap.id for gap in gaps}
        return replace(self, gaps=gaps, work={key: work for key, work in self.work.items() if key[0] in ids})


def window_of(gap: Gap, now: float, rules: Rules) -> Window:
    """What is to be fetched for a gap: with a margin, of what Konnect still has."""
    return Window(
        max(gap.start - rules.margin, now - KONNECT_RETENTION + RETENTION_SLACK),
        min(gap.end + rules.margin, now),
    )


def covered_of(work: Work, gap: Gap, now: float, rules: Rules) -> Window | None:
    """What of a gap was fetched, from its beginning on.

    Nothing where the gap begins earlier by now, or where what comes next is gone: what Konnect still has then
    begins behind a hole.
    """
    covered, start = work.covered, window_of(gap, now, rules).start
    return covered if covered is not None and covered.start <= start <= covered.end else None
