"""What is kept of batches that were opened for comparison."""

from __future__ import annotations

import pytest

from relay.queue.dedup import opened
from relay.queue.dedup.names import names_of
from relay.queue.dedup.opened import LastOpened, Opened
from tests.fakes.events import NOW, lines


def a_batch(events: int) -> Opened:
    return Opened.of(NOW, names_of(lines(events)))


def kept_of(last: LastOpened, sequences: range) -> list[int]:
    return [sequence for sequence in sequences if last.get(sequence) is not None]


@pytest.mark.parametrize(("events", "kept"), [(1, 100), (10, 10), (60, 1), (101, 0)])
def test_memory_is_bounded_by_events(monkeypatch: pytest.MonkeyPatch, events: int, kept: int) -> None:
    """However large batches are: many small ones or few large ones."""
    monkeypatch.setattr(opened, "_EVENTS", 100)
    last = LastOpened()
    for sequence in range(200):
        last.put(sequence, a_batch(events))

    assert kept_of(last, range(200)) == list(range(200 - kept, 200))


def test_what_was_used_last_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay opens the same batches again and again."""
    monkeypatch.setattr(opened, "_EVENTS", 100)
    last = LastOpened()
    for sequence in range(20):
        last.put(sequence, a_batch(10))
        last.get(0)

    assert kept_of(last, range(20)) == [0, *range(11, 20)]


def test_a_batch_that_is_opened_twice_at_a_time_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two searches may fetch it side by side."""
    monkeypatch.setattr(opened, "_EVENTS", 100)
    last = LastOpened()
    for _ in range(50):
        last.put(1, a_batch(10))
    last.put(2, a_batch(90))

    assert kept_of(last, range(3)) == [1, 2]


def test_what_is_remembered_names_who_said_it() -> None:
    """Ids come first, then what the events say; ids alone, as older relays kept them, say nothing."""
    names = names_of(lines(3))
    both = Opened.remembered(NOW, [*names.ids, *names.contents])
    alone = Opened.remembered(NOW, list(names.ids))

    assert all(name in each.ids for name in names.ids for each in (both, alone))
    assert [both.contents[content] for content in names.contents] == list(names.ids)
    assert alone.contents.keys().isdisjoint(names.contents)
