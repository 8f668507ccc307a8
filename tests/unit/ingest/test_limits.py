"""The bytes that requests in progress hold together."""

from __future__ import annotations

import pytest

from relay.ingest.limits import InFlight, Overloaded


def test_a_second_request_is_refused_beyond_the_limit() -> None:
    """What does not fit is refused, and takes nothing."""
    in_flight = InFlight(100)
    with in_flight.share() as first, in_flight.share() as second:
        first.take(60)
        with pytest.raises(Overloaded):
            second.take(41)

        assert in_flight.used == 60


def test_a_request_alone_is_never_refused() -> None:
    """A request that could not even be taken alone would be refused for ever."""
    in_flight = InFlight(100)
    with in_flight.share() as share:
        share.take(80)
        share.take(80)

        assert in_flight.used == 160


def test_a_share_is_given_back_whatever_happens() -> None:
    """A refused request holds nothing afterwards."""
    in_flight = InFlight(100)
    with in_flight.share() as other:
        other.take(60)
        with pytest.raises(Overloaded), in_flight.share() as refused:
            refused.take(41)

    assert in_flight.used == 0
