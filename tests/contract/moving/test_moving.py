"""What is there after a move is what was there before it, and a relay goes on from there."""

from __future__ import annotations

import pytest

from relay.errors import NotFound
from relay.model import Position, ReaderKind, Receipt
from relay.queue.belongings import Part
from relay.queue.moving import Step
from tests.contract.moving.conftest import Houses, Mover
from tests.contract.moving.furniture import MANY, PURGED, Picture, attached, picture, timed
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, cef, lines, restamped


async def test_everything_arrives(houses: Houses, before: Picture, moving: Mover, clock: FakeClock) -> None:
    """Events, ids, watermarks, retry states, holds, books, dead letters, gaps and totals are the same."""
    moved = await moving()

    async with houses.new.queue(clock) as queue:
        assert await picture(queue) == before
    assert (moved.resumed, moved.nothing_to_do, moved.missing) == (False, False, 0)
    assert moved.items == {
        Part.BATCHES: before.batches,
        Part.REMEMBERED: 2,
        Part.DEAD_LETTERS: 3,
        Part.QUARANTINED: 1,
    }


async def test_the_furniture_is_one_of_everything(before: Picture) -> None:
    """The other tests would prove little about a queue that holds less."""
    kinds = {name: [each[0] for each in readers] for name, readers in before.readers.items()}

    assert kinds == {
        "siem": [ReaderKind.LIVE, ReaderKind.REPLAY, ReaderKind.REDRIVE],
        "late": [ReaderKind.LIVE, ReaderKind.BACKFILL],
    }
    assert [letter.redriving for letter in before.dead_letters].count(True) == 2
    assert before.figures["books"]["siem"].discarded == 1
    assert before.figures["duplicates"] == {"eu": 4}
    assert before.readers["siem"][0][5].attempts == 3
    assert any("-" in event.id for *_, event in before.events)
    assert before.batches > MANY


async def test_the_old_queue_is_as_it_was(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock
) -> None:
    """A move that turns out to be a mistake costs nothing."""
    await moving()

    async with houses.old.queue(clock) as queue:
        assert await picture(queue) == before


async def test_it_can_be_moved_back(houses: Houses, before: Picture, moving: Mover, clock: FakeClock) -> None:
    """Nothing is lost on the way back, either."""
    await moving()

    await moving(old=houses.new, new=houses.third)

    async with houses.third.queue(clock) as queue:
        assert await picture(queue) == before


@pytest.mark.parametrize("first", [0, 1000], ids=["purged", "retained"])
async def test_events_accepted_before_are_recognised(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock, first: int
) -> None:
    """A Konnect replay after the move brings back nothing, whether the log still has it or not."""
    at = NOW if first == 0 else clock.now()
    again = [restamped(_as_sent(n, at)) for n in range(first, first + PURGED)]
    await moving()

    async with houses.new.queue(clock) as queue:
        receipt = await queue.append([batch([*again, cef(5000, at=at)], at=clock.now() + 5)])

        assert Receipt(1, PURGED) == receipt
        assert queue.stats().head == Position(before.figures["head"].sequence + 1)


def _as_sent(number: int, at: float) -> bytes:
    """Event *number* as the furniture has it."""
    return cef(number, at=at + number / 1000) if number < PURGED else timed(number, at)


async def test_delivery_goes_on_where_it_was(
    houses: Houses, before: Picture, moving: Mover, clock: FakeClock
) -> None:
    """What was settled is not read again, and new events follow what is left."""
    await moving()

    async with houses.new.queue(clock) as queue:
        live = (await attached(queue, "siem"))[0]
        await queue.append([batch(lines(3, first=9000, at=clock.now() + 9000), at=clock.now() + 10)])
        ((first, offset), *_) = await live.read(1)

        assert Position(first.sequence, offset) == before.readers["siem"][0][1]
        books = queue.books("siem")
        assert books.owed == books.delivered + books.filtered + books.dead + books.backlog
        assert books.backlog == before.figures["books"]["siem"].backlog + 3
    async with houses.new.queue(clock) as queue:
        assert queue.books("siem") == books


async def test_a_second_move_has_nothing_to_do(houses: Houses, before: Picture, moving: Mover) -> None:
    """Whoever is not sure whether a move went through simply asks again."""
    await moving()

    assert (await moving()).nothing_to_do


async def test_progress_is_told_for_every_part(before: Picture, moving: Mover) -> None:
    """Each part is seen to reach its end, first copied and then checked."""
    told: dict[tuple[Step, Part], list[tuple[int, int]]] = {}

    await moving(lambda step, part, done, total: told.setdefault((step, part), []).append((done, total)))

    assert list(told) == [(step, part) for step in Step for part in Part]
    assert all(ends[-1][0] == ends[-1][1] for ends in told.values())
    batches = before.batches
    assert told[Step.COPY, Part.BATCHES] == [(500, batches), (1000, batches), (batches, batches)]


async def test_an_empty_queue_moves_as_well(houses: Houses, moving: Mover, clock: FakeClock) -> None:
    """A relay that has seen nothing yet keeps its destinations."""
    async with houses.old.queue(clock) as queue:
        await attached(queue, "siem")

    moved = await moving()

    assert (moved.events, moved.missing, set(moved.items.values())) == (0, 0, {0})
    async with houses.new.queue(clock) as queue:
        assert queue.destinations() == ["siem"]
        await queue.append([batch(lines(1), at=clock.now())])
        assert queue.books("siem").owed == 1


async def test_where_no_queue_is_nothing_is_moved(houses: Houses, moving: Mover) -> None:
    """A mistyped place is told as such."""
    with pytest.raises(NotFound):
        await moving()
