"""The one place where it is decided what an outcome means for the events that were sent.

Pure: no clock, no queue, no I/O. The rules are the table in architecture.md section 5; destinations
only classify, `relay.delivery.flight` carries out.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import assert_never

from relay.config.destination import Retry
from relay.delivery.backoff import honoured, wait_before
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    Rejected,
    Rejection,
    Throttled,
    TooLarge,
    Transient,
)
from relay.model import HoldReason, Reason


@dataclass(frozen=True, slots=True)
class Settle:
    """Every event arrived."""


@dataclass(frozen=True, slots=True)
class Split:
    """Send each half on its own: one of the events, or their number, is the trouble."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Make every event a dead letter."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Resend:
    """Send the events again at once: nothing was wrong with them."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Send the events again, not before *at* (seconds since the epoch)."""

    at: float


@dataclass(frozen=True, slots=True)
class PutOnHold:
    """Spend no more events: open the circuit, or leave it open after a probe that failed."""

    reason: HoldReason
    probe_in: float  # seconds until the next probe


@dataclass(frozen=True, slots=True)
class SettlePartial:
    """Some events arrived, some never will; *rest* says what becomes of the others, if there are any."""

    delivered: tuple[int, ...]  # indices in the chunk, ascending
    rejected: tuple[Rejection, ...]
    rest: Resend | RetryAt | PutOnHold | SetAside


Decision = Settle | SettlePartial | Split | SetAside | RetryAt | PutOnHold


def decide(
    outcome: Outcome,
    *,
    events: int,
    attempts: int,
    probing: bool,
    policy: Retry,
    now: float,
    rng: Random,
) -> Decision:
    """What to do about *outcome*.

    *events* is the size of the chunk, *attempts* how many attempts these events had cost before this
    one, *probing* whether it was the probe of an open circuit, *now* seconds since the epoch.
    """
    match outcome:
        case Delivered():
            return Settle()
        case Partial():
            return _partial(outcome, attempts, probing, policy, now, rng)
        case Throttled() | Transient():
            return _later(outcome, attempts, probing, policy, now, rng)
        case TooLarge():
            return Split() if events > 1 else SetAside(Reason.TOO_LARGE)
        case Rejected():
            return Split() if events > 1 else SetAside(Reason.REJECTED)
        case Misconfigured():
            return PutOnHold(HoldReason.MISCONFIGURED, policy.probe_interval)
        case _:
            assert_never(outcome)


def _partial(
    outcome: Partial, attempts: int, probing: bool, policy: Retry, now: float, rng: Random
) -> Decision:
    progress = outcome.delivered or outcome.rejected
    if not progress:
        # Nothing arrived and nothing was refused, so sending at once could go on like that for ever.
        trouble = outcome.rest or Transient(outcome.response)
        return _later(trouble, attempts, probing, policy, now, rng)
    rest: Resend | RetryAt | PutOnHold | SetAside = Resend()
    if outcome.rest is not None:
        # The destination took part of the chunk, so what is left starts a schedule of its own.
        rest = _later(outcome.rest, 0, False, policy, now, rng)
    return SettlePartial(outcome.delivered, outcome.rejected, rest)


def _later(
    trouble: Throttled | Transient,
    attempts: int,
    probing: bool,
    policy: Retry,
    now: float,
    rng: Random,
) -> RetryAt | PutOnHold | SetAside:
    """Retry while the policy allows it; what is then left waits on hold or is set aside."""
    hint = trouble.retry_after
    if not probing and attempts < policy.max_retries and retries(trouble.response.status, policy.on):
        wait = wait_before(
            attempts + 1,
            min_wait=policy.min_wait,
            max_wait=policy.max_wait,
            rng=rng,
            hint=hint,
            max_hint=policy.max_retry_after,
        )
        return RetryAt(now + wait)
    # A probe costs no events, so it never sets any aside: the circuit just stays open.
    if probing or policy.on_exhausted == "hold":
        probe_in = max(policy.probe_interval, honoured(hint, policy.max_retry_after))
        return PutOnHold(HoldReason.EXHAUSTED, probe_in)
    return SetAside(Reason.EXHAUSTED)


def retries(status: int | None, on: tuple[str, ...]) -> bool:
    """Whether `retry.on` lists *status*; None stands for no answer at all, `connection_error`.

    501 is not what `5xx` means: a server that does not implement the method will not learn it. A success
    status means that the trouble stands in the body, where `on` cannot name it: that is retried.
    """
    if status is None:
        return "connection_error" in on
    if 200 <= status < 300:
        return True
    return status != 501 and (str(status) in on or f"{status // 100}xx" in on)
