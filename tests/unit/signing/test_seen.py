"""Spans of what was counted."""

from __future__ import annotations

from random import Random

from relay.signing.seen import Seen


def test_a_log_read_in_any_order_is_one_span() -> None:
    """Each batch is new once."""
    batches = [(n, 7) for n in range(1, 7000, 7)]
    Random(1).shuffle(batches)
    seen = Seen()
    assert all(seen.add(*batch) for batch in batches)
    assert len(seen) == 1
    assert not any(seen.add(*batch) for batch in batches)
    assert 7 in seen
    assert 0 not in seen
    assert 7001 not in seen


def test_spans_are_bounded() -> None:
    """With holes everywhere the oldest are forgotten."""
    seen = Seen()
    for n in range(0, 20_000, 2):
        seen.add(n, 1)
    assert len(seen) == 4096
    assert 0 not in seen
    assert 19_998 in seen
