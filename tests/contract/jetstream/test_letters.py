"""Dead letters in the state bucket: their form, the list, discarding, clearing up, marking."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from relay.model import ReaderKind, Reason
from relay.queue.base import DeadLetterFilter
from relay.queue.jetstream.bucket import Change, Entry
from relay.queue.jetstream.letters import (
    HEADER,
    NotALetter,
    change_of,
    joined,
    range_change,
    redrive_of,
    stored,
)
from relay.queue.jetstream.record import LeaseLost, Mark, ReaderRecord
from tests.contract.jetstream.desk import EVERYTHING, Desk, letter
from tests.fakes.events import NOW, cef

SIEM = DeadLetterFilter(destination="siem")


# -- the form ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "detail",
    [
        "",
        "two\r\nNats-Msg-Id: lines\n\n",
        "\x1b[2Jerase\x00\x7f\x85\u2028",
        "für Ünïcode 🙈",
        "half a surrogate \ud83d",
        '"quoted" \\ {}',
        " spaces around ",
        "🙈" * 4_000,
    ],
    ids=["nothing", "lines", "controls", "unicode", "surrogate", "quotes", "spaces", "long"],
)
async def test_whatever_a_destination_says_is_kept(desk: Desk, detail: str) -> None:
    """A detail may hold anything, header lines and terminal escapes among it, and comes back as it was."""
    await desk.bury("siem", letter(7, detail=detail, excerpt=bytes(range(256))))

    (found,) = await desk.all()

    assert found.detail == detail
    assert found.excerpt == bytes(range(256))


async def test_a_sentence_without_end_is_cut(desk: Desk) -> None:
    """The server refuses headers beyond 64 KiB; no destination can talk its letters out of being stored."""
    await desk.bury("siem", letter(7, detail="🙈" * 100_000))

    (found,) = await desk.all()

    assert found.detail == "🙈" * 4_000


async def test_everything_about_a_letter_comes_back(desk: Desk) -> None:
    """The list shows the event, the answer, the attempts and the time, and an id that grows."""
    await desk.bury("siem", 7)
    await desk.bury("siem", 3)

    first, second = await desk.all()

    said = (first.destination, first.reason, first.status, first.detail, first.attempts, first.redriving)
    assert said == ("siem", Reason.REJECTED, 400, "refused", 2, False)
    assert (first.position.sequence, first.count, first.created_at) == (7, 1, NOW)
    assert first.event == letter(7).event
    assert second.id > first.id


@pytest.mark.parametrize("line", [b"", cef(1) * 200, b"\x00\xff\r\n\x1b"], ids=["empty", "long", "bytes"])
async def test_any_line_comes_back(desk: Desk, line: bytes) -> None:
    """Bytes are kept as they are, those of a line too long to be a message as well."""
    await desk.bury("siem", letter(7, line=line))

    (found,) = await desk.all()

    assert found.event is not None
    assert found.event.line == line


async def test_a_line_larger_than_a_message_is_kept(desk: Desk) -> None:
    """An event of several megabytes came as gzip and is kept as gzip."""
    line = cef(1) * 20_000
    assert len(line) > 4 * desk.client.max_payload

    await desk.bury("siem", letter(7, line=line))

    (found,) = await desk.all()
    assert found.event is not None
    assert found.event.line == line


async def test_a_range_has_no_event(desk: Desk) -> None:
    """Events that were released stand in the list as one entry with their number."""
    await desk.lose("siem", 5, 120)

    (found,) = await desk.all()

    assert (found.event, found.count, found.position.sequence) == (None, 120, 5)
    assert (found.reason, found.status, found.excerpt, found.attempts) == (Reason.EXPIRED, None, b"", 0)


async def test_names_with_dots_are_one_token(desk: Desk) -> None:
    """Letters of `eu.siem` are not those of `eu`."""
    await desk.open("eu.siem")
    await desk.open("eu")
    await desk.bury("eu.siem", 7)

    assert await desk.numbers(DeadLetterFilter(destination="eu")) == []
    (found,) = await desk.all(DeadLetterFilter(destination="eu.siem"))
    assert found.destination == "eu.siem"


async def test_what_nobody_here_can_read_is_passed_over(desk: Desk) -> None:
    """Neither somebody's own keys nor a later version's letters keep the others from being found."""
    later = change_of("siem", letter(2), 2, NOW)
    about = later.headers[HEADER].replace('"v":1', '"v":2')
    await desk.bucket.commit([Change("dead.siem.1", b"by hand"), replace(later, headers={HEADER: about})])
    await desk.bury("siem", 3)
    revision = await desk.bucket.put("dead.too.many.tokens", b"")

    assert await desk.numbers() == [3]
    assert await desk.all(DeadLetterFilter(ids=(revision, revision - 3))) == []
    with pytest.raises(NotALetter):
        stored(Entry("dead.siem.2", b"", 2, headers={HEADER: "[]"}))


# -- joining ranges ----------------------------------------------------------------------------


def expired(number: int, count: int, *, destination: str = "siem", at: float = NOW) -> Change:
    return range_change(destination, Reason.EXPIRED, number, count, at, "released")


def ranges(changes: list[Change]) -> list[tuple[int, int]]:
    found = [stored(Entry(each.key, b"", 1, headers=each.headers)) for each in changes]
    return [(each.position.sequence, each.count) for each in found]


def test_a_range_that_goes_on_becomes_longer() -> None:
    """A month of released events is one entry, which keeps its key and the time it began."""
    (change,) = joined(expired(10, 5), [expired(15, 5, at=NOW + 1), expired(20, 2, at=NOW + 2)])

    found = stored(Entry(change.key, b"", 1, headers=change.headers))
    assert (change.key, found.count, found.created_at) == ("dead.siem.10", 12, NOW)


def test_only_what_continues_a_range_joins_it() -> None:
    """Another reason, a gap, a single event or another destination begins anew."""
    single = change_of("siem", letter(12), 12, NOW)
    corrupt = range_change("siem", Reason.CORRUPT, 15, 1, NOW, "gone")
    elsewhere = expired(17, 1, destination="other")

    changes = joined(None, [expired(10, 2), single, expired(13, 1), expired(15, 0), corrupt, elsewhere])

    assert len(changes) == 6
    assert joined(expired(10, 2), [expired(13, 1)]) == [expired(13, 1)]
    assert joined(expired(10, 2), []) == []


def test_ranges_between_single_events_are_joined_apart() -> None:
    """Order is kept: what stands between two ranges keeps them apart."""
    single = change_of("siem", letter(14), 14, NOW)

    changes = joined(expired(8, 2), [expired(10, 2), expired(12, 2), single, expired(15, 1), expired(16, 1)])

    assert ranges(changes) == [(8, 6), (14, 1), (15, 2)]


# -- the list ----------------------------------------------------------------------------------


async def test_filters_narrow_the_list(desk: Desk) -> None:
    """Destination, reason, time and ids, alone or together; lines are there whatever was asked."""
    await desk.open("other")
    await desk.bury("siem", 1, letter(2, reason=Reason.TOO_LARGE))
    await desk.clock.advance(10)
    await desk.bury("siem", letter(3, reason=Reason.TOO_LARGE))
    await desk.bury("other", 1)
    first, second, third, fourth = await desk.all()

    assert await desk.all(DeadLetterFilter(reason=Reason.TOO_LARGE)) == [second, third]
    assert await desk.all(DeadLetterFilter(since=NOW + 5)) == [third, fourth]
    assert await desk.all(DeadLetterFilter(reason=Reason.TOO_LARGE, since=NOW + 5)) == [third]
    assert await desk.all(DeadLetterFilter("siem", ids=(fourth.id, third.id, first.id))) == [first, third]
    assert await desk.all(DeadLetterFilter(ids=(first.id, third.id), reason=Reason.TOO_LARGE)) == [third]
    assert await desk.all(DeadLetterFilter(destination="unknown")) == []
    assert third.event == letter(3).event


async def test_pages_follow_the_id(desk: Desk) -> None:
    """Page by page gives every letter once, for any filter."""
    await desk.bury("siem", *[letter(n, reason=Reason(["rejected", "too_large"][n % 2])) for n in range(25)])

    for which in (EVERYTHING, SIEM, DeadLetterFilter(reason=Reason.REJECTED), DeadLetterFilter(since=NOW)):
        pages: list[int] = []
        after = 0
        while page := await desk.letters.find(which, after=after, limit=4):
            pages += [each.position.sequence for each in page]
            after = page[-1].id
        assert pages == await desk.numbers(which)


async def test_an_id_that_is_no_letter_finds_nothing(desk: Desk) -> None:
    """Revisions of other keys, of what was replaced or deleted, and those to come, are no letters."""
    await desk.bury("siem", 1, 2)
    old, gone = await desk.all()
    await desk.bury("siem", 1)
    await desk.delete_by_hand(gone)

    ids = (desk.accounts.revision("siem"), old.id, gone.id, 10**12, 0)
    assert await desk.all(DeadLetterFilter(ids=ids)) == []


async def test_lines_are_read_only_where_they_are_wanted(desk: Desk) -> None:
    """To find one letter in a thousand, the other lines stay where they are."""
    line = cef(1) * 10
    await desk.bury("siem", *[letter(n, line=line) for n in range(1000)])
    await desk.bury("siem", letter(1000, line=line, reason=Reason.TOO_LARGE))
    before = desk.client.stats["in_bytes"]

    found = await desk.all(DeadLetterFilter(reason=Reason.TOO_LARGE))
    await desk.letters.redrive(SIEM)

    assert len(found) == 1
    assert desk.client.stats["in_bytes"] - before < 100 * len(line)


async def test_letters_of_a_forgotten_destination_are_not_listed(desk: Desk) -> None:
    """What is left behind by a forgotten destination is nobody's."""
    await desk.bury("siem", 1)
    await desk.accounts.remove("siem")

    assert await desk.all() == []
    assert await desk.letters.discard(EVERYTHING) == 0
    assert await desk.letters.redrive(SIEM) == 0


async def test_forgetting_leaves_nothing_of_one_destination(desk: Desk) -> None:
    """All letters of the destination go, and no others."""
    await desk.open("other")
    await desk.bury("siem", *range(20))
    await desk.bury("other", 1)

    await desk.letters.forget("siem")

    assert [each.destination for each in await desk.all()] == ["other"]


# -- discarding --------------------------------------------------------------------------------


async def test_discarded_events_stay_in_the_books(desk: Desk) -> None:
    """Letters and ranges go, and as many events are discarded instead of dead."""
    await desk.bury("siem", 1, letter(2, reason=Reason.TOO_LARGE))
    await desk.lose("siem", 3, 40)

    assert await desk.letters.discard(DeadLetterFilter(reason=Reason.EXPIRED)) == 40
    assert desk.books("siem") == (0, 0, 2, 40)
    assert await desk.letters.discard(EVERYTHING) == 2
    assert desk.books("siem") == (0, 0, 0, 42)
    assert await desk.all() == []
    assert await desk.letters.discard(EVERYTHING) == 0


async def test_more_letters_than_a_commit_holds_are_discarded(desk: Desk) -> None:
    """Thousands go in several commits, each of which agrees with the books."""
    await desk.bury("siem", *range(2000))

    assert await desk.letters.discard(SIEM) == 2000
    assert await desk.all() == []
    assert desk.books("siem") == (0, 0, 0, 2000)


async def test_letters_under_redrive_are_not_discarded(desk: Desk) -> None:
    """Someone is about to send them; the others go."""
    await desk.bury("siem", 1, letter(2, reason=Reason.TOO_LARGE))
    await desk.letters.redrive(DeadLetterFilter(reason=Reason.TOO_LARGE))

    assert await desk.letters.discard(EVERYTHING) == 1
    (left,) = await desk.all()
    assert (left.position.sequence, left.redriving) == (2, True)


async def test_ids_find_their_destinations(desk: Desk) -> None:
    """Without a destination, letters with these ids go wherever they are."""
    await desk.open("other")
    await desk.bury("siem", 1, 2)
    await desk.bury("other", 1)
    ids = [each.id for each in await desk.all()]

    assert await desk.letters.discard(DeadLetterFilter(ids=(ids[0], ids[2], 12345))) == 2
    assert await desk.numbers() == [2]
    assert (desk.books("siem")[3], desk.books("other")[3]) == (1, 1)


async def test_two_who_discard_at_once_count_each_letter_once(desk: Desk, other: Desk) -> None:
    """Operators at two replicas get the sum of what was there."""
    await desk.bury("siem", *range(1500))

    counts = await asyncio.gather(desk.letters.discard(SIEM), other.letters.discard(SIEM))

    await desk.look()
    assert sum(counts) == 1500
    assert desk.books("siem") == (0, 0, 0, 1500)


async def test_discarding_and_redriving_at_once_never_take_the_same_letter(desk: Desk, other: Desk) -> None:
    """Each letter is either gone or about to be sent, and the count of those to be sent is right."""
    await desk.bury("siem", *range(1500))

    discarded, marked = await asyncio.gather(desk.letters.discard(SIEM), other.letters.redrive(SIEM))

    await desk.look()
    left = await desk.all()
    assert all(each.redriving for each in left)
    assert len(left) == 1500 - discarded <= marked
    assert desk.books("siem") == (0, 0, 1500 - discarded, discarded)


async def test_discarding_goes_on_while_the_account_changes(desk: Desk, other: Desk) -> None:
    """The replica that delivers stores its progress all the time; nobody waits for it to stop."""
    await desk.bury("siem", *range(1200))
    discarding = asyncio.ensure_future(other.letters.discard(SIEM))
    delivered = 0
    while not discarding.done():
        await desk.accounts.update("siem", lambda account: replace(account, delivered=account.delivered + 1))
        delivered += 1
        await asyncio.wait([discarding], timeout=0.01)

    assert discarding.result() == 1200
    await desk.look()
    assert desk.books("siem") == (delivered, 0, 0, 1200)


async def test_a_letter_deleted_by_hand_is_not_discarded_again(desk: Desk) -> None:
    """What `nats kv del` took is not counted as ours, and stops nobody."""
    await desk.bury("siem", 1, 2, 3)
    looked_at = await desk.all()
    await desk.delete_by_hand(looked_at[1])

    assert await desk.letters.discard(SIEM) == 2
    assert await desk.all() == []


# -- letters ahead of their account ------------------------------------------------------------


async def test_letters_stored_ahead_of_the_books_are_nobodys_yet(desk: Desk) -> None:
    """An event its reader has not settled is not dead: neither discarded nor redriven."""
    await desk.open("new", settled=10)
    await desk.bury("new", 9)
    await desk.store_ahead("new", letter(10), letter(11))

    assert await desk.letters.redrive(DeadLetterFilter("new")) == 1
    assert await desk.letters.discard(DeadLetterFilter("new")) == 0
    assert desk.books("new") == (0, 0, 1, 0)


async def test_what_a_dead_replica_left_ahead_is_cleared_up(desk: Desk) -> None:
    """Only letters whose events will be read again go, be they single ones or ranges; the books stay."""
    await desk.open("new", settled=10)
    await desk.bury("new", 8, 9)
    await desk.lose("new", 5, 3)
    await desk.store_ahead("new", letter(10))
    await desk.store_ahead("new", *[letter(n) for n in range(700, 1600)])
    await desk.bucket.commit([expired(2000, 5, destination="new")])

    await desk.letters.clean("new")

    assert await desk.numbers(DeadLetterFilter("new")) == [8, 9, 5]
    assert desk.books("new") == (0, 0, 5, 0)


async def test_a_back_fill_has_letters_ahead_as_well(desk: Desk) -> None:
    """What lies in the range of a back-fill that is not settled goes, what lies before and behind stays."""
    fill = ReaderRecord(1, ReaderKind.BACKFILL, Mark(20, 20), stop=Mark(30, 30))
    replay = ReaderRecord(2, ReaderKind.REPLAY, Mark(1, 1), stop=Mark(40, 40))
    await desk.accounts.update("siem", lambda account: account.with_reader(fill).with_reader(replay))
    await desk.store_ahead("siem", *[letter(n) for n in (19, 20, 29, 30)])

    await desk.letters.clean("siem")

    assert await desk.numbers() == [19, 30]


async def test_who_has_lost_the_lease_clears_nothing_up(desk: Desk, other: Desk) -> None:
    """The next one may have stored these letters itself and be about to count them."""
    await desk.open("new", settled=10)
    await desk.store_ahead("new", letter(10))
    await other.look()
    await other.take_lease("new")

    with pytest.raises(LeaseLost):
        await desk.letters.clean("new")

    assert await other.numbers(DeadLetterFilter("new")) == [10]


# -- marking -----------------------------------------------------------------------------------


async def test_redriving_notes_a_rule(desk: Desk) -> None:
    """Letters that have bytes are marked by one small change of the account; ranges are not."""
    await desk.bury("siem", 1, 2)
    await desk.lose("siem", 3, 4)

    assert await desk.letters.redrive(EVERYTHING) == 2

    reader = redrive_of(desk.accounts["siem"])
    assert reader is not None
    assert (reader.left, reader.total) == (2, 2)
    assert [each.redriving for each in await desk.all()] == [True, True, False]
    assert desk.books("siem")[2] == 6


async def test_nothing_to_redrive_makes_no_reader(desk: Desk) -> None:
    """A filter that takes nothing changes nothing."""
    await desk.lose("siem", 3, 4)

    assert await desk.letters.redrive(EVERYTHING) == 0
    assert await desk.letters.redrive(DeadLetterFilter(ids=(77,))) == 0
    assert redrive_of(desk.accounts["siem"]) is None


async def test_letters_are_marked_once(desk: Desk) -> None:
    """What is marked already is not counted again, by whatever filter; later letters are."""
    await desk.bury("siem", 1, letter(2, reason=Reason.TOO_LARGE))
    first, _ = await desk.all()

    assert await desk.letters.redrive(DeadLetterFilter(ids=(first.id, first.id, 99))) == 1
    assert await desk.letters.redrive(DeadLetterFilter(reason=Reason.REJECTED)) == 0
    assert await desk.letters.redrive(DeadLetterFilter(since=NOW)) == 1
    await desk.bury("siem", 3)
    assert [each.redriving for each in await desk.all()] == [True, True, False]
    assert await desk.letters.redrive(EVERYTHING) == 1

    reader = redrive_of(desk.accounts["siem"])
    assert reader is not None
    assert (reader.left, reader.total) == (3, 3)
    assert [rule.reason for rule in reader.rules] == [None]


async def test_a_rule_of_ids_holds_those_it_took(desk: Desk) -> None:
    """Ids that are no letters do not swell the account."""
    await desk.bury("siem", 1, 2, 3)
    first, _, third = await desk.all()

    await desk.letters.redrive(DeadLetterFilter(ids=(10**9, third.id, first.id)))

    reader = redrive_of(desk.accounts["siem"])
    assert reader is not None
    assert [rule.revisions for rule in reader.rules] == [(first.id, third.id)]


async def test_two_who_redrive_at_once_count_each_letter_once(desk: Desk, other: Desk) -> None:
    """There is one redrive reader, with as many letters as there are."""
    await desk.bury("siem", *range(1200))

    counts = await asyncio.gather(desk.letters.redrive(SIEM), other.letters.redrive(EVERYTHING))

    await desk.look()
    assert sum(counts) == 1200
    assert desk.left("siem") == 1200
    assert len(desk.accounts["siem"].readers) == 2
