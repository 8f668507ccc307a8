"""What the relay says of its recovery while it is at it."""

from __future__ import annotations

from relay.model import Recovering
from tests.contract.recovery.running import Running
from tests.contract.recovery.scenes import MINUTE, some
from tests.fakes.konnect import Fault, Maker


async def test_a_gap_that_is_being_fetched_is_told_from_one_that_waits(
    running: Running, maker: Maker
) -> None:
    """Whoever is woken at night wants to know which of the two it is."""

    def doing() -> Recovering:
        found = running.relay._describe().recovering
        return Recovering(None, "nothing yet") if found is None else found

    await some(running, maker)
    await running.through(MINUTE)
    running.konnect.faults.add(Fault("PUT", "*/audit-log-replay-job", status=500, times=1))
    running.konnect.replays.pace = None
    now = running.clock.now()
    await running.queue.open_gap("konnect", now - 60, now - 30, "429", refusals=1)

    await running.until(lambda: "500" in doing().detail, "the call that fails")
    assert not doing().at_work
    await running.until(lambda: doing().at_work, "a replay job")
    assert "replaying" in doing().detail
