"""What a failed call holds up, and for how long."""

from __future__ import annotations

import pytest

from relay.recovery.answers import ORGANISATION, Scope
from relay.recovery.errors import (
    KonnectError,
    KonnectRefused,
    KonnectThrottled,
    KonnectUnauthorised,
    KonnectUnavailable,
    KonnectUnreachable,
)
from relay.recovery.patience import Call, Kind, Patience, Tries, told

NOW = 1_795_000_000.0
STATUS = Call(Kind.STATUS, ORGANISATION)
REPLAY = Call(Kind.REPLAY, ORGANISATION)
AWAY = KonnectUnreachable("No route.")
BUSY = KonnectUnavailable("503.", status=503)


def after(*failed: tuple[Call, KonnectError]) -> Patience:
    patience = Patience()
    for call, error in failed:
        patience = patience.failed(call, error, NOW, 1.0)
    return patience


def waits(patience: Patience, call: Call = REPLAY) -> tuple[float, float]:
    """Of the call and of everything, in seconds."""
    own, every = patience.of(call).until, patience.everything.until
    return max(0.0, own - NOW), max(0.0, every - NOW)


@pytest.mark.parametrize(
    ("errors", "own", "every"),
    [
        ([BUSY], 5, 0),
        ([BUSY] * 3, 20, 0),
        ([BUSY] * 30, 300, 0),
        ([KonnectRefused("400.", status=400)], 5, 0),
        ([KonnectUnavailable("503.", status=503, retry_after=1000.0)], 1000, 0),
        ([KonnectUnavailable("503.", status=503, retry_after=1.0)], 5, 0),
        ([KonnectThrottled("429.", status=429)], 5, 5),
        ([KonnectThrottled("429.", status=429, retry_after=1200.0)], 1200, 1200),
        ([KonnectThrottled("429.", status=429, retry_after=90_000.0)], 3600, 3600),
        ([KonnectUnauthorised("401.", status=401)], 5, 300),
        ([AWAY], 5, 0),
        ([AWAY] * 2, 10, 5),
        ([AWAY] * 30, 300, 300),
    ],
)
def test_how_long_a_call_and_all_others_wait(errors: list[KonnectError], own: float, every: float) -> None:
    """Longer with each failure; all others only where it is theirs as well."""
    assert waits(after(*[(REPLAY, error) for error in errors])) == (own, every)


def test_what_fails_is_one_kind_of_call_for_one_webhook() -> None:
    """Another kind, and another webhook, are as they were."""
    patience = after((REPLAY, BUSY))

    assert patience.of(STATUS).failures == 0
    assert patience.of(Call(Kind.REPLAY, Scope("p1"))).failures == 0


def test_an_answer_to_another_call_forgives_only_what_was_held_against_all() -> None:
    """A status that can be had does not mean that a replay can be begun."""
    patience = after((REPLAY, AWAY), (STATUS, AWAY), (REPLAY, BUSY), (REPLAY, AWAY)).answered(STATUS)

    assert (patience.of(REPLAY).failures, patience.of(STATUS).failures) == (3, 0)
    assert patience.everything.failures == 0
    assert patience.answered(REPLAY) == Patience()


def test_what_konnect_asked_for_is_told() -> None:
    """And how much of it is obeyed."""
    assert told(BUSY) == "503."
    asked = KonnectThrottled("429.", status=429, retry_after=40.0)
    assert told(asked) == "429. It asks to be left alone for 40 s."
    much = KonnectThrottled("429.", status=429, retry_after=7200.0)
    assert told(much) == "429. It asks to be left alone for 7200 s, which is done for 3600 s."


def test_who_waits_for_an_answer_gives_up_after_six_calls_in_a_row() -> None:
    """The pauses double, or are as long as Konnect asks for; an answer begins them anew."""
    tries = Tries()
    asked = KonnectThrottled("429.", status=429, retry_after=90.0)

    assert [tries.pause(error) for error in (AWAY, BUSY, asked, BUSY, BUSY)] == [2, 4, 90, 16, 32]
    tries.answered()
    assert [tries.pause(BUSY) for _ in range(5)] == [2, 4, 8, 16, 32]
    with pytest.raises(KonnectUnavailable, match="503"):
        tries.pause(BUSY)
