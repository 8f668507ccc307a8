"""The table of architecture.md section 5, row by row, and what must be true of all rows."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.destination import Retry
from relay.delivery.decide import (
    Decision,
    PutOnHold,
    Resend,
    RetryAt,
    SetAside,
    Settle,
    SettlePartial,
    Split,
    decide,
    retries,
)
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
from relay.model import HoldReason, Reason, Response
from tests.unit.delivery.test_backoff import Shortest

NOW = 1_750_000_000.0
OK = Response("accepted", 200)
BUSY = Response("busy", 503)
SLOW = Response("slow down", 429)
GONE = Response("connection refused")
REFUSAL = Rejection(1, Reason.REJECTED, "bad field")
HELD = PutOnHold(HoldReason.EXHAUSTED, 30.0)


def decided(
    outcome: Outcome, *, events: int = 100, attempts: int = 0, probing: bool = False, **policy: Any
) -> Decision:
    return decide(
        outcome,
        events=events,
        attempts=attempts,
        probing=probing,
        policy=Retry(**policy),
        now=NOW,
        rng=Shortest(),
    )


@pytest.mark.parametrize(
    ("outcome", "events", "expected"),
    [
        (Misconfigured(Response("no", 401)), 100, PutOnHold(HoldReason.MISCONFIGURED, 30.0)),
        (Misconfigured(Response("no", 404)), 1, PutOnHold(HoldReason.MISCONFIGURED, 30.0)),
        (Rejected(Response("bad", 400)), 100, Split()),
        (Rejected(Response("bad", 400)), 2, Split()),
        (Rejected(Response("bad", 400)), 1, SetAside(Reason.REJECTED)),
        (TooLarge(Response("big", 413)), 100, Split()),
        (TooLarge(Response("big", 413)), 1, SetAside(Reason.TOO_LARGE)),
        (Delivered(OK), 100, Settle()),
    ],
)
@pytest.mark.parametrize("probing", [False, True])
@pytest.mark.parametrize("attempts", [0, 4, 99])
def test_answers_that_do_not_depend_on_the_schedule(
    outcome: Outcome, events: int, expected: Decision, attempts: int, probing: bool
) -> None:
    """What is about the events or the credentials is decided alike on any attempt and on probes."""
    assert expected == decided(outcome, events=events, attempts=attempts, probing=probing)


@pytest.mark.parametrize("trouble", [Transient(BUSY), Transient(GONE), Throttled(SLOW)])
@pytest.mark.parametrize(("attempts", "wait"), [(0, 1), (1, 2), (2, 4), (3, 8)])
def test_four_retries_at_doubling_distance(trouble: Outcome, attempts: int, wait: float) -> None:
    """Server errors, silence and 429 are retried after 1, 2, 4 and 8 s."""
    assert RetryAt(NOW + wait) == decided(trouble, attempts=attempts)


@pytest.mark.parametrize("trouble", [Transient(BUSY), Transient(GONE), Throttled(SLOW)])
@pytest.mark.parametrize("attempts", [4, 5, 1000])
def test_after_the_last_retry_the_destination_is_held_or_the_events_set_aside(
    trouble: Outcome, attempts: int
) -> None:
    """`on_exhausted` chooses between buffering and dead letters."""
    assert decided(trouble, attempts=attempts) == HELD
    assert SetAside(Reason.EXHAUSTED) == decided(trouble, attempts=attempts, on_exhausted="dead_letter")


@pytest.mark.parametrize(
    ("hint", "wait"), [(None, 1.0), (0.2, 1.0), (20.0, 20.0), (300.0, 300.0), (86_400.0, 300.0)]
)
def test_retry_after_is_obeyed_up_to_its_limit(hint: float | None, wait: float) -> None:
    """The longer of the schedule and the hint counts, the hint never beyond `max_retry_after`."""
    assert RetryAt(NOW + wait) == decided(Throttled(SLOW, hint))
    assert RetryAt(NOW + wait) == decided(Transient(BUSY, hint))


def test_a_hint_with_the_last_retry_delays_the_probe() -> None:
    """A destination that asks for two minutes is not probed after thirty seconds."""
    assert PutOnHold(HoldReason.EXHAUSTED, 120.0) == decided(Throttled(SLOW, 120.0), attempts=4)


@pytest.mark.parametrize("trouble", [Transient(BUSY), Transient(GONE), Throttled(SLOW)])
@pytest.mark.parametrize("on_exhausted", ["hold", "dead_letter"])
@pytest.mark.parametrize("attempts", [0, 4])
def test_a_failed_probe_costs_nothing(trouble: Outcome, on_exhausted: str, attempts: int) -> None:
    """While the circuit is open trouble keeps it open: no attempt is spent, no event set aside."""
    assert decided(trouble, attempts=attempts, probing=True, on_exhausted=on_exhausted) == HELD


@pytest.mark.parametrize(
    ("status", "on", "expected"),
    [
        (None, ("connection_error",), True),
        (None, ("429", "5xx"), False),
        (429, ("429",), True),
        (408, ("connection_error", "429", "5xx"), False),
        (500, ("500",), True),
        (503, ("500",), False),
        (503, ("5xx",), True),
        (501, ("5xx",), False),
        (501, ("501",), False),
        (429, ("4xx",), True),
        (200, (), True),
        (500, (), False),
    ],
)
def test_which_statuses_are_retried(status: int | None, on: tuple[str, ...], expected: bool) -> None:
    """`retry.on` names statuses one by one, by class, and the lack of an answer."""
    assert expected is retries(status, on)


def test_what_is_not_listed_counts_as_exhausted_at_once() -> None:
    """With `on` narrowed to Konnect's letter a 503 is not tried again."""
    narrow = ("connection_error", "429", "500")

    assert decided(Transient(BUSY), on=narrow) == HELD
    assert SetAside(Reason.EXHAUSTED) == decided(Transient(BUSY), on=narrow, on_exhausted="dead_letter")


def test_partial_settles_what_is_known_and_resends_what_was_not_looked_at() -> None:
    """A rejected event in the middle costs the ones behind it nothing but another request."""
    outcome = Partial(OK, (0,), (REFUSAL,))

    assert SettlePartial((0,), (REFUSAL,), Resend()) == decided(outcome)


@pytest.mark.parametrize("probing", [False, True])
@pytest.mark.parametrize("attempts", [0, 4])
def test_partial_with_a_throttled_rest_starts_a_schedule_of_its_own(attempts: int, probing: bool) -> None:
    """Progress was made, so the rest has its first attempt behind it, whatever came before."""
    outcome = Partial(OK, (0, 1), (), Throttled(SLOW, 5.0))

    assert SettlePartial((0, 1), (), RetryAt(NOW + 5)) == decided(outcome, attempts=attempts, probing=probing)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [(None, RetryAt(NOW + 4)), (Throttled(SLOW, 9.0), RetryAt(NOW + 9)), (Transient(BUSY), RetryAt(NOW + 4))],
)
def test_partial_without_progress_is_mere_trouble(
    rest: Throttled | Transient | None, expected: Decision
) -> None:
    """An answer that settles nothing must not be followed by the same request for ever."""
    assert expected == decided(Partial(Response("nothing done", 200), (), (), rest), attempts=2)


def test_partial_without_progress_keeps_the_circuit_open() -> None:
    """A probe that moved no event has not shown that the destination is back."""
    assert decided(Partial(OK, (), (), Throttled(SLOW)), probing=True) == HELD


def test_an_outcome_nobody_thought_of_fails_loudly() -> None:
    """Rather an error than a guess about somebody's audit log."""
    with pytest.raises(AssertionError):
        decided(object())  # type: ignore[arg-type]  # on purpose


responses = st.builds(Response, st.just("…"), st.none() | st.integers(100, 599))
hints = st.none() | st.floats()
troubles = st.builds(Throttled, responses, hints) | st.builds(Transient, responses, hints)
partials = st.builds(
    Partial,
    responses,
    st.just(()) | st.just((0,)),
    st.just(()) | st.just((REFUSAL,)),
    st.none() | troubles,
)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Delivered, responses),
    partials,
    troubles,
    st.builds(TooLarge, responses),
    st.builds(Rejected, responses),
    st.builds(Misconfigured, responses),
)


@given(
    outcome=outcomes,
    events=st.integers(1, 1000),
    attempts=st.integers(0, 10),
    probing=st.booleans(),
    max_retries=st.integers(0, 8),
    on_exhausted=st.sampled_from(["hold", "dead_letter"]),
    seed=st.integers(),
)
def test_whatever_the_outcome(
    outcome: Outcome,
    events: int,
    attempts: int,
    probing: bool,
    max_retries: int,
    on_exhausted: Any,
    seed: int,
) -> None:
    """Retries end, waits are bounded, single events are never split and trouble never loses an event."""
    policy = Retry(max_retries=max_retries, on_exhausted=on_exhausted)
    decision = decide(
        outcome,
        events=events,
        attempts=attempts,
        probing=probing,
        policy=policy,
        now=NOW,
        rng=Random(seed),
    )

    rest = decision.rest if isinstance(decision, SettlePartial) else decision
    if isinstance(rest, RetryAt):
        assert policy.min_wait <= rest.at - NOW <= max(policy.max_wait, policy.max_retry_after)
        assert attempts < max_retries or isinstance(decision, SettlePartial)
        assert not probing or isinstance(decision, SettlePartial)
    if isinstance(decision, Split):
        assert events > 1
    if isinstance(rest, SetAside) and rest.reason is Reason.EXHAUSTED:
        assert on_exhausted == "dead_letter"
    if isinstance(rest, PutOnHold):
        assert rest.probe_in >= policy.probe_interval
    if isinstance(decision, SettlePartial):
        assert decision.delivered or decision.rejected
