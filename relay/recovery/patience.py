"""How long Konnect's API is left alone after a call failed: pure, without a clock.

Owns what a failure holds up. One path that answers 5xx holds up the calls of its kind for its webhook, and
nothing else. A wish to be left alone, a token that is refused, and an API that nobody reaches hold up all.
A person who waits for an answer has less of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from relay.recovery.answers import Scope
from relay.recovery.errors import (
    KonnectError,
    KonnectThrottled,
    KonnectUnauthorised,
    KonnectUnreachable,
)

LONGEST_ASKED: Final = 3600.0
"""Seconds of a `Retry-After` that are obeyed. More than that is taken for a mistake."""

_FIRST: Final = 5.0  # seconds after the first failed call, doubled after each further one
_LONGEST: Final = 300.0
_TRIES: Final = 6  # calls in a row that may fail while somebody waits
_LONGEST_PAUSE: Final = 60.0  # seconds between two of them, unless Konnect asks for more


class Kind(StrEnum):
    """What is asked for, each with the calls it takes."""

    STATUS = "status"
    MEND = "mend"
    REPLAY = "replay"
    JOB = "job"  # how a replay job is
    BINDING = "binding"  # where a webhook led while a job ran
    PULL = "pull"


@dataclass(frozen=True, slots=True)
class Call:
    """What is left alone, for which webhook."""

    kind: Kind
    scope: Scope


@dataclass(frozen=True, slots=True)
class Rest:
    """How long, and why."""

    failures: int = 0  # in a row
    until: float = 0.0  # seconds since the epoch
    trouble: str = ""  # for people

    def longer(self, wait: float, now: float, trouble: str) -> Rest:
        return Rest(self.failures + 1, now + wait, trouble)


@dataclass(frozen=True, slots=True)
class Patience:
    """What is left alone at present."""

    everything: Rest = Rest()
    rests: Mapping[Call, Rest] = field(default_factory=dict)

    def of(self, call: Call) -> Rest:
        return self.rests.get(call, Rest())

    def answered(self, call: Call) -> Patience:
        """After a call that did what it should."""
        return replace(self.forgiven(call), everything=Rest())

    def forgiven(self, call: Call) -> Patience:
        """Without what was held against a call."""
        return replace(self, rests={each: rest for each, rest in self.rests.items() if each != call})

    def failed(self, call: Call, error: KonnectError, now: float, stretch: float) -> Patience:
        """After one that did not. *stretch* is a little above 1: replicas and relays are not to meet."""
        trouble = told(error)
        before = self.of(call)
        wait = max(_wait(before.failures), _asked(error)) * stretch
        rests = {**self.rests, call: before.longer(wait, now, trouble)}
        everything = self.everything
        match error:
            case KonnectUnauthorised():  # nothing changes until somebody gives us another token
                everything = everything.longer(_LONGEST * stretch, now, trouble)
            case KonnectThrottled():
                wait = max(_wait(everything.failures), _asked(error)) * stretch
                everything = everything.longer(wait, now, trouble)
            case KonnectUnreachable():
                # A call that hangs is its own trouble. That none got through since makes it everybody's.
                wait = _wait(everything.failures - 1) * stretch if everything.failures else 0.0
                everything = everything.longer(wait, now, trouble)
            case _:
                everything = Rest()
        return replace(self, everything=everything, rests=rests)


class Tries:
    """The calls of somebody who waits for their answer, and gives up after a while."""

    def __init__(self) -> None:
        self._failed = 0  # in a row

    def answered(self) -> None:
        """One did what it should."""
        self._failed = 0

    def pause(self, error: KonnectError) -> float:
        """Seconds until the next one, after one that failed. Raises *error* after so many in a row."""
        self._failed += 1
        if self._failed >= _TRIES:
            raise error
        return max(_asked(error), min(_LONGEST_PAUSE, 2.0**self._failed))


def told(error: KonnectError) -> str:
    """The error for people, with what Konnect asked for."""
    seconds = error.retry_after
    if not seconds:
        return str(error)
    bound = f", which is done for {LONGEST_ASKED:.0f} s" if seconds > LONGEST_ASKED else ""
    return f"{error} It asks to be left alone for {seconds:.0f} s{bound}."


def _asked(error: KonnectError) -> float:
    """Seconds for which Konnect wants to be left alone, as far as that is obeyed."""
    return min(error.retry_after or 0.0, LONGEST_ASKED)


def _wait(failures: int) -> float:
    return min(_FIRST * 2.0 ** min(failures, 20), _LONGEST)
