"""What the relay says of its recovery while it is at it."""

from __future__ import annotations

from pathlib import Path

from relay.model import Recovering
from tests.contract.recovery.running import AUTHORIZATION, Running
from tests.contract.recovery.scenes import HOUR
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import FakeKonnect, Fault, Place
from tests.fakes.siem import Siem

PLACE = Place()


async def test_a_gap_that_is_being_fetched_is_told_from_one_that_waits(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect
) -> None:
    """Whoever is woken at night wants to know which of the two it is."""

    def doing() -> Recovering:
        found = running.relay._describe().recovering
        return Recovering(None, "nothing yet") if found is None else found

    async with Siem() as siem, Running(tmp_path, clock, konnect, siem) as running:
        konnect.organisation.bind(f"http://127.0.0.1:{running.port}/audit-logs/konnect", AUTHORIZATION)
        konnect.organisation.webhook(PLACE).enabled = False
        await running.queue.open_gap("konnect", clock.now() - 60, clock.now() - 30, "429", refusals=1)
        konnect.faults.add(Fault("GET", "*/audit-logs", status=403, times=-1))
        await running.until(lambda: "403" in doing().detail, "the pull being refused")
        waits = doing()
        konnect.organisation.webhook(PLACE).enabled = True
        konnect.replays.pace = None
        clock.jump(HOUR)  # what Konnect has refused is not tried before
        await running.until(lambda: doing().at_work, "a replay job")

        assert (waits.at_work, "replaying" in doing().detail) == (False, True)
