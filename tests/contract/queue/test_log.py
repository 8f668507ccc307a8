"""Appending and reading."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from relay.batch import StoredBatch
from relay.errors import QueueError
from relay.model import (
    DeadLetter,
    Event,
    Format,
    Hold,
    HoldReason,
    Position,
    ReaderKind,
    Reason,
    Receipt,
    Response,
    RetryState,
    Settlement,
)
from relay.queue.base import DeadLetterFilter, Queue, Reader
from tests.contract.queue.conftest import Opener, attached
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, cef, lines


async def read_lines(reader: Reader, max_events: int = 1000) -> list[bytes]:
    """Everything the reader gives at present."""
    found: list[bytes] = []
    while reader.unread():
        for stored, offset in await reader.read(max_events):
            found += stored.lines[offset:]
    return found


async def deliver_all(reader: Reader) -> list[bytes]:
    """Read and settle everything there is."""
    found: list[bytes] = []
    while reader.unread():
        for stored, offset in await reader.read(1000):
            found += stored.lines[offset:]
            await reader.settle(whole(stored, offset))
    return found


def whole(stored: StoredBatch, offset: int = 0) -> Settlement:
    return Settlement(
        Position(stored.sequence, offset),
        Position(stored.sequence, stored.count),
        delivered=stored.count - offset,
        delivered_bytes=len(stored.body),
    )


async def test_what_was_appended_is_read_byte_for_byte_in_order(queue: Queue) -> None:
    """A reader gives the lines of all batches in the order of their appends."""
    (reader,) = await attached(queue, "siem", "now")
    first, second = lines(3), lines(2, first=3)

    receipt = await queue.append([batch(first)])
    await queue.append([batch(second)])

    assert Receipt(3, 0) == receipt
    assert first + second == await read_lines(reader)
    assert not reader.unread()


async def test_read_stops_at_the_number_of_events_asked_for(queue: Queue) -> None:
    """A reader hands out whole batches until they hold the wanted number of events."""
    (reader,) = await attached(queue, "siem", "now")
    for n in range(5):
        await queue.append([batch(lines(10, first=10 * n))])

    pieces = await reader.read(25)

    assert 30 >= sum(stored.count for stored, _ in pieces) >= 20
    assert reader.unread()


async def test_each_destination_reads_everything(queue: Queue) -> None:
    """Readers of different destinations do not take events from each other."""
    (one,) = await attached(queue, "one", "now")
    (two,) = await attached(queue, "two", "now")
    events = lines(5)
    await queue.append([batch(events)])

    assert events == await deliver_all(one)
    assert events == await read_lines(two)
    assert two.backlog().events == 5
    assert one.backlog().events == 0


async def test_a_destination_added_later_owes_only_what_follows(queue: Queue) -> None:
    """`start_from: now` skips what is in the log already."""
    await queue.append([batch(lines(4))])
    (reader,) = await attached(queue, "late", "now")
    later = lines(2, first=4)
    await queue.append([batch(later)])

    assert later == await read_lines(reader)
    assert queue.books("late").owed == 2


async def test_back_fill_reads_what_was_there_before(queue: Queue) -> None:
    """`start_from: earliest` adds a reader for the past beside the live one."""
    past = lines(4)
    await queue.append([batch(past)])
    live, fill = await attached(queue, "late", "earliest")
    now = lines(2, first=4)
    await queue.append([batch(now)])

    assert fill.kind == ReaderKind.BACKFILL
    assert now == await deliver_all(live)
    assert past == await deliver_all(fill)
    assert fill.finished
    await fill.finish()
    books = queue.books("late")
    assert (books.owed, books.delivered, books.backlog) == (6, 6, 0)
    assert [live] == list(queue.readers("late"))


async def test_many_concurrent_appends_are_all_durable(queue: Queue, reopen: Opener) -> None:
    """Requests that share a commit are all there after a restart, each once."""
    await attached(queue, "siem", "now")
    batches = [batch(lines(2, first=2 * n)) for n in range(200)]

    receipts = await asyncio.gather(*[queue.append([each]) for each in batches])

    assert [Receipt(2, 0)] * 200 == receipts
    again = await reopen()
    (reader,) = await attached(again, "siem", "now")
    assert sorted(lines(400)) == sorted(await read_lines(reader))


async def test_the_batches_of_one_request_are_appended_together(queue: Queue) -> None:
    """A request cut into several batches counts as one."""
    (reader,) = await attached(queue, "siem", "now")

    receipt = await queue.append([batch(lines(3)), batch(lines(3, first=3))])

    assert Receipt(6, 0) == receipt
    assert lines(6) == await read_lines(reader)


async def test_an_unknown_source_is_refused(queue: Queue) -> None:
    """Nothing is stored for a source that is not configured."""
    with pytest.raises(QueueError, match="mars"):
        await queue.append([batch(lines(1), source="mars")])


async def test_formats_are_counted_per_source(queue: Queue, reopen: Opener) -> None:
    """Accepted events are counted by source and format, across restarts."""
    mixed = [*lines(2), b'{"rt":1}', b'{"event":{"rt":1}}', b"garbage"]
    await queue.append([batch(mixed), batch(lines(1, first=9))])
    await queue.append([batch(lines(3), source="us")])
    expected = {
        ("eu", Format.CEF): 3,
        ("eu", Format.JSON): 1,
        ("eu", Format.CPS): 1,
        ("eu", Format.UNKNOWN): 1,
        ("us", Format.CEF): 3,
    }

    assert expected == dict(queue.accepted())
    assert expected == dict((await reopen()).accepted())


async def test_what_the_relay_pulled_was_not_heard(queue: Queue, reopen: Opener) -> None:
    """A source was heard when its webhook came: a pull shows nothing of that. Across restarts."""
    await queue.append([replace(batch(lines(1, first=7), at=NOW), pulled=True)])
    assert dict(queue.last_received()) == {}
    await queue.append([batch(lines(2), at=NOW)])
    await queue.append([replace(batch(lines(1, first=8), at=NOW + 60), pulled=True)])

    assert dict(queue.last_received()) == {"eu": NOW}
    assert sum(queue.accepted().values()) == 4
    again = await reopen()
    assert dict(again.last_received()) == {"eu": NOW}
    assert sum(again.accepted().values()) == 4


async def test_settled_events_are_not_read_again_after_a_restart(queue: Queue, reopen: Opener) -> None:
    """The watermark survives a restart; what lies behind it is read from there."""
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(10))])
    await reader.read(10)
    await reader.settle(Settlement(Position(1), Position(1, 4), delivered=4, delivered_bytes=4))

    (reader,) = await attached(await reopen(), "siem", "now")

    assert lines(10)[4:] == await read_lines(reader)
    assert reader.backlog().events == 6


async def test_ranges_settled_out_of_order_join(queue: Queue) -> None:
    """The watermark waits for the first open range and then passes all that follow."""
    (reader,) = await attached(queue, "siem", "now")
    for n in range(3):
        await queue.append([batch(lines(2, first=2 * n))])
    pieces = [stored for stored, _ in await reader.read(6)]

    await reader.settle(whole(pieces[2]))
    await reader.settle(whole(pieces[1]))
    before = reader.watermark, queue.books("siem").delivered
    await reader.settle(whole(pieces[0]))

    assert (Position(1), 0) == before
    assert queue.books("siem").delivered == 6
    assert reader.backlog().events == 0


async def test_a_settlement_must_account_for_every_event(queue: Queue) -> None:
    """A range with too few fates is refused: an event would vanish from the books."""
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(3))])
    await reader.read(3)

    with pytest.raises(QueueError, match="2 fates for the 3 events"):
        await reader.settle(Settlement(Position(1), Position(1, 3), delivered=2))


async def test_rewind_gives_unsettled_events_again(queue: Queue) -> None:
    """After a rewind, reading starts at the watermark."""
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(4))])
    await reader.read(4)
    await reader.settle(Settlement(Position(1), Position(1, 1), delivered=1))

    reader.rewind()

    assert lines(4)[1:] == await read_lines(reader)


async def test_a_place_within_a_batch_outlasts_a_rewind_before_the_first_read(
    queue: Queue, reopen: Opener
) -> None:
    """As when a hold is found that was set in the middle of a batch, before a restart."""
    (reader,) = await attached(queue, "siem", "now")
    body = lines(10)
    await queue.append([batch(body)])
    await reader.read(1000)
    await reader.settle(Settlement(Position(1), Position(1, 4), delivered=4, delivered_bytes=4))

    queue = await reopen()
    (reader,) = await attached(queue, "siem", "now")
    reader.rewind()
    await reader.retry_later(RetryState(1, NOW))
    queue = await reopen()
    (reader,) = await attached(queue, "siem", "now")

    assert await deliver_all(reader) == body[4:]
    assert queue.books("siem").delivered == 10


async def test_retry_state_survives_a_restart(queue: Queue, reopen: Opener) -> None:
    """A crash neither forgets nor restarts a schedule."""
    (reader,) = await attached(queue, "siem", "now")
    await reader.retry_later(RetryState(3, NOW + 8))

    (reader,) = await attached(await reopen(), "siem", "now")

    assert RetryState(3, NOW + 8) == reader.retry


async def test_a_hold_survives_a_restart(queue: Queue, reopen: Opener) -> None:
    """An open circuit is found open again, and a lifted one is not."""
    await attached(queue, "siem", "now")
    hold = Hold(HoldReason.MISCONFIGURED, NOW, "401")
    await queue.set_hold("siem", hold)
    queue = await reopen()
    assert hold == queue.hold("siem")

    await queue.set_hold("siem", None)

    assert (await reopen()).hold("siem") is None


async def test_waiting_for_appends_wakes_up(queue: Queue) -> None:
    """A reader with nothing to read is woken by the next append."""
    await attached(queue, "siem", "now")
    mark = await queue.append_wait(0)
    waiting = asyncio.ensure_future(queue.append_wait(mark))

    await queue.append([batch(lines(1))])

    assert mark < await asyncio.wait_for(waiting, 30)


async def test_dead_letters_are_kept_with_what_was_said(queue: Queue, reopen: Opener) -> None:
    """A dead letter keeps its bytes, reason, status and the response, and is in the books."""
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(3))])
    await bury(reader, 1)

    queue = await reopen()
    (letter,) = await queue.dead_letters(DeadLetterFilter(destination="siem"))

    assert lines(3)[1] == (letter.event.line if letter.event else None)
    assert (
        letter.reason,
        letter.status,
        letter.excerpt,
        letter.detail,
        letter.attempts,
    ) == (Reason.REJECTED, 400, b"bad", "refused", 2)
    books = queue.books("siem")
    assert (books.owed, books.delivered, books.dead, books.backlog) == (3, 2, 1, 0)
    assert books.dead_by_reason == {Reason.REJECTED: 1}


async def bury(reader: Reader, *indices: int) -> list[Event]:
    """Read one batch; dead-letter these events, deliver the others."""
    ((stored, _),) = await reader.read(1)
    events = [stored.event(i) for i in indices]
    said = Response("refused", 400, b"bad", attempt=2)
    letters = [
        DeadLetter(Position(stored.sequence, i), event, Reason.REJECTED, said)
        for i, event in zip(indices, events, strict=True)
    ]
    await reader.settle(
        Settlement(
            Position(stored.sequence),
            Position(stored.sequence, stored.count),
            delivered=stored.count - len(letters),
            dead=tuple(letters),
        )
    )
    return events


async def test_redriven_letters_are_read_again_with_their_ids(queue: Queue, reopen: Opener) -> None:
    """Redrive gives a destination a reader over its dead letters, which survives a restart."""
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(4))])
    events = await bury(reader, 0, 2)

    assert await queue.redrive(DeadLetterFilter(destination="siem")) == 2
    queue = await reopen()
    _, redrive = await attached(queue, "siem", "now")
    pieces = await redrive.read(10)

    assert events == [stored.event(0) for stored, _ in pieces]
    for stored, offset in pieces:
        await redrive.settle(whole(stored, offset))
    assert redrive.finished
    await redrive.finish()
    books = queue.books("siem")
    assert (books.owed, books.delivered, books.dead, books.backlog) == (4, 4, 0, 0)
    assert list(await queue.dead_letters(DeadLetterFilter())) == []
    assert len(queue.readers("siem")) == 1


async def test_a_letter_refused_again_stays(queue: Queue) -> None:
    """A redriven event that is refused again keeps its place and can be redriven once more."""
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(1))])
    (event,) = await bury(reader, 0)
    await queue.redrive(DeadLetterFilter())
    redrive = queue.readers("siem")[1]
    ((stored, _),) = await redrive.read(10)
    position = Position(stored.sequence)
    refusal = DeadLetter(position, event, Reason.TOO_LARGE, Response("too big", 413))

    await redrive.settle(Settlement(position, Position(stored.sequence, 1), dead=(refusal,)))

    (letter,) = await queue.dead_letters(DeadLetterFilter())
    assert (
        letter.reason,
        letter.status,
        letter.redriving,
        letter.attempts,
    ) == (Reason.TOO_LARGE, 413, False, 3)
    assert redrive.finished
    books = queue.books("siem")
    assert (books.owed, books.delivered, books.dead) == (1, 0, 1)
    assert await queue.redrive(DeadLetterFilter()) == 1


async def test_discarded_letters_stay_in_the_books(queue: Queue, reopen: Opener) -> None:
    """Discarding deletes the bytes, not the fact."""
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(3))])
    await bury(reader, 0, 1)
    first, _ = await queue.dead_letters(DeadLetterFilter())

    assert await queue.discard(DeadLetterFilter(ids=(first.id,))) == 1

    books = (await reopen()).books("siem")
    assert (books.owed, books.delivered, books.dead, books.discarded, books.backlog) == (3, 1, 2, 1, 0)


async def test_dead_letters_are_found_by_reason_and_time(queue: Queue, clock: FakeClock) -> None:
    """Filters narrow the list; pages follow the id."""
    (reader,) = await attached(queue, "siem", "now")
    await queue.append([batch(lines(3))])
    await bury(reader, 0, 1, 2)
    everything = await queue.dead_letters(DeadLetterFilter())

    assert len(await queue.dead_letters(DeadLetterFilter(reason=Reason.REJECTED))) == 3
    assert list(await queue.dead_letters(DeadLetterFilter(reason=Reason.EXPIRED))) == []
    assert list(await queue.dead_letters(DeadLetterFilter(since=clock.now() + 1))) == []
    assert list(await queue.dead_letters(DeadLetterFilter(destination="other"))) == []
    assert list(everything[1:]) == list(await queue.dead_letters(DeadLetterFilter(), after=everything[0].id))
    assert list(everything[:1]) == list(await queue.dead_letters(DeadLetterFilter(), limit=1))


async def test_a_replay_reads_a_time_range_again(queue: Queue, clock: FakeClock, reopen: Opener) -> None:
    """Replay gives a reader over what was received in the range; the books stay as they were."""
    (live,) = await attached(queue, "siem", "now")
    for hour in range(4):
        at = NOW + 3600 * hour
        await queue.append([batch(lines(2, first=2 * hour, at=at), at=at)])
    await deliver_all(live)

    info = await queue.replay("siem", NOW + 3600, NOW + 3 * 3600, rate=50.0)
    queue = await reopen()
    _, replay = await attached(queue, "siem", "now")

    assert (info.total, replay.kind, replay.rate) == (4, ReaderKind.REPLAY, 50.0)
    expected = [*lines(2, first=2, at=NOW + 3600), *lines(2, first=4, at=NOW + 7200)]
    assert expected == await deliver_all(replay)
    assert replay.finished
    books = queue.books("siem")
    assert (books.owed, books.delivered, books.replayed) == (8, 8, 4)


async def test_forgetting_a_destination_releases_it(queue: Queue) -> None:
    """A forgotten destination owes nothing and is new when it comes back."""
    await attached(queue, "siem", "now")
    await queue.append([batch(lines(3))])

    await queue.forget("siem")

    assert list(queue.destinations()) == []
    await attached(queue, "siem", "now")
    assert queue.books("siem").owed == 0


async def test_refusals_open_one_gap(queue: Queue, reopen: Opener) -> None:
    """Refusals close together are one gap, kept across a restart."""
    await queue.open_gap("eu", NOW, NOW, "429")
    await queue.open_gap("eu", NOW + 10, NOW + 10, "429")
    await queue.open_gap("eu", NOW + 5000, NOW + 5000, "429")

    gaps = await (await reopen()).gaps()

    assert [(gap.source, gap.start, gap.end, gap.refusals) for gap in gaps] == [
        ("eu", NOW, NOW + 10, 2),
        ("eu", NOW + 5000, NOW + 5000, 1),
    ]


async def test_the_oldest_waiting_event_is_known_without_reading(
    queue: Queue, reopen: Opener, clock: FakeClock
) -> None:
    """The age of a backlog is there after a restart, before anyone reads."""
    await attached(queue, "siem", "now")
    await queue.append([batch(lines(2), at=NOW - 500)])
    queue = await reopen()
    (reader,) = await attached(queue, "siem", "now")

    assert (reader.backlog().events, reader.backlog().oldest_received_at) == (2, NOW - 500)
    assert cef(0) != cef(1)
