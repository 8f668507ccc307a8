"""Room in a cluster: what is purged, in which order, by whom, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from relay.errors import QueueError, QueueFull
from relay.model import ReaderKind, Reason
from relay.queue.jetstream.ledger import load
from relay.queue.jetstream.link import Outgoing
from relay.queue.jetstream.record import Mark
from relay.queue.jetstream.space import _free
from tests.contract.jetstream.house import EVENTS, WEEK, House
from tests.contract.jetstream.streams import LIMIT, streams
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW
from tests.fakes.nats import NatsServer
from tests.fakes.process import until

MIB = 1 << 20
DAY = 86400.0


@pytest.fixture
async def relay(nats_server: NatsServer, prefix: str) -> AsyncIterator[str]:
    """The streams' name."""
    async with streams(nats_server, prefix):
        yield prefix


# -- admission ---------------------------------------------------------------------------------


async def test_beyond_the_limit_nothing_is_accepted(nats_server: NatsServer, relay: str) -> None:
    """What would exceed it is refused with a hint when to come back; less may still fit."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        accepted = await house.fill(nbytes=20_000)
        with pytest.raises(QueueFull, match="limit of 1048576 bytes") as refusal:
            await house.accept(nbytes=40_000)

        assert refusal.value.retry_after > 0
        assert not house.accepts()
        assert accepted == len(await house.sequences()) > 30
        await house.space.measure()
        assert not house.accepts()


async def test_what_others_accept_counts_once_it_is_measured(nats_server: NatsServer, relay: str) -> None:
    """Every replica comes to know how full the streams are, the state bucket included."""
    async with (
        House.open(nats_server, relay, max_bytes=MIB) as one,
        House.open(nats_server, relay, "two", max_bytes=MIB) as two,
    ):
        await one.accept(50, nbytes=8_000)
        await two.space.measure()
        assert two.space.usage.bytes > 400_000
        before = two.space.usage.bytes
        await one.site.bucket.put("quarantine.x.0", bytes(500_000))
        await two.space.measure()

        assert two.space.usage.bytes > before + 500_000
        assert two.space.usage.free_bytes == MIB - two.space.usage.bytes
        with pytest.raises(QueueFull):
            await two.accept(nbytes=60_000)


async def test_where_the_server_has_less_room_its_limit_counts(nats_server: NatsServer, prefix: str) -> None:
    """It refuses before the relay would: space is given back below that, and intake resumes by itself."""
    async with (
        streams(nats_server, prefix, max_bytes=MIB),
        House.open(nats_server, prefix, max_bytes=10 * MIB) as house,
    ):
        await house.destination("siem")
        await house.fill()
        await house.round()
        assert not house.accepts(), "nothing can be given back"
        with pytest.raises(QueueFull):
            house.space.admit(1_000)

        await house.settle("siem")
        await house.round()
        assert house.accepts()
        await house.accept(nbytes=8_000)
        assert house.space.usage.bytes < 0.95 * MIB


async def test_the_servers_refusal_is_forgotten_after_a_minute(nats_server: NatsServer, prefix: str) -> None:
    """An operator may have given the stream more room: nobody has to restart the relay."""
    async with (
        streams(nats_server, prefix, max_bytes=MIB),
        House.open(nats_server, prefix, max_bytes=10 * MIB) as house,
    ):
        await house.fill()
        info = await nats_server.api(f"STREAM.INFO.{prefix}")
        await nats_server.api(f"STREAM.UPDATE.{prefix}", info["config"] | {"max_bytes": 2 * MIB})
        with pytest.raises(QueueFull):
            house.space.admit(1_000)
        await house.clock.advance(60)
        await house.round()

        assert house.accepts()
        await house.accept(10, nbytes=8_000)


async def test_an_account_may_grant_less(tmp_path: Path) -> None:
    """What the NATS account has left is the limit where that is less than the configured one."""
    accounts = {"A": {"jetstream": {"max_file": 2 * MIB}, "users": [{"user": "a", "password": "a"}]}}
    async with (
        NatsServer(tmp_path, settings={"accounts": accounts, "no_auth_user": "a"}) as server,
        streams(server, "relay"),
        House.open(server, "relay", max_bytes=10 * MIB) as house,
    ):
        assert house.space.usage.limit == 2 * MIB
        await house.fill()
        assert house.space.usage.bytes < 2 * MIB
        assert not house.accepts()
        await house.round()

        assert house.accepts()
        assert house.space.usage.messages == 0, "nobody is owed anything"


@pytest.mark.parametrize(
    ("info", "free"),
    [
        ({"storage": 10, "limits": {"max_storage": -1}}, None),
        ({"storage": 30, "limits": {"max_storage": 90}}, 20),
        ({"storage": 99, "limits": {"max_storage": 90}}, 0),
        ({"storage": 30, "limits": {}, "tiers": {"R3": {"storage": 30, "limits": {"max_storage": 30}}}}, 20),
        (
            {"storage": 30, "limits": {}, "tiers": {"R3": {"storage": 30, "limits": {"max_storage": -1}}}},
            None,
        ),
    ],
)
def test_what_an_account_grants(info: dict[str, object], free: int | None) -> None:
    """For a stream of three replicas; usage is the sum over them, and so is a limit unless it is a tier's."""
    assert _free(info, 3) == free


async def test_while_nats_is_away_the_figures_stay(nats_server: NatsServer, relay: str) -> None:
    """A round fails, the next one does better; nobody is let in or shut out by it."""
    async with House.open(nats_server, relay) as house:
        await house.accept(3)
        await house.space.measure()
        before = replace(house.space.usage)
        await house.site.cut_off()
        with pytest.raises(QueueError):
            await house.space.measure()
        assert house.space.usage == before
        assert house.accepts()

        await house.site.come_back()
        await house.space.measure()
        assert house.space.usage == before


# -- retention ---------------------------------------------------------------------------------


async def test_delivered_events_go_after_the_retention(nats_server: NatsServer, relay: str) -> None:
    """Not before, and only those that are older."""
    async with House.open(nats_server, relay, retention=DAY) as house:
        await house.destination("siem")
        await house.accept(5)
        await house.clock.advance(DAY / 2)
        await house.accept(5)
        await house.settle("siem")
        await house.round()
        assert await house.sequences() == list(range(1, 11))
        assert house.space.usage.oldest_received_at == NOW

        await house.clock.advance(DAY / 2 + 1)
        await house.round()
        assert await house.sequences() == list(range(6, 11))
        assert house.log.ledger.first == Mark(6, 5 * EVENTS + 1)
        assert house.space.usage.oldest_received_at == NOW + DAY / 2

        await house.clock.advance(DAY)
        await house.round()
        assert await house.sequences() == []
        assert house.log.ledger.first == Mark(11, 10 * EVENTS + 1)
        assert house.space.usage.oldest_received_at is None


@pytest.mark.parametrize("kind", [ReaderKind.LIVE, ReaderKind.BACKFILL, ReaderKind.REPLAY])
async def test_age_alone_never_deletes_what_a_reader_needs(
    nats_server: NatsServer, relay: str, kind: ReaderKind
) -> None:
    """From its watermark on, also if that is in the middle of a batch."""
    async with House.open(nats_server, relay, retention=60.0) as house:
        await house.destination("other")
        at = Mark(4, 3 * EVENTS + 5, 4)
        await house.destination("siem", kind=kind, mark=at, stop=Mark(6, 5 * EVENTS + 1))
        await house.accept(10)
        await house.settle("other")
        await house.settle("siem")
        await house.clock.advance(30 * DAY)
        await house.round()

        assert await house.sequences() == list(range(4, 11))
        assert house.log.ledger.first == Mark(4, 3 * EVENTS + 1)


async def test_a_redrive_needs_nothing_of_the_log(nats_server: NatsServer, relay: str) -> None:
    """Its letters hold their events."""
    async with House.open(nats_server, relay, retention=60.0) as house:
        await house.destination("siem", kind=ReaderKind.REDRIVE, mark=Mark(0, 0))
        await house.accept(3)
        await house.settle("siem")
        await house.clock.advance(61)
        await house.round()

        assert await house.sequences() == []


async def test_more_than_a_step_is_purged_in_a_round(
    nats_server: NatsServer, relay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, up to the first batch that is too young."""
    monkeypatch.setattr("relay.queue.jetstream.space._BATCHES_A_STEP", 7)
    async with House.open(nats_server, relay, retention=60.0) as house:
        await house.accept(30)
        await house.clock.advance(61)
        await house.accept(2)
        await house.round()

        assert await house.sequences() == [31, 32]
        assert house.log.ledger.first == Mark(31, 30 * EVENTS + 1)


async def test_what_somebody_else_wrote_goes_with_the_batches_around_it(
    nats_server: NatsServer, relay: str
) -> None:
    """It holds no events and no age, and blocks nothing."""
    foreign = Outgoing(f"{relay}.events.eu.x", b"hello", {})
    async with House.open(nats_server, relay, retention=60.0) as house:
        await house.site.link.publish(foreign)
        await house.accept(2)
        await house.site.link.publish(foreign)
        await until(lambda: house.log.ledger.seq == 4, LIMIT, "the log being followed")
        await house.accept()
        await house.round()
        assert await house.sequences() == [2, 3, 4, 5]

        await house.clock.advance(61)
        await house.accept()
        await house.round()
        assert await house.sequences() == [6]
        assert house.log.ledger.first == Mark(6, 3 * EVENTS + 1)


# -- numbers survive ---------------------------------------------------------------------------


async def test_a_replica_that_starts_later_counts_alike(nats_server: NatsServer, relay: str) -> None:
    """What is purged is in the stored ledger."""
    async with House.open(nats_server, relay, retention=60.0) as house:
        await house.accept(5)
        await house.clock.advance(61)
        await house.accept(2)
        await house.space.measure()
        await house.space.give_back()  # the ledger was not stored before
        await house.accept(3)
        assert await house.sequences() == [6, 7, 8, 9, 10]

        async with House.open(nats_server, relay, "two") as later:
            assert later.log.ledger == house.log.ledger


async def test_what_the_janitor_has_not_counted_is_not_purged(nats_server: NatsServer, relay: str) -> None:
    """Were its ledger stored after, the counts of what it never saw would be gone."""
    clock = FakeClock(NOW)
    async with (
        House.open(nats_server, relay, clock=clock) as one,
        House.open(nats_server, relay, "two", clock=clock, retention=60.0, follows=False) as two,
    ):
        await one.accept(5)
        await clock.advance(61)
        await two.round()
        assert await one.sequences() == [1, 2, 3, 4, 5]

        two.site.run(two.log.run())
        await until(lambda: two.log.ledger.seq == 5, LIMIT, "the log being followed")
        await two.round()
        assert await one.sequences() == []


async def test_a_janitor_that_died_before_the_purge_is_made_up_for(
    nats_server: NatsServer, relay: str
) -> None:
    """Where the log begins was announced: the next one purges what is before it."""
    async with House.open(nats_server, relay) as house:
        await house.accept(5)
        await house.log.purging(Mark(4, 3 * EVENTS + 1))
        await house.round()

        assert await house.sequences() == [4, 5]


async def test_of_two_janitors_the_slower_one_changes_nothing(nats_server: NatsServer, relay: str) -> None:
    """It was asleep while the other one went further: neither stream nor ledger goes back."""
    clock = FakeClock(NOW)
    async with (
        House.open(nats_server, relay, clock=clock, retention=60.0) as one,
        House.open(nats_server, relay, "two", clock=clock, retention=60.0) as two,
    ):
        await one.accept(5)
        await clock.advance(61)
        await until(lambda: two.log.ledger.seq == 5, LIMIT, "the other one following")
        late = await two.space._oldest(3, None)
        await one.round()
        with suppress(QueueError):  # its watch may have told it by now, or not: both ends well
            await two.space._begin_at(late[-1].end)

        entry = await one.site.bucket.get("ledger")
        assert entry is not None
        assert load(entry.value).first == Mark(6, 5 * EVENTS + 1)
        await two.round()
        assert two.log.ledger.first == Mark(6, 5 * EVENTS + 1)


async def test_a_destination_the_janitor_has_not_heard_of_is_owed_all_the_same(
    nats_server: NatsServer, relay: str
) -> None:
    """Its account exists; that the watch is behind must not cost it an event."""
    clock = FakeClock(NOW)
    async with (
        House.open(nats_server, relay, clock=clock) as one,
        House.open(nats_server, relay, "two", clock=clock, retention=60.0, watches=False) as two,
    ):
        await two.destination("quick")
        await one.accept(2)
        await one.destination("new.one")
        await one.destination("gone")
        await one.accept(3)
        await one.accounts.remove("gone")
        await until(lambda: two.log.ledger.seq == 5, LIMIT, "the log being followed")
        assert "new.one" not in two.accounts
        await two.settle("quick")
        await clock.advance(61)
        await two.round()

        assert await one.sequences() == [3, 4, 5]


# -- ids of what is gone -----------------------------------------------------------------------


async def test_ids_are_kept_while_a_second_copy_would_be_a_duplicate(
    nats_server: NatsServer, relay: str
) -> None:
    """Those of batches beyond the window are not."""
    async with House.open(nats_server, relay, retention=60.0) as house:
        house.window = 100.0
        await house.accept(3)
        await house.clock.advance(50)
        await house.accept(3)
        await house.clock.advance(61)
        await house.round()

        assert await house.sequences() == []
        assert house.remembered == [4, 5, 6]


async def test_a_batch_whose_ids_cannot_be_kept_stays(nats_server: NatsServer, relay: str) -> None:
    """It is purged when NATS takes them."""
    async with House.open(nats_server, relay, retention=60.0) as house:
        house.window = WEEK
        await house.accept(3)
        await house.clock.advance(61)

        async def refuse(_: object) -> None:
            raise QueueError("NATS is away")

        remember, house.space._remember = house.space._remember, refuse
        with pytest.raises(QueueError):
            await house.round()
        assert await house.sequences() == [1, 2, 3]

        house.space._remember = remember
        await house.round()
        assert house.remembered == [1, 2, 3]
        assert await house.sequences() == []


async def test_ids_are_forgotten_before_anything_is_refused(nats_server: NatsServer, relay: str) -> None:
    """A duplicate is better than a loss: the oldest go, as many as it takes."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        for number in range(1, 400):
            await house.site.bucket.put(f"seen.eu.13.{number}.{number}", bytes(1_000))
        await house.destination("siem")
        await house.space.measure()
        await house.fill()
        assert not house.accepts()
        await house.round()

        assert house.accepts()
        assert house.space.usage.bytes <= 0.9 * MIB
        left = await house.site.bucket.count("seen.>")
        assert 0 < left < 399
        assert await house.site.bucket.get("seen.eu.13.399.399") is not None
        await house.accept(nbytes=8_000)


# -- near the limit ----------------------------------------------------------------------------


async def test_near_the_limit_delivered_events_go_whatever_their_age(
    nats_server: NatsServer, relay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as make room again, the oldest first."""
    monkeypatch.setattr("relay.queue.jetstream.space._BATCHES_A_STEP", 2)
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await house.destination("siem")
        await house.fill()
        await house.settle("siem")
        await house.round()

        assert house.accepts()
        assert 0.85 * MIB < house.space.usage.bytes <= 0.9 * MIB
        first, *_ = await house.sequences()
        assert house.log.ledger.first == Mark(first, (first - 1) * EVENTS + 1)


async def test_a_replay_does_not_hold_space_back_near_the_limit(nats_server: NatsServer, relay: str) -> None:
    """What it sends was delivered before; a backlog is not given up for it."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await house.destination("siem", kind=ReaderKind.REPLAY, mark=Mark(1, 1), stop=Mark(900, 9000))
        accepted = await house.fill()
        await house.settle("siem", batches=accepted - 10)
        await house.round()

        assert house.accepts()
        assert (await house.sequences())[0] > 1
        assert house.mark("siem", 2) == Mark(1, 1)


# -- laggards ----------------------------------------------------------------------------------


async def laggard(house: House, lease: str | None = None) -> None:
    """Full, with `quick` up to date and `slow` behind from the beginning."""
    await house.destination("quick")
    await house.destination("slow", lease=lease)
    await house.fill()
    await house.settle("quick")


async def test_the_one_furthest_behind_gives_way_to_those_up_to_date(
    nats_server: NatsServer, relay: str
) -> None:
    """On the books, as one range, and no further than it takes; the next round purges it."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        house.window = WEEK
        await laggard(house)
        await house.round()
        account = house.accounts["slow"]
        mark = house.mark("slow")
        given_up = mark.number - 1
        assert 0.10 < given_up / (house.log.ledger.number - 1) < 0.15, "from full to nine tenths"
        assert mark == Mark(mark.seq, (mark.seq - 1) * EVENTS + 1)
        assert account.dead == account.dead_by_reason[Reason.EXPIRED] == given_up
        assert house.accounts["quick"].dead == 0
        (said,) = house.site.logged("queue.released")
        assert (said["destination"], said["events"], said["level"]) == ("slow", given_up, "warning")
        letters = [entry async for entry in house.site.bucket.entries("dead")]
        assert [entry.key for entry in letters] == ["dead.slow.1"]

        await house.round()
        assert house.mark("slow") == mark, "once is enough"
        assert (await house.sequences())[0] == mark.seq
        assert house.accepts()
        assert house.remembered == [], "a replay by Konnect may bring them back"


async def test_nobody_gives_up_what_the_janitor_has_yet_to_purge(nats_server: NatsServer, relay: str) -> None:
    """Replicas make their rounds at different moments: a second one must not take it for too little."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await laggard(house)
        await house.round(janitor=False)
        mark = house.mark("slow")
        for _ in range(5):
            await house.round(janitor=False)

        assert house.mark("slow") == mark != Mark(1, 1)


async def test_nobody_gives_up_while_ids_can_be_forgotten(nats_server: NatsServer, relay: str) -> None:
    """A duplicate is better than a loss, on every replica."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await house.site.bucket.put("seen.eu.13.1.1", bytes(1_000))
        await laggard(house)
        await house.round(janitor=False)

        assert house.mark("slow") == Mark(1, 1)


async def test_nobody_gives_up_what_would_be_kept_for_another(nats_server: NatsServer, relay: str) -> None:
    """The oldest events are owed to one that is nearly up to date: it has to send them first."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await house.accept(3)
        back = Mark(1, 1)
        await house.destination("quick", kind=ReaderKind.BACKFILL, mark=back, stop=Mark(2, EVENTS + 1))
        await house.destination("slow")
        await house.fill()
        await house.settle("quick")
        await house.round()
        assert house.mark("slow") == Mark(4, 3 * EVENTS + 1)

        await house.settle("quick", reader=2, batches=1)
        await house.round()
        assert house.mark("slow") != Mark(4, 3 * EVENTS + 1)


async def test_when_everyone_is_behind_nobody_gives_up(nats_server: NatsServer, relay: str) -> None:
    """The intake refuses instead."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await house.destination("one")
        await house.destination("two")
        accepted = await house.fill()
        await house.settle("one", batches=5)
        await house.round()

        assert len(await house.sequences()) == accepted
        assert house.mark("two") == Mark(1, 1)
        assert not house.accepts()


async def test_a_relay_may_be_told_to_refuse_rather_than_to_release(
    nats_server: NatsServer, relay: str
) -> None:
    """`when_full: reject`."""
    async with House.open(nats_server, relay, max_bytes=MIB, release_laggards=False) as house:
        await laggard(house)
        await house.round()

        assert house.mark("slow") == Mark(1, 1)
        assert not house.accepts()


async def test_with_room_left_nobody_gives_up(nats_server: NatsServer, relay: str) -> None:
    """However far it is behind."""
    async with House.open(nats_server, relay) as house:
        await house.destination("quick")
        await house.destination("slow")
        await house.accept(50)
        await house.settle("quick")
        await house.round()

        assert house.mark("slow") == Mark(1, 1)


async def test_a_back_fill_gives_way_like_a_live_reader(nats_server: NatsServer, relay: str) -> None:
    """It is owed, too; it gives up nothing beyond its own end, and one destination two ranges at most."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await house.destination("quick")
        await house.accept(3)
        end = Mark(4, 3 * EVENTS + 1)
        await house.destination("new", kind=ReaderKind.BACKFILL, mark=Mark(1, 1), stop=end)
        await house.fill()
        await house.settle("quick")
        await house.round()

        live, back = house.mark("new"), house.mark("new", 2)
        assert back == end
        assert live.number > end.number
        assert house.accounts["new"].dead == live.number - 1
        letters = [entry async for entry in house.site.bucket.entries("dead")]
        assert {entry.key for entry in letters} == {"dead.new.1", f"dead.new.{end.number}"}


async def test_a_batch_half_delivered_is_given_up_from_where_it_was(
    nats_server: NatsServer, relay: str
) -> None:
    """Events that were delivered are not dead."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await laggard(house)

        await house.accounts.update(
            "slow",
            lambda account: account.with_reader(replace(account.readers[0], mark=Mark(1, 5, 4))),
        )
        await house.round()

        mark = house.mark("slow")
        assert mark == Mark(mark.seq, (mark.seq - 1) * EVENTS + 1)
        assert house.accounts["slow"].dead == mark.number - 5 > 0


async def test_whoever_holds_the_lease_gives_up_himself(nats_server: NatsServer, relay: str) -> None:
    """While he lives nobody else does; from the dead the lease is taken with the events."""
    async with House.open(nats_server, relay, max_bytes=MIB) as house:
        await laggard(house, lease="two")
        house.alive.add("two")
        await house.round()
        assert house.mark("slow") == Mark(1, 1)
        assert house.accounts["slow"].lease is not None

        house.alive.clear()
        await house.round()
        assert house.mark("slow") != Mark(1, 1)
        assert house.accounts["slow"].lease is None


async def test_replicas_that_release_at_the_same_moment_count_once(
    nats_server: NatsServer, relay: str
) -> None:
    """Each comes to the same conclusion; the books hold it once."""
    clock = FakeClock(NOW)
    async with (
        House.open(nats_server, relay, clock=clock, max_bytes=MIB) as one,
        House.open(nats_server, relay, "two", clock=clock, max_bytes=MIB) as two,
    ):
        await laggard(one)
        await two.knows("quick", one.mark("quick"))
        await until(lambda: two.log.ledger.seq == one.log.ledger.seq, LIMIT, "the other one following")
        rounds = [one.round(janitor=False), two.round(janitor=False)]
        await asyncio.gather(*rounds, return_exceptions=True)  # one of them may find the note of the other
        await until(lambda: one.mark("slow") != Mark(1, 1), LIMIT, "something being given up")

        account = one.accounts["slow"]
        assert account.dead == one.mark("slow").number - 1
        letters = [entry async for entry in one.site.bucket.entries("dead")]
        assert len(letters) == 1
