"""Deleting a destination of Konnect's, with patience: it stays in use for a while after it was unset."""

from __future__ import annotations

from typing import Final

from relay.clock import Clock
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectConflict, KonnectNotFound

# As kongctl does it: from a quarter of a second, doubling to five, for a minute in all.
_FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 5.0
_PATIENCE: Final = 60.0


async def delete_patiently(api: KonnectApi, destination_id: str, clock: Clock) -> None:
    """Returns when the destination is gone, also where it was already. Raises `KonnectError`.

    `KonnectConflict`: it is still in use after a minute, probably by another webhook.
    """
    until, wait = clock.monotonic() + _PATIENCE, _FIRST_WAIT
    while True:
        try:
            await api.delete_destination(destination_id)
        except KonnectNotFound:
            return
        except KonnectConflict:
            if clock.monotonic() + wait > until:
                raise
        else:
            return
        await clock.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)
