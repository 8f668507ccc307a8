"""Taking back what a set-up made: the webhook away from the relay, the destination out of Konnect.

Owns the order: off, unset, delete. Never touches a webhook that is bound to something else, never asks and
never prints.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from relay.clock import Clock
from relay.recovery.answers import DestinationInfo, Scope
from relay.recovery.api import KonnectApi
from relay.recovery.binding import shown
from relay.recovery.errors import KonnectNotFound
from relay.recovery.removal import delete_patiently
from relay.recovery.setup import SetupRefused


@dataclass(frozen=True, slots=True)
class Removal:
    """What a teardown is going to undo."""

    scope: Scope
    destination: DestinationInfo
    bound: bool  # the scope's webhook is bound to this destination
    enabled: bool

    def steps(self) -> tuple[str, ...]:
        """For people, in order."""
        webhook = [f"switch off and unset the webhook of {self.scope}"] if self.bound else []
        where = shown(self.destination.endpoint)
        return (*webhook, f"delete the destination {self.destination.name}, which sends to {where}")


async def plan_removal(api: KonnectApi, scope: Scope, *, name: str) -> Removal:
    """Raises `SetupRefused` where there is no such destination, and `KonnectError`."""
    found = await api.destinations(name=name)
    if not found:
        raise SetupRefused(f"Konnect has no destination called {name}; `konnect status` shows what is set.")
    webhook = await api.webhook(scope)
    return Removal(scope, found[0], webhook.destination_id == found[0].id, webhook.enabled)


async def remove(api: KonnectApi, wanted: Removal, clock: Clock) -> None:
    """Switch off, unset, delete. What is gone already is no error. Raises `KonnectError`."""
    if wanted.bound:
        if wanted.enabled:
            # First off, then unset: whatever Konnect does with a batch in between, it does not send it.
            await api.set_webhook(wanted.scope, wanted.destination.id, enabled=False)
        with suppress(KonnectNotFound):
            await api.unset_webhook(wanted.scope)
    await delete_patiently(api, wanted.destination.id, clock)
