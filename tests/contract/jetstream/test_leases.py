"""Who delivers: several replicas take, hand over and lose leases on one state bucket."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from random import Random

import pytest

from relay.queue.jetstream.record import LeaseLost, LeaseRecord
from tests.contract.jetstream.replicas import LIMIT, Node, Replicas, Worker, account
from tests.fakes.process import until

# -- one at a time ---------------------------------------------------------------------------


async def test_a_free_destination_is_prepared_and_handed_out(replicas: Replicas) -> None:
    """The lease is in the account before anything is made ready."""
    [one] = await replicas.add("one")
    await replicas.destinations("splunk")

    async def already_ours() -> None:
        assert one.accounts["splunk"].lease == LeaseRecord("one", 1)
        one.leases.fence(one.accounts["splunk"])

    one.before_handing_out = already_ours
    await one.work("splunk").delivering()

    assert one.prepared == ["splunk"]
    assert one.logged("lease.taken")[0]["destination"] == "splunk"


async def test_a_lease_given_back_is_taken_by_the_next_one_at_once(replicas: Replicas) -> None:
    """A replica that ends stores what it counted, and nobody waits for time to pass."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    await one.work("splunk").delivering()
    other = two.work("splunk")
    await replicas.pass_(2)
    assert not other.is_delivering

    now = replicas.clock.monotonic()
    await one.end()
    await other.delivering()

    assert one.settled == ["splunk"]
    assert two.accounts["splunk"].lease == LeaseRecord("two", 2)
    assert replicas.clock.monotonic() == now


async def test_a_dead_holder_is_replaced_when_its_lease_has_run_out(replicas: Replicas) -> None:
    """Five seconds of silence, the rest of a second, and not much more."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    await one.work("splunk").delivering()
    other = two.work("splunk")
    await replicas.pass_(20)

    await one.die()
    died = replicas.clock.monotonic()
    await replicas.pass_(7)
    await other.delivering()

    assert 4 <= replicas.when("two", "splunk", "began") - died <= 6.5
    assert two.logged("lease.taken")[0]["instead_of"] == "one"


async def test_a_replica_that_is_cut_off_stops_before_another_one_begins(replicas: Replicas) -> None:
    """The holder cannot know what the others think of it, so it gives up first."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    await one.work("splunk").delivering()
    other = two.work("splunk")
    await replicas.pass_(20)

    await one.cut_off()
    await replicas.pass_(8)
    await other.delivering()
    assert replicas.when("one", "splunk", "ended") < replicas.when("two", "splunk", "began")
    assert "our heartbeats fail" in str(one.logged("lease.lost")[0]["detail"])

    await one.come_back()
    await replicas.pass_(3)
    assert other.is_delivering
    assert two.accounts["splunk"].lease == LeaseRecord("two", 2)


async def test_a_replica_cut_off_for_a_moment_goes_on(replicas: Replicas) -> None:
    """A connection that is back within two seconds costs no lease."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    await one.work("splunk").delivering()
    two.work("splunk")
    await replicas.pass_(20)

    await one.cut_off()
    await replicas.pass_(1)
    await one.come_back()
    await replicas.pass_(8)

    assert one.workers["splunk"].is_delivering
    assert one.accounts["splunk"].lease == LeaseRecord("one", 1)


async def test_a_replica_that_distrusted_itself_takes_its_own_lease_anew(replicas: Replicas) -> None:
    """Nobody else was there to take it: back again, it need not wait for its own death."""
    [one] = await replicas.add("one")
    await replicas.destinations("splunk")
    worker = one.work("splunk")
    await worker.delivering()
    await replicas.pass_(20)

    await one.cut_off()
    await replicas.pass_(10)
    await worker.idle()
    await one.come_back()
    await worker.delivering()

    assert one.accounts["splunk"].lease == LeaseRecord("one", 2)


async def test_whoever_finds_another_name_in_the_account_stops_at_once(replicas: Replicas) -> None:
    """However it came about, by an operator with `nats kv put` for example."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    worker = one.work("splunk")
    await worker.delivering()
    lease = worker.lease
    assert lease is not None

    await two.accounts.update("splunk", lambda known: replace(known, lease=LeaseRecord("two", 7), epoch=7))
    await until(lease.lost.is_set, LIMIT)

    with pytest.raises(LeaseLost):
        one.leases.fence(account("splunk", 1, LeaseRecord("two", 7)))
    # In two's name and wanted by nobody there: given back, and taken again by one.
    await until(lambda: one.accounts["splunk"].lease == LeaseRecord("one", 8), LIMIT)
    await worker.delivering()
    assert worker.lease is not lease
    assert one.settled == ["splunk"]  # to let go; the fence kept it from storing anything
    assert one.logged("lease.unsettled") == []


async def test_a_holder_whose_heartbeats_are_still_on_their_way_is_not_dead(replicas: Replicas) -> None:
    """The account may be read before the watch has told that its holder exists."""
    [one] = await replicas.add("one")
    await replicas.destinations("splunk")
    await replicas.pass_(6)
    one.watching.cancel()
    [two] = await replicas.add("two")
    worker = two.work("splunk")
    await worker.delivering()

    other = one.work("splunk")  # knows the account as it was, and is refused by the server
    await until(lambda: one.accounts["splunk"].lease == LeaseRecord("two", 1), LIMIT)
    one.watching = asyncio.create_task(one.watch())
    await replicas.pass_(6)

    assert worker.is_delivering
    assert not other.is_delivering


async def test_a_destination_forgotten_meanwhile_is_nobodys(replicas: Replicas) -> None:
    """Its holder stops; made again, it is taken again."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    worker = one.work("splunk")
    await worker.delivering()

    await two.accounts.remove("splunk")
    await worker.idle()
    await replicas.pass_(2)
    assert not worker.is_delivering

    async with asyncio.timeout(LIMIT):
        await two.accounts.create("splunk", partial(account, "splunk"))
    await worker.delivering()
    assert one.accounts["splunk"].lease == LeaseRecord("one", 1)


async def test_of_many_that_want_it_one_gets_it(replicas: Replicas) -> None:
    """Conditional writes decide a race, and the epoch grows by one."""
    nodes = await replicas.add("one", "two", "three")
    names = [f"d{number}" for number in range(8)]
    await replicas.destinations(*names)

    for name in names:
        for node in nodes:
            node.work(name)
    await until(lambda: sum(replicas.shares()) == 8, LIMIT)

    assert {replicas.record(name).epoch for name in names} == {1}  # type: ignore[union-attr] # all are held


# -- what goes wrong on the way --------------------------------------------------------------


async def test_what_cannot_be_prepared_is_given_back_and_tried_again(replicas: Replicas) -> None:
    """Another replica may have more luck meanwhile, and nobody tries without a pause."""
    [one] = await replicas.add("one")
    await replicas.destinations("splunk")
    one.refuse = {"splunk"}
    worker = one.work("splunk")
    await until(lambda: one.settled == ["splunk"], LIMIT)
    await until(lambda: replicas.record("splunk") is None, LIMIT)
    assert one.prepared == ["splunk"]

    one.refuse.clear()
    await replicas.pass_(2)
    await worker.delivering()

    assert one.prepared == ["splunk", "splunk"]
    assert one.accounts["splunk"].lease == LeaseRecord("one", 2)


async def test_a_lease_that_is_lost_while_preparing_is_not_handed_out(replicas: Replicas) -> None:
    """Preparing may hang for longer than the others wait."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    started, go_on = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        started.set()
        await go_on.wait()

    one.before_handing_out = hang
    one.work("splunk")
    async with asyncio.timeout(LIMIT):
        await started.wait()
    await replicas.pass_(6)
    await one.cut_off()
    other = two.work("splunk")
    await replicas.pass_(7)
    await other.delivering()

    await one.come_back()
    go_on.set()
    await replicas.pass_(3)

    assert [entry for entry in replicas.story if entry[1] == "one"] == []
    assert other.is_delivering


async def test_whoever_stops_waiting_gets_nothing(replicas: Replicas) -> None:
    """A worker that is stopped while it waits does not keep others from the destination."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk", "sumo")
    await one.work("splunk").delivering()
    waiting = two.work("splunk")
    await replicas.pass_(2)
    assert one.members.wanting("splunk") == ["two"]

    await waiting.stop()
    await replicas.pass_(2)
    await one.end()
    await replicas.pass_(2)

    assert two.accounts["splunk"].lease is None
    assert two.prepared == []


async def test_a_lease_whose_taker_was_stopped_meanwhile_is_given_back(replicas: Replicas) -> None:
    """Stopped between the taking and the handing out, nobody here has it."""
    [one] = await replicas.add("one")
    await replicas.destinations("splunk")
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    one.before_handing_out = hang
    worker = one.work("splunk")
    async with asyncio.timeout(LIMIT):
        await started.wait()
    assert one.accounts["splunk"].lease == LeaseRecord("one", 1)

    await worker.stop()
    await replicas.pass_(1)

    await until(lambda: replicas.record("splunk") is None, LIMIT)


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_lease_stored_without_an_acknowledgement_is_found(replicas: Replicas, wanted: bool) -> None:
    """A lease in our name that nobody here knows of is taken again by whoever waits, or given back."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    worker = one.work("splunk") if wanted else None
    if worker is not None:
        await worker.delivering()

    lost = LeaseRecord("one", 5)
    await two.accounts.update("splunk", lambda known: replace(known, lease=lost, epoch=5))
    await replicas.pass_(1)

    if worker is None:
        await until(lambda: replicas.record("splunk") is None, LIMIT)
    else:
        await until(lambda: replicas.record("splunk") == LeaseRecord("one", 6), LIMIT)
        await worker.delivering()


async def test_closing_gives_everything_back_and_takes_no_more(replicas: Replicas) -> None:
    """Also what its worker has not released yet."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk", "sumo")
    held = await one.leases.lease("splunk")
    waiting = one.work("sumo")
    await waiting.delivering()
    await waiting.stop()

    await one.leases.close()
    assert held.lost.is_set()
    assert sorted(one.settled) == ["splunk", "sumo"]
    assert one.accounts["splunk"].lease is None

    again = one.work("sumo")
    await replicas.pass_(2)
    assert not again.is_delivering
    await held.release()  # late, and harmless
    await two.work("splunk").delivering()


# -- sharing ---------------------------------------------------------------------------------


async def test_newcomers_get_their_share_one_by_one(replicas: Replicas) -> None:
    """Three destinations: two replicas have two and one, four have one each but for the last."""
    [one] = await replicas.add("one")
    names = ("splunk", "sumo", "elastic")
    await replicas.destinations(*names)
    work(one, names)
    await replicas.balanced(3)
    [two] = await replicas.add("two")
    work(two, names)

    await replicas.pass_(8)
    assert replicas.shares() == [0, 3]  # what was just taken is not handed on
    await replicas.pass_(5)
    await replicas.balanced(1, 2)

    for node in await replicas.add("three", "four"):
        work(node, names)
    await replicas.pass_(14)
    await replicas.balanced(0, 1, 1, 1)


async def test_who_has_a_fair_share_keeps_it(replicas: Replicas) -> None:
    """Once everything is shared out nothing moves any more."""
    names = [f"d{number}" for number in range(7)]
    nodes = await replicas.add("one", "two", "three")
    await replicas.destinations(*names)
    for node in nodes:
        work(node, names)
    await replicas.pass_(60)
    await replicas.balanced(2, 2, 3)

    before = list(replicas.story)
    await replicas.pass_(60)

    assert replicas.story == before


async def test_what_is_handed_over_is_settled_before(replicas: Replicas) -> None:
    """Nothing of what the old holder delivered is sent again by the new one."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk", "sumo")
    work(one, ("splunk", "sumo"))
    await replicas.balanced(0, 2)
    work(two, ("splunk", "sumo"))

    await replicas.pass_(14)
    await replicas.balanced(1, 1)

    assert len(one.settled) == 1
    assert one.logged("lease.unsettled") == []
    assert one.logged("lease.handed_over")[0]["replica"] == "two"
    assert one.logged("lease.lost") == []


async def test_a_holder_that_hands_over_may_end_what_it_began(replicas: Replicas) -> None:
    """One of its leases is wanted, and is its own until it is released."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk", "sumo")
    held = [await one.leases.lease(name) for name in ("splunk", "sumo")]
    work(two, ("splunk", "sumo"))

    await replicas.pass_(14)

    (wanted,) = [lease for lease in held if lease.wanted.is_set()]
    assert not wanted.lost.is_set()
    assert two.delivers_to() == set()
    await wanted.release()
    await replicas.pass_(1)
    await until(lambda: len(two.delivers_to()) == 1, LIMIT, "the other one taking it")


async def test_the_destinations_of_the_dead_go_to_those_with_fewest(replicas: Replicas) -> None:
    """Three replicas with two each become two with three each."""
    names = [f"d{number}" for number in range(6)]
    nodes = await replicas.add("one", "two", "three")
    await replicas.destinations(*names)
    for node in nodes:
        work(node, names)
    await replicas.pass_(40)
    await replicas.balanced(2, 2, 2)

    await nodes[1].die()
    await replicas.pass_(10)

    await replicas.balanced(3, 3)


async def test_only_who_wants_a_destination_counts(replicas: Replicas) -> None:
    """A replica with another configuration, or one that only accepts, is given nothing."""
    one, _, three = await replicas.add("one", "accepts-only", "three")
    await replicas.destinations("splunk", "sumo", "elastic")
    work(one, ("splunk", "sumo", "elastic"))
    await replicas.balanced(0, 0, 3)
    work(three, ("elastic",))

    await replicas.pass_(30)

    assert three.delivers_to() == {"elastic"}
    assert one.delivers_to() == {"splunk", "sumo"}


async def test_who_has_fewest_goes_first(replicas: Replicas) -> None:
    """Even where another replica sees first that a destination is free."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk")
    await one.work("splunk").delivering()
    one.work("sumo")
    worker = two.work("sumo")
    await replicas.pass_(2)

    await one.accounts.create("sumo", partial(account, "sumo"))
    await worker.delivering()

    assert "sumo" not in one.prepared


async def test_nobody_waits_for_ever_for_one_that_should_go_first(replicas: Replicas) -> None:
    """A replica with fewer destinations that cannot take one does not keep it from the others."""
    one, two = await replicas.add("one", "two")
    await replicas.destinations("splunk", "sumo")
    two.refuse = {"splunk", "sumo"}
    work(two, ("splunk", "sumo"))
    await until(lambda: len(two.settled) == 2, LIMIT)

    work(one, ("splunk", "sumo"))

    async def has_both() -> bool:
        await replicas.pass_(
            1
        )  # its patience begins when it has heard of the other one, which takes real time
        return one.delivers_to() == {"splunk", "sumo"}

    await until(has_both, LIMIT)


# -- everybody at once -----------------------------------------------------------------------


@pytest.mark.parametrize(("orderly", "seconds"), [(True, 2.0), (False, 7.0)])
async def test_all_replicas_may_be_started_anew(replicas: Replicas, orderly: bool, seconds: float) -> None:
    """Long before leases run out after an orderly end; after a crash when those of the dead have."""
    names = ("splunk", "sumo")
    before = await replicas.add("one", "two")
    await replicas.destinations(*names)
    for node in before:
        work(node, names)
    await until(lambda: sum(replicas.shares()) == 2, LIMIT)
    for node in before:
        await (node.end() if orderly else node.die())

    after = await replicas.add("three", "four")
    for node in after:
        work(node, names)
    await replicas.pass_(seconds)

    await until(lambda: sum(replicas.shares()) == 2, LIMIT)


class Fate:
    """Does one thing after another to replicas and their connections, by chance."""

    WAYS = ("pass", "pass", "pass", "start", "cut", "cut", "heal", "end", "die", "reload")

    def __init__(self, replicas: Replicas, names: tuple[str, ...], rng: Random) -> None:
        self._replicas = replicas
        self._names = names
        self._rng = rng

    async def start(self) -> None:
        [node] = await self._replicas.add(f"r{len(self._replicas.nodes)}")
        work(node, self._names)

    async def step(self) -> None:
        choose, alive = self._rng.choice, self._replicas.alive()
        connected = [node for node in alive if node.client.is_connected]
        apart = [node for node in alive if not node.client.is_connected]
        match choose(self.WAYS):
            case "pass":
                await self._replicas.pass_(choose((0.5, 1.5, 3.5, 5.5, 12)))
            case "start" if len(alive) < 4:
                await self.start()
            case "cut" if connected:
                await choose(connected).cut_off()
            case "heal" if apart:
                await choose(apart).come_back()
            case "end" if len(connected) > 1:
                await choose(connected).end()
            case "die" if len(alive) > 1:
                await choose(alive).die()
            case "reload" if connected:
                node, name = choose(connected), choose(self._names)
                await node.workers[name].stop()
                node.work(name)

    async def relent(self) -> None:
        for node in self._replicas.alive():
            if not node.client.is_connected:
                await node.come_back()


@pytest.mark.parametrize("seed", range(6))
async def test_never_do_two_replicas_deliver_to_one_destination(replicas: Replicas, seed: int) -> None:
    """Whatever happens, in any order, and `Replicas` watches.

    In the end, when all is calm, every destination is delivered to and shared out fairly.
    """
    names = ("splunk", "sumo", "elastic", "syslog")
    await replicas.add("first")
    await replicas.destinations(*names)
    work(replicas.nodes[0], names)
    fate = Fate(replicas, names, Random(seed))
    for _ in range(40):
        await fate.step()
    await fate.relent()

    async def fair() -> bool:
        await replicas.pass_(12)
        shares = replicas.shares()
        return sum(shares) == len(names) and shares[-1] - shares[0] <= 1

    # More than once round: an answer that was lost with its connection is waited for in real time.
    await until(fair, 2 * LIMIT)


# -- the janitor -----------------------------------------------------------------------------


async def test_there_is_one_janitor_and_another_one_when_it_is_dead(replicas: Replicas) -> None:
    """The first to ask has it until it falls silent."""
    one, two = await replicas.add("one", "two")
    assert await one.janitor.ours()
    assert not await two.janitor.ours()
    assert await one.janitor.ours()

    await one.die()
    await replicas.pass_(4)
    assert not await two.janitor.ours()
    await replicas.pass_(2)
    assert await two.janitor.ours()


async def test_of_several_that_ask_at_once_one_is_the_janitor(replicas: Replicas) -> None:
    """Nobody has it yet, and everybody wants it."""
    nodes = await replicas.add("one", "two", "three")

    answers = await asyncio.gather(*[node.janitor.ours() for node in nodes])

    assert sorted(answers) == [False, False, True]


async def test_who_distrusts_itself_is_no_janitor(replicas: Replicas) -> None:
    """Cut off, it stops before it is replaced."""
    [one] = await replicas.add("one")
    assert await one.janitor.ours()
    await one.cut_off()
    await replicas.pass_(3)

    assert not await one.janitor.ours()


async def test_a_janitor_that_ends_in_order_is_replaced_at_once(replicas: Replicas) -> None:
    """Its key stays, but everybody knows that it is gone."""
    one, two = await replicas.add("one", "two")
    await replicas.pass_(6)
    assert await one.janitor.ours()
    await one.end()
    await until(lambda: not two.members.is_alive("one"), LIMIT)

    assert await two.janitor.ours()


def work(node: Node, names: tuple[str, ...] | list[str]) -> list[Worker]:
    return [node.work(name) for name in names]
