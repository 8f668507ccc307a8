"""The circuit: closed, open, and closed again slowly."""

from __future__ import annotations

import pytest

from relay.delivery.circuit import Circuit
from relay.model import Hold, HoldReason

HELD = Hold(HoldReason.EXHAUSTED, 1.0, "503")


def test_starts_closed_at_full_size() -> None:
    """A destination that was never in trouble gets whole chunks from the start."""
    circuit = Circuit(probe_max_events=10, max_events=1000)

    assert (circuit.is_open, circuit.is_steady, circuit.limit) == (False, True, 1000)
    assert circuit.hold is None


def test_starts_open_with_the_hold_of_an_earlier_run() -> None:
    """A restart does not forget that a destination was held."""
    circuit = Circuit(probe_max_events=10, max_events=1000, hold=HELD)

    assert (circuit.is_open, circuit.is_steady, circuit.limit) == (True, False, 10)
    assert circuit.hold == HELD


def test_doubles_from_probe_size_to_full_size() -> None:
    """After an outage chunks grow 10, 20, 40 … and several requests wait until they are full-sized."""
    circuit = Circuit(probe_max_events=10, max_events=100, hold=HELD)
    circuit.close()
    seen = []
    while not circuit.is_steady:
        seen.append(circuit.limit)
        circuit.succeeded()

    assert seen == [10, 20, 40, 80]
    assert circuit.limit == 100


def test_a_new_hold_starts_small_again() -> None:
    """A destination that falls over during the slow start gets probes again."""
    circuit = Circuit(probe_max_events=10, max_events=1000, hold=HELD)
    circuit.close()
    circuit.succeeded()
    circuit.open(HELD)

    assert (circuit.is_open, circuit.limit) == (True, 10)


def test_a_probe_is_never_larger_than_a_chunk() -> None:
    """With chunks of one event probes have one event, and there is nothing to ramp up."""
    circuit = Circuit(probe_max_events=10, max_events=1, hold=HELD)
    circuit.close()

    assert (circuit.is_steady, circuit.limit) == (True, 1)


@pytest.mark.parametrize("reason", HoldReason)
def test_only_an_operators_hold_pauses(reason: HoldReason) -> None:
    """All other holds end by themselves when a probe succeeds."""
    circuit = Circuit(probe_max_events=10, max_events=100)
    circuit.open(Hold(reason, 1.0, ""))

    assert (reason is HoldReason.OPERATOR) is circuit.is_paused
    assert reason.value in repr(circuit)


def test_a_closed_circuit_is_not_paused() -> None:
    """No hold, no pause."""
    circuit = Circuit(probe_max_events=10, max_events=100)

    assert not circuit.is_paused
    assert repr(circuit) == "<Circuit closed 100/100>"
