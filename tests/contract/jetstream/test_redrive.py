"""Sending dead letters again: what is read, what becomes of it, and what the books say of it."""

from __future__ import annotations

import asyncio
import random

import pytest

from relay.model import Position, Reason, RetryState
from relay.queue.base import DeadLetterFilter
from relay.queue.jetstream import link
from relay.queue.jetstream.record import LeaseLost
from tests.contract.jetstream.desk import EVERYTHING, LIMIT, Desk, Desks, letter, refusal, settlement
from tests.fakes.events import cef

# -- reading -----------------------------------------------------------------------------------


async def test_marked_letters_are_read_oldest_first(desk: Desk) -> None:
    """Each is a batch of one with its own id, source and time, and its letter's id for a position."""
    await desk.bury("siem", 5, 3)
    await desk.lose("siem", 4, 1)
    await desk.letters.redrive(EVERYTHING)
    await desk.bury("siem", 9)
    reader = desk.reader("siem")

    pieces = await reader.read(10)

    assert [piece.event(0) for piece, _ in pieces] == [letter(5).event, letter(3).event]
    assert [(piece.sequence, piece.count, offset) for piece, offset in pieces] == [
        (found.id, 1, 0) for found in (await desk.all())[:2]
    ]
    assert (reader.total, reader.backlog().events, reader.finished, reader.unread()) == (2, 2, False, False)


async def test_a_read_gives_what_was_not_given(desk: Desk) -> None:
    """Letters come once, as many as are asked for, until a rewind gives those not settled again."""
    await desk.bury("siem", *range(5))
    await desk.letters.redrive(EVERYTHING)
    reader = desk.reader("siem")
    first = [piece for piece, _ in await reader.read(2)]
    second = [piece for piece, _ in await reader.read(10)]
    await reader.settle(settlement(first))

    reader.rewind()

    again = [piece.sequence for piece, _ in await reader.read(10)]
    assert (len(first), len(second)) == (2, 3)
    assert again == [piece.sequence for piece in second]


async def test_long_lines_are_read_a_megabyte_at_a_time(desk: Desk) -> None:
    """However many letters are asked for, memory holds about a megabyte of them."""
    await desk.bury("siem", *[letter(n, line=cef(n) * 1000) for n in range(9)])
    await desk.letters.redrive(EVERYTHING)

    assert len(await desk.reader("siem").read(1000)) == 4


@pytest.mark.parametrize(
    "which",
    [
        DeadLetterFilter(reason=Reason.TOO_LARGE),
        DeadLetterFilter(since=1.0, reason=Reason.TOO_LARGE),
    ],
)
async def test_a_rule_takes_some_letters_of_many(desk: Desk, which: DeadLetterFilter) -> None:
    """Letters of another reason are passed over; those taken have their lines."""
    await desk.bury(
        "siem", *[letter(n, reason=Reason.REJECTED if n % 3 else Reason.TOO_LARGE) for n in range(30)]
    )
    await desk.letters.redrive(which)
    reader = desk.reader("siem")

    pieces = [*await reader.read(4), *await reader.read(100)]

    assert [piece.lines[0] for piece, _ in pieces] == [cef(n) for n in range(0, 30, 3)]


async def test_ids_are_read_without_a_search(desk: Desk) -> None:
    """A redrive of single letters reads those and nothing else."""
    await desk.bury("siem", *[letter(n, line=cef(n) * 10) for n in range(1000)])
    found = await desk.all()
    for n in (700, 20):
        await desk.letters.redrive(DeadLetterFilter(ids=(found[n].id,)))
    reader = desk.reader("siem")
    before = desk.client.stats["in_bytes"]

    pieces = await reader.read(10)

    assert [piece.sequence for piece, _ in pieces] == [found[20].id, found[700].id]
    assert desk.client.stats["in_bytes"] - before < 50_000


async def test_a_later_rule_may_take_earlier_letters(desk: Desk) -> None:
    """Letters that were passed over are read after all when another redrive takes them."""
    await desk.bury("siem", 1, letter(2, reason=Reason.TOO_LARGE), 3)
    await desk.letters.redrive(DeadLetterFilter(reason=Reason.TOO_LARGE))
    reader = desk.reader("siem")
    ((large, _),) = await reader.read(10)

    await desk.letters.redrive(EVERYTHING)

    assert reader.unread()
    assert [piece.lines[0] for piece, _ in await reader.read(10)] == [cef(1), cef(3)]
    await reader.settle(settlement([large]))
    assert reader.backlog().events == 2


async def test_a_rule_made_during_a_read_takes_what_was_passed_over(desk: Desk) -> None:
    """The read goes on behind letters that are taken from now on; the next one goes back for them."""
    await desk.bury("siem", *range(2000), letter(2000, reason=Reason.TOO_LARGE))
    first = (await desk.letters.find(EVERYTHING, limit=1))[0]
    await desk.letters.redrive(DeadLetterFilter(reason=Reason.TOO_LARGE))
    reader = desk.reader("siem")
    reading = asyncio.ensure_future(reader.read(10))

    await desk.letters.redrive(DeadLetterFilter(ids=(first.id,)))

    assert not reading.done()
    assert [piece.lines[0] for piece, _ in await reading] == [cef(2000)]
    assert [piece.lines[0] for piece, _ in await reader.read(10)] == [cef(0)]


async def test_finding_nothing_ends_no_redrive_that_was_just_given_more(desk: Desk, other: Desk) -> None:
    """What another replica marked meanwhile is not taken for letters that somebody deleted."""
    await desk.bury("siem", 1, letter(2, reason=Reason.TOO_LARGE))
    await desk.letters.redrive(DeadLetterFilter(reason=Reason.REJECTED))
    reader = desk.reader("siem")
    await desk.delete_by_hand((await desk.all())[0])
    await other.look()
    await other.letters.redrive(EVERYTHING)

    assert list(await reader.read(10)) == []

    assert reader.unread()
    assert [piece.lines[0] for piece, _ in await reader.read(10)] == [cef(2)]


async def test_letters_ahead_of_the_books_are_not_sent(desk: Desk) -> None:
    """What a replica stored and could not count is an event that will be read from the log again."""
    await desk.open("new", settled=10)
    await desk.bury("new", 9)
    await desk.store_ahead("new", letter(10))
    await desk.letters.redrive(DeadLetterFilter("new"))

    pieces = await desk.reader("new").read(10)

    assert [piece.lines[0] for piece, _ in pieces] == [cef(9)]


# -- settling ----------------------------------------------------------------------------------


async def test_delivered_letters_are_deleted(desk: Desk) -> None:
    """A delivered letter moves from dead to delivered, bytes and all; a filtered one to filtered."""
    await desk.bury("siem", 1, 2, 3)
    await desk.letters.redrive(EVERYTHING)
    reader = desk.reader("siem")
    pieces = [piece for piece, _ in await reader.read(10)]

    await reader.settle(settlement(pieces, filtered=1))

    assert desk.books("siem") == (2, 1, 0, 0)
    assert desk.accounts["siem"].delivered_bytes == len(cef(1)) + len(cef(2)) + 2
    assert await desk.all() == []
    assert (reader.finished, reader.unread()) == (True, False)
    assert reader.watermark == Position(0)
    await reader.finish()
    assert len(desk.accounts["siem"].readers) == 1


async def test_a_letter_refused_again_stays_with_the_new_answer(desk: Desk) -> None:
    """It is no longer redriving, has all attempts, and can be redriven once more."""
    await desk.bury("siem", 1, 2)
    await desk.letters.redrive(EVERYTHING)
    await desk.clock.advance(5)
    reader = desk.reader("siem")
    pieces = [piece for piece, _ in await reader.read(10)]

    await reader.settle(settlement(pieces, refused=[refusal(pieces[0])]))

    (found,) = await desk.all()
    said = (found.reason, found.status, found.detail, found.attempts, found.redriving, found.created_at)
    assert said == (Reason.TOO_LARGE, 413, "too big", 3, False, desk.clock.now())
    assert found.event == letter(1).event
    assert reader.finished
    assert desk.books("siem") == (1, 0, 1, 0)
    assert await desk.letters.redrive(DeadLetterFilter(reason=Reason.REJECTED)) == 0
    assert await desk.letters.redrive(EVERYTHING) == 1
    assert [piece.sequence for piece, _ in await reader.read(10)] == [found.id]


async def test_more_letters_than_a_commit_holds_are_settled(desk: Desk) -> None:
    """A request of thousands is booked to the last event and byte."""
    await desk.bury("siem", *range(2000))
    await desk.letters.redrive(EVERYTHING)
    reader = desk.reader("siem")
    pieces = [piece for _ in range(2) for piece, _ in await reader.read(1000)]
    refused = [refusal(piece) for piece in pieces[::100]]
    whole = settlement(pieces, filtered=950, refused=refused)

    await reader.settle(whole)

    assert desk.books("siem") == (2000 - 950 - 20, 950, 20, 0)
    assert desk.accounts["siem"].delivered_bytes == whole.delivered_bytes
    assert await desk.numbers() == list(range(0, 2000, 100))
    assert reader.finished


async def test_what_was_marked_meanwhile_is_not_settled(desk: Desk) -> None:
    """A settlement covers what was read, not what lies between."""
    reasons = (Reason.TOO_LARGE, Reason.REJECTED, Reason.TOO_LARGE)
    await desk.bury("siem", *[letter(n, reason=reason) for n, reason in enumerate(reasons)])
    await desk.letters.redrive(DeadLetterFilter(reason=Reason.TOO_LARGE))
    reader = desk.reader("siem")
    pieces = [piece for piece, _ in await reader.read(10)]
    await desk.letters.redrive(EVERYTHING)

    await reader.settle(settlement(pieces))

    assert await desk.numbers() == [1]
    assert (reader.finished, reader.backlog().events) == (False, 1)


async def test_letters_deleted_by_hand_are_missed_and_no_more(desk: Desk) -> None:
    """The redrive ends all the same, and nothing is booked for what nobody sent."""
    await desk.bury("siem", *range(4))
    await desk.letters.redrive(EVERYTHING)
    reader = desk.reader("siem")
    found = await desk.all()
    await desk.delete_by_hand(found[3])
    pieces = [piece for piece, _ in await reader.read(3)]
    await desk.delete_by_hand(found[1])

    await reader.settle(settlement(pieces))

    assert desk.books("siem") == (2, 0, 2, 0)
    assert desk.accounts["siem"].delivered_bytes == len(cef(0)) + len(cef(2)) + 2
    assert (reader.finished, reader.unread()) == (False, True)
    assert list(await reader.read(10)) == []
    assert (reader.finished, reader.unread()) == (True, False)


@pytest.mark.parametrize("refused", [True, False])
async def test_a_letter_settled_by_an_earlier_holder_is_not_booked_again(
    desk: Desk, other: Desk, refused: bool
) -> None:
    """Who reads a letter that another replica is just settling may send it twice, but not count it twice."""
    await desk.bury("siem", 1, 2)
    await desk.letters.redrive(EVERYTHING)
    await other.look()
    first, second = desk.reader("siem"), other.reader("siem")
    early = [piece for piece, _ in await first.read(10)]
    late = [piece for piece, _ in await second.read(10)]
    await first.settle(settlement(early))
    await other.look()
    await other.take_lease("siem")

    await second.settle(settlement(late, refused=[refusal(each) for each in late] if refused else []))

    assert other.books("siem") == (2, 0, 0, 0)
    assert await other.all() == []
    assert second.finished


async def test_the_account_may_change_while_letters_are_settled(desk: Desk, other: Desk) -> None:
    """Another replica's changes, which this one has not seen yet, are kept."""
    await desk.bury("siem", 1, letter(2, reason=Reason.TOO_LARGE))
    await desk.letters.redrive(DeadLetterFilter(reason=Reason.REJECTED))
    await other.look()
    reader = desk.reader("siem")
    pieces = [piece for piece, _ in await reader.read(10)]
    await other.letters.redrive(EVERYTHING)

    await reader.settle(settlement(pieces))

    assert (reader.total, reader.backlog().events) == (2, 1)
    assert [piece.lines[0] for piece, _ in await reader.read(10)] == [cef(2)]


# -- leases and failures -----------------------------------------------------------------------


async def test_who_lost_the_lease_settles_nothing(desk: Desk, other: Desk) -> None:
    """The new holder has it all before it: nothing is deleted, nothing is booked."""
    await desk.bury("siem", 1, 2)
    await desk.letters.redrive(EVERYTHING)
    await other.look()
    reader = desk.reader("siem")
    pieces = [piece for piece, _ in await reader.read(10)]
    await other.take_lease("siem")

    with pytest.raises(LeaseLost):
        await reader.settle(settlement(pieces))
    with pytest.raises(LeaseLost):
        await reader.retry_later(RetryState(1, 1.0))

    assert other.books("siem") == (0, 0, 2, 0)
    assert len(await other.reader("siem").read(10)) == 2


async def test_settling_waits_for_nats_to_come_back(desk: Desk, desks: Desks) -> None:
    """What was delivered must not be sent again because the queue was away for a while."""
    await desk.bury("siem", 1, 2)
    await desk.letters.redrive(EVERYTHING)
    reader = desk.reader("siem")
    pieces = [piece for piece, _ in await reader.read(10)]
    await desk.cut_off()
    settling = asyncio.ensure_future(reader.settle(settlement(pieces)))
    for _ in range(3):
        assert await desks.clock.next_wake() == 1.0
        await desks.clock.advance(1.0)
    await desks.clock.next_wake()

    await desk.come_back()
    await desks.clock.advance(1.0)

    await asyncio.wait_for(settling, LIMIT)
    assert desk.books("siem") == (2, 0, 0, 0)
    assert await desk.all() == []


async def test_settling_ends_when_the_lease_is_lost_meanwhile(desk: Desk, desks: Desks) -> None:
    """A replica that is cut off from NATS gives up as soon as it knows that it has lost the lease."""
    await desk.bury("siem", 1)
    await desk.letters.redrive(EVERYTHING)
    reader = desk.reader("siem")
    pieces = [piece for piece, _ in await reader.read(10)]
    await desk.cut_off()
    settling = asyncio.ensure_future(reader.settle(settlement(pieces)))
    await desks.clock.next_wake()

    desk.lost = True
    await desks.clock.advance(1.0)

    with pytest.raises(LeaseLost):
        await asyncio.wait_for(settling, LIMIT)


@pytest.mark.parametrize("refused", [True, False])
async def test_a_lost_acknowledgement_books_nothing_twice(
    desk: Desk, desks: Desks, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """The commit was stored, its answer never came: the next attempt finds that out."""
    await desk.bury("siem", 1, 2)
    await desk.letters.redrive(EVERYTHING)
    reader = desk.reader("siem")
    pieces = [piece for piece, _ in await reader.read(10)]
    desk.wire.swallow_commit = True
    refusals = [refusal(pieces[1])] if refused else []
    with monkeypatch.context() as impatient:  # the first attempt alone is to end soon
        impatient.setattr(link, "_ANSWER_SECONDS", 1.0)
        settling = asyncio.ensure_future(reader.settle(settlement(pieces, refused=refusals)))
        assert await desks.clock.next_wake() == 1.0
    before = desk.books("siem")

    desk.wire.heal()
    await desks.clock.advance(1.0)

    await asyncio.wait_for(settling, LIMIT)
    assert before == (0, 0, 2, 0)
    assert desk.books("siem") == ((1, 0, 1, 0) if refused else (2, 0, 0, 0))
    assert await desk.numbers() == ([2] if refused else [])
    assert reader.finished


async def test_the_retry_state_is_stored(desk: Desk, other: Desk) -> None:
    """A replica that takes over goes on with the schedule, and a rewind does not forget it."""
    await desk.bury("siem", 1)
    await desk.letters.redrive(EVERYTHING)
    reader = desk.reader("siem")

    await reader.retry_later(RetryState(3, 77.0))
    reader.rewind()

    await other.look()
    assert reader.retry == RetryState(3, 77.0)
    assert other.reader("siem").retry == RetryState(3, 77.0)


# -- everything together -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_books_and_letters_always_agree(desks: Desks, desk: Desk, other: Desk, seed: int) -> None:
    """Whatever two replicas do, every event is in the books once, and dead ones are exactly those kept."""
    rng = random.Random(seed)
    buried = 0
    holder, operator = desk, other
    for _ in range(60):
        await operator.look()
        await holder.look()
        which = DeadLetterFilter(
            rng.choice(["siem", None]),
            rng.choice([None, None, Reason.REJECTED, Reason.TOO_LARGE]),
            rng.choice([None, None, desks.clock.now() - 3]),
        )
        match rng.randrange(7):
            case 0 | 1:
                count = rng.randrange(1, 20)
                reason = rng.choice([Reason.REJECTED, Reason.TOO_LARGE])
                await holder.bury("siem", *[letter(buried + n, reason=reason) for n in range(count)])
                buried += count
            case 2:
                await operator.letters.discard(
                    DeadLetterFilter(ids=tuple(each.id for each in (await operator.all())[:3]))
                )
            case 3:
                await asyncio.gather(operator.letters.redrive(which), holder.letters.redrive(which))
            case 4 | 5:
                if holder.left("siem"):
                    reader = holder.reader("siem")
                    pieces = [piece for piece, _ in await reader.read(rng.randrange(1, 30))]
                    refused = [refusal(piece) for piece in pieces if rng.random() < 0.2]
                    filtered = rng.randrange(len(pieces) - len(refused) + 1)
                    if pieces:
                        fates = settlement(pieces, filtered=filtered, refused=refused)
                        busy = operator.letters.discard(which) if rng.random() < 0.5 else asyncio.sleep(0)
                        await asyncio.gather(reader.settle(fates), busy)
                    if reader.finished:
                        await reader.finish()
            case _:
                await operator.take_lease("siem")
                holder, operator = operator, holder
        await desks.clock.advance(1)
    await holder.look()

    kept = await holder.all()
    delivered, filtered, dead, discarded = holder.books("siem")
    assert dead == len(kept) == len({each.position.sequence for each in kept})
    assert delivered + filtered + dead + discarded == buried
    assert holder.left("siem") == sum(each.redriving for each in kept)
