"""The cluster under fire: whatever breaks under load, what was answered 200 arrives, and the books are true."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.cluster import running
from tests.e2e.support import books


async def test_a_relay_that_delivers_is_killed(tmp_path: Path) -> None:
    """The other one takes over; only what was not stored as delivered comes again."""
    async with running(tmp_path) as site:
        async with site.konnect.sending():
            await site.steady()
            victim = (await site.holders())["splunk"]
            fault = site.konnect.now()
            await victim.kill()
            booked = {
                each.name: (await books(site.other(victim), each.name)).delivered for each in site.receivers
            }
            seconds = await site.flowing_again(fault)
            await victim.start()
            await site.calm()
        await site.check(fault)
        for receiver in site.receivers:
            repeated = receiver.repeated().values()
            again = min((times[1] for times in repeated), default=0.0)
            before = sum(times[0] < again for times in receiver.times.values())
            assert len(repeated) <= max(0, before - booked[receiver.name])
        assert not site.konnect.given_up
        site.report("SIGKILL of a relay that delivers", **seconds)
