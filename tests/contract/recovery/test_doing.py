"""What the relay says of its recovery while it is at it."""

from __future__ import annotations

from pathlib import Path

from relay.model import Recovering
from tests.contract.recovery.running import AUTHORIZATION, Running
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import FakeKonnect, Fault
from tests.fakes.siem import Siem


async def test_a_gap_that_is_being_fetched_is_told_from_one_that_waits(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect
) -> None:
    """Whoever is woken at night wants to know which of the two it is."""

    def doing() -> Recovering:
        found = running.relay._describe().recovering
        return Recovering(None, "nothing yet") if found is None else found

    async with Siem() as siem, Running(tmp_path, clock, konnect, siem) as running:
        konnect.organisation.bind(f"http://127.0.0.1:{running.port}/audit-logs/konnect", AUTHORIZATION)
        await running.queue.open_gap("konnect", clock.now() - 60, clock.now() - 30, "429", refusals=1)
        konnect.faults.add(Fault("PUT", "*/audit-log-replay-job", status=500, times=1))
        konnect.replays.pace = None
        await running.until(lambda: "500" in doing().detail, "the call that fails")
        waits = doing()
        await running.until(lambda: doing().at_work, "a replay job")

        assert (waits.at_work, "replaying" in doing().detail) == (False, True)
