"""How long a retry waits."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.backoff import honoured, wait_before


class Shortest(Random):
    """Draws the lower end of every range: the plain schedule without jitter."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Longest(Random):
    """Draws the upper end of every range."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("retry", "shortest", "longest"),
    [
        (1, 1.0, 1.25),
        (2, 2.0, 2.5),
        (3, 4.0, 5.0),
        (4, 8.0, 10.0),
        (5, 16.0, 20.0),
        (6, 30.0, 30.0),
        (7, 30, 30),
    ],
)
def test_waits_double_from_the_minimum_to_the_maximum(retry: int, shortest: float, longest: float) -> None:
    """The documented schedule is 1, 2, 4, 8 … 30 s, and jitter adds a quarter at most."""
    assert shortest == wait_before(retry, min_wait=1, max_wait=30, rng=Shortest())
    assert longest == wait_before(retry, min_wait=1, max_wait=30, rng=Longest())


@pytest.mark.parametrize("retry", [1, 2, 60, 61, 1024, 2000, 10**9])
def test_no_retry_number_overflows(retry: int) -> None:
    """A schedule without an end stays at its maximum instead of failing on 2 ** 1024."""
    assert 1.0 <= wait_before(retry, min_wait=1, max_wait=30, rng=Longest()) <= 30.0


@given(
    retry=st.integers(1, 10_000),
    min_wait=st.floats(0.001, 100),
    factor=st.floats(1, 1000),
    seed=st.integers(),
)
def test_a_wait_is_never_outside_its_bounds(retry: int, min_wait: float, factor: float, seed: int) -> None:
    """Whatever the numbers, a wait without a hint lies in [min_wait, max_wait]."""
    wait = wait_before(retry, min_wait=min_wait, max_wait=min_wait * factor, rng=Random(seed))

    assert min_wait <= wait <= min_wait * factor


@given(hint=st.floats(), limit=st.floats(0, 1000), seed=st.integers())
def test_a_hint_lengthens_up_to_its_limit_and_never_shortens(hint: float, limit: float, seed: int) -> None:
    """A `Retry-After` of any value, infinite and NaN included, never breaks the bounds."""
    plain = wait_before(3, min_wait=1, max_wait=30, rng=Random(seed))
    hinted = wait_before(3, min_wait=1, max_wait=30, rng=Random(seed), hint=hint, max_hint=limit)

    assert plain <= hinted <= max(plain, limit)


@pytest.mark.parametrize(
    ("hint", "expected"), [(None, 0), (-5, 0), (0, 0), (7, 7), (301, 300), (math.inf, 300), (math.nan, 0)]
)
def test_how_much_of_a_hint_is_obeyed(hint: float | None, expected: float) -> None:
    """Nonsense counts as no hint; more than `max_retry_after` is cut down to it."""
    assert expected == honoured(hint, 300)
