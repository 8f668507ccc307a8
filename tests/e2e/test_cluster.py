"""The cluster under fire: whatever breaks under load, what was answered 200 arrives and is booked.

`pytest -s` prints how long it took until events flowed again, and what came twice.
"""

from __future__ import annotations

import signal
from pathlib import Path

from tests.e2e.cluster import LIMIT, LOG, running
from tests.e2e.konnect import Moment
from tests.e2e.support import books
from tests.fakes.process import until


async def test_a_relay_that_delivers_is_killed(tmp_path: Path) -> None:
    """The other one takes over; only what was not stored as delivered comes again."""
    async with running(tmp_path) as site:
        async with site.konnect.sending():
            await site.steady()
            victim = (await site.holders())["splunk"]
            fault = site.konnect.now()
            await victim.kill()
            survivor = site.other(victim)
            booked = {each.name: (await books(survivor, each.name)).delivered for each in site.receivers}
            seconds = await site.flowing_again(fault)
            await victim.start()
        await site.check(fault)
        for receiver in site.receivers:
            again = min((times[1] for times in receiver.repeated().values()), default=0.0)
            before = sum(times[0] < again for times in receiver.times.values())
            assert len(receiver.repeated()) <= max(0, before - booked[receiver.name])
        assert not site.konnect.given_up
        site.report("SIGKILL of a relay that delivers", **seconds)


async def test_a_relay_hangs_and_wakes_up(tmp_path: Path) -> None:
    """What it does when it has been replaced changes no book; it goes on as one that has nothing to say."""
    async with running(tmp_path) as site:
        async with site.konnect.sending():
            await site.steady()
            hung = (await site.holders())["splunk"]
            fault = site.konnect.now()
            hung.signal(signal.SIGSTOP)
            hung.up.clear()
            seconds = await site.flowing_again(fault)
            # Then batches that it has in its hands were stored by the other one.
            await until(lambda: site.konnect.sent_elsewhere() > 20, LIMIT, "requests sent to the other one")
            hung.signal(signal.SIGCONT)
            await hung.ready()
            await site.flowing_again(site.konnect.now())
        await site.check(fault)
        assert [each for each in hung.log_records() if each["event"] == "lease.lost"]
        assert not site.konnect.given_up
        site.report("SIGSTOP of a relay that delivers, and SIGCONT when it has been replaced", **seconds)


async def test_relays_are_updated_one_after_the_other(tmp_path: Path) -> None:
    """No request finds both relays away, nothing comes twice, and leases are handed over, not waited for."""
    async with running(tmp_path) as site:
        async with site.konnect.sending():
            await site.steady()
            begun = site.konnect.now()
            for relay in site.relays:
                assert await relay.stop() == 0
                await site.flowing_again(site.konnect.now())
                await relay.start()
                await site.calm()
            seconds = site.pauses(begun)
        await site.check()
        assert max(len(batch.answers) for batch in site.konnect.batches) <= 2
        for relay in site.relays:
            records = relay.log_records()
            assert not [each for each in records if each["event"] in ("replica.silent", "lease.lost")]
            taken = [each for each in records if each["event"] == "lease.taken"]
            assert not [each for each in taken if "instead_of" in each]
        site.report("SIGTERM of one relay after the other; longest pauses", **seconds)


async def test_the_leader_of_the_log_is_killed(tmp_path: Path) -> None:
    """Another server is elected while requests wait; the old leader catches up when it is back."""
    async with running(tmp_path) as site:
        async with site.konnect.sending():
            await site.steady()
            leader = await site.nats.leader_of(LOG)
            fault = site.konnect.now()
            await leader.kill()
            seconds = await site.flowing_again(fault)
            await leader.start()
            await site.in_step()
        await site.check(fault)
        assert not site.konnect.given_up
        site.report("SIGKILL of the NATS server that leads the log", **seconds)


async def test_all_servers_are_restarted_one_after_the_other(tmp_path: Path) -> None:
    """As an update of NATS does it: the next one when the last one has everything."""
    async with running(tmp_path) as site:
        faults: list[Moment] = []
        async with site.konnect.sending():
            await site.steady()
            for server in site.nats:
                faults.append(site.konnect.now())
                await server.stop()
                await site.flowing_again(site.konnect.now())
                await server.start()
                await site.in_step()
            seconds = site.pauses(faults[0])
        await site.check(*faults)
        assert not site.konnect.given_up
        site.report("Restart of every NATS server, one after the other; longest pauses", **seconds)


async def test_the_leader_is_cut_off_with_one_of_the_relays(tmp_path: Path) -> None:
    """The other two servers and the other relay do everything until the network is mended."""
    async with running(tmp_path, partitions=True) as site:
        async with site.konnect.sending():
            await site.steady()
            alone = await site.lead_from(0)
            fault = site.konnect.now()
            site.nats.isolate(alone)
            await site.nats.leader_of(LOG, other_than=alone)
            seconds = await site.flowing_again(fault)
            site.nats.heal()
            for relay in site.relays:
                await relay.ready()
            await site.flowing_again(site.konnect.now())
        await site.check(fault)
        assert not site.konnect.given_up
        site.report("Partition of the leader, with a relay on its side", **seconds)


async def test_a_server_is_cut_off_with_every_relay(tmp_path: Path) -> None:
    """Nobody is left on the side that has the quorum: the relays go there before the network is mended."""
    async with running(tmp_path, partitions=True, together=True) as site:
        async with site.konnect.sending():
            await site.steady()
            fault = site.konnect.now()
            site.nats.isolate(site.nats.servers[0])
            seconds = await site.flowing_again(fault)
            for relay in site.relays:
                await relay.ready()
            site.nats.heal()
            await site.flowing_again(site.konnect.now())
        await site.check(fault)
        for relay in site.relays:
            assert [each for each in relay.log_records() if each["event"] == "queue.server_left"]
        site.report("Partition of a server, with all relays on its side", **seconds)


async def test_the_stream_is_full_while_a_siem_is_down(tmp_path: Path) -> None:
    """New events are refused and nothing that was accepted is dropped; with room it goes on by itself."""
    async with running(tmp_path, max_bytes="4MiB", when_full="reject") as site:
        well, sick = site.receivers
        async with site.konnect.sending():
            await site.steady()
            fault = site.konnect.now()
            sick.down = True
            await until(lambda: site.konnect.refusals()[429] > 100, LIMIT, "a full queue")
            accepted = set(site.konnect.owed)
            await until(lambda: well.times.keys() >= accepted, LIMIT, "everything at the other SIEM")
            assert not sick.times.keys() >= accepted
            back = site.konnect.now()
            sick.down = False
            seconds = await site.flowing_again(back)
        await site.check(fault)
        assert site.konnect.refusals().keys() == {429}
        site.report("A full stream; counted from the return of the SIEM", **seconds)
