"""What recovery can do next: the words between `plan`, which decides, and `supervisor`, which acts."""

from __future__ import annotations

from dataclasses import dataclass

from relay.model import Gap
from relay.recovery.patience import Call, Kind
from relay.recovery.state import Job, Target, Window


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
    ours: bool = False  # Konnect did its part, we did not, and may the next time
    lasting: bool = False  # the next time would be no better


@dataclass(frozen=True, slots=True)
class Pull:
    """Read the organisation's log and append what is missing."""

    gap: Gap
    target: Target
    window: Window
    done: Window | None = None  # what was read of it before


@dataclass(frozen=True, slots=True)
class Close:
    """A gap is dealt with; what lies before *lost_until* is gone for good."""

    gap: Gap
    lost_until: float | None


Action = Wait | Poll | Mend | Replay | Look | Judge | Pull | Close


def call_of(action: Action) -> Call | None:
    """What is left alone for a while if the action fails."""
    match action:
        case Poll(target):
            return Call(Kind.STATUS, target.scope)
        case Mend(target):
            return Call(Kind.MEND, target.scope)
        case Replay():
            return Call(Kind.REPLAY, action.target.scope)
        case Look(job):
            return Call(Kind.JOB, job.target.scope)
        case Judge(job, trouble) if not trouble:
            return Call(Kind.BINDING, job.target.scope)
        case Pull():
            return Call(Kind.PULL, action.target.scope)
    return None
