"""When replicas that live by a clock of the test's have heard each other."""

from __future__ import annotations

from collections.abc import Iterable

from relay.clock import Clock
from relay.queue.jetstream.members import BEAT_SECONDS, Members


async def all_heard(replicas: Iterable[Members], clock: Clock) -> bool:
    """Whether the last heartbeat of each has come back, and with it all that was stored before it.

    A busy machine may not answer a heartbeat within its second. While the clock stands there is no next one,
    so it is sent again here.
    """
    present = list(replicas)
    for members in present:
        if members.failing:
            await members.beat()
    recent = clock.monotonic() - BEAT_SECONDS
    return all(members._heard > recent and members.trusted() for members in present)
