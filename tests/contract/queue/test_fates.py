"""Looking at what was accepted, and at what became of it, beside the readers."""

from __future__ import annotations

from contextlib import aclosing

from relay.batch import StoredBatch
from relay.model import DeadLetter, Position, Reason, Response, Settlement
from relay.queue.base import DeadLetterFilter, Queue, Reader
from relay.queue.fates import Fate, Letters, standings
from tests.contract.queue.conftest import Opener, attached
from tests.contract.queue.test_log import deliver_all
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines

ALWAYS = (0.0, NOW + 1e6)


async def retained(queue: Queue, start: float, end: float) -> list[StoredBatch]:
    async with aclosing(queue.received(start, end)) as batches:
        return [each async for each in batches]


async def fates(queue: Queue, name: str) -> list[Fate]:
    """Of every retained event, where the filter lets everything through."""
    standing = (await standings(queue, [name]))[name]
    found = await retained(queue, *ALWAYS)
    return [fate for each in found for fate in standing.fates(each, range(each.count))]


async def test_an_empty_log_retains_nothing(queue: Queue) -> None:
    """There is nothing to look at, and that is no error."""
    assert await retained(queue, *ALWAYS) == []


async def test_a_range_that_ends_before_it_begins_holds_nothing(queue: Queue) -> None:
    """Nor does one in which nothing came."""
    await queue.append([batch(lines(2))])

    assert await retained(queue, NOW + 1, NOW) == []
    assert await retained(queue, NOW + 1, NOW + 2) == []


async def test_what_is_retained_is_given_by_its_arrival(queue: Queue) -> None:
    """The range includes its beginning and excludes its end; batches are those that readers get."""
    (reader,) = await attached(queue, "siem")
    for n in range(40):
        await queue.append([batch(lines(3, first=3 * n), at=NOW + n)])

    found = await retained(queue, NOW + 5, NOW + 30)

    read = []
    while reader.unread():
        read += [stored for stored, _ in await reader.read(1000)]
    assert [(it.sequence, it.received_at, it.lines, it.ids) for it in found] == [
        (it.sequence, it.received_at, it.lines, it.ids) for it in read[5:30]
    ]


async def test_looking_takes_nothing_from_anybody(queue: Queue) -> None:
    """Readers read and owe what they did before."""
    (reader,) = await attached(queue, "siem")
    events = lines(4)
    await queue.append([batch(events)])

    await retained(queue, *ALWAYS)

    assert queue.books("siem").backlog == 4
    assert await deliver_all(reader) == events


async def test_what_came_while_one_looks_is_not_in_the_way(queue: Queue) -> None:
    """A look goes on when events are appended in the middle of it."""
    for n in range(20):
        await queue.append([batch(lines(2, first=2 * n))])

    seen = []
    async with aclosing(queue.received(*ALWAYS)) as batches:
        async for each in batches:
            seen += each.lines
            if len(seen) == 2:
                await queue.append([batch(lines(2, first=1000))])

    assert seen[:40] == lines(40)


async def test_every_event_has_a_fate(queue: Queue) -> None:
    """Accepted before the destination, delivered, refused, and still to be sent are told apart."""
    await queue.append([batch(lines(2))])
    (reader,) = await attached(queue, "siem")
    await queue.append([batch(lines(3, first=2))])
    await queue.append([batch(lines(2, first=5))])
    await settle_with_a_refusal(reader)

    assert await fates(queue, "siem") == [
        *[Fate.NOT_OWED] * 2,
        Fate.DELIVERED,
        Fate.DEAD_LETTERED,
        Fate.DELIVERED,
        *[Fate.BACKLOG] * 2,
    ]


async def test_fates_are_the_same_after_a_restart(queue: Queue, reopen: Opener) -> None:
    """They are told by what is stored."""
    (reader,) = await attached(queue, "siem")
    await queue.append([batch(lines(3))])
    await settle_with_a_refusal(reader)
    before = await fates(queue, "siem")

    assert await fates(await reopen(), "siem") == before


async def test_what_the_filter_excludes_was_filtered(queue: Queue) -> None:
    """A settled event that the filter does not let through is told from a delivered one."""
    (reader,) = await attached(queue, "siem")
    await queue.append([batch(lines(3))])
    (stored,) = await retained(queue, *ALWAYS)
    await deliver_all(reader)

    standing = (await standings(queue, ["siem"]))["siem"]

    assert standing.fates(stored, {0, 2}) == [Fate.DELIVERED, Fate.FILTERED, Fate.DELIVERED]


async def test_a_back_fill_that_is_not_through_owes_its_rest(queue: Queue) -> None:
    """Events before the destination's start are owed where it asked for them."""
    await queue.append([batch(lines(2))])
    await queue.append([batch(lines(2, first=2))])
    live, back = await attached(queue, "siem", "earliest")
    await queue.append([batch(lines(1, first=4))])
    await deliver_all(live)
    (first, *_) = [stored for stored, _ in await back.read(1)]
    await back.settle(settled(first))

    assert await fates(queue, "siem") == [*[Fate.DELIVERED] * 2, *[Fate.BACKLOG] * 2, Fate.DELIVERED]


async def test_a_redriven_letter_was_delivered(queue: Queue, clock: FakeClock) -> None:
    """A dead letter that was sent again with success reads as delivered."""
    (reader,) = await attached(queue, "siem")
    await queue.append([batch(lines(3))])
    await settle_with_a_refusal(reader)

    await queue.redrive(DeadLetterFilter())
    redrive = queue.readers("siem")[-1]
    await deliver_all(redrive)

    assert await fates(queue, "siem") == [Fate.DELIVERED] * 3


async def test_stretches_of_letters_are_looked_up_by_position() -> None:
    """Overlaps, neighbours and any order make no difference."""
    letters = Letters([(7, 1), (3, 2), (4, 2), (20, 5)])

    assert [n for n in range(30) if n in letters] == [3, 4, 5, 7, 20, 21, 22, 23, 24]


async def settle_with_a_refusal(reader: Reader) -> None:
    """The second event of the first batch is refused, the others are delivered."""
    (stored, offset), *_ = await reader.read(1)
    assert offset == 0
    response = Response("no", 400)
    letter = DeadLetter(Position(stored.sequence, 1), stored.event(1), Reason.REJECTED, response)
    await reader.settle(
        Settlement(
            Position(stored.sequence),
            Position(stored.sequence, stored.count),
            delivered=stored.count - 1,
            dead=(letter,),
        )
    )


def settled(stored: StoredBatch) -> Settlement:
    return Settlement(
        Position(stored.sequence), Position(stored.sequence, stored.count), delivered=stored.count
    )
