"""Pointing a webhook of Konnect's at the relay.

Owns the order of the steps and what is undone when one of them fails. Two halves: a plan that only reads, to
be shown to somebody, and carrying it out. Never asks anybody, never prints.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from relay.clock import Clock
from relay.config.secret import Secret
from relay.errors import RelayError
from relay.recovery.answers import DestinationInfo, Scope, WebhookState
from relay.recovery.api import KonnectApi
from relay.recovery.binding import Binding, binding, same_endpoint, shown
from relay.recovery.errors import KonnectError, KonnectUnavailable
from relay.recovery.removal import delete_patiently


class SetupRefused(RelayError):
    """Nothing was changed in Konnect."""


class SetupFailed(RelayError):
    """The set-up did not come to its end."""

    def __init__(self, message: str, *, undone: bool = True) -> None:
        super().__init__(message)
        self.undone = undone  # False: something of it may be left in Konnect


@dataclass(frozen=True, slots=True)
class Plan:
    """What a set-up is going to write."""

    scope: Scope
    name: str
    endpoint: str
    log_format: str
    before: Binding
    existing: DestinationInfo | None = None  # bound here already: there is only the switch to set

    def steps(self) -> tuple[str, ...]:
        """For people, in order."""
        if self.existing is not None:
            return (f"enable the webhook of {self.scope}, which is bound to {self.existing.name} already",)
        taken = (
            f"take over the webhook of {self.scope}, which sends to {shown(self.before.endpoint)} now"
            if self.before.in_use
            else f"bind the webhook of {self.scope} to it and enable it"
        )
        return (
            f"create the destination {self.name}: {self.log_format} to {shown(self.endpoint)}",
            taken,
        )


async def plan(
    api: KonnectApi, scope: Scope, *, name: str, endpoint: str, log_format: str, take_over: bool
) -> Plan:
    """Look at what there is. Raises `SetupRefused` where it is in the way, and `KonnectError`."""
    before = await binding(api, scope)
    if before.in_use and same_endpoint(before.endpoint, endpoint):
        state = (await api.webhook_status(scope)).state
        if before.destination is not None and not (before.enabled and state is WebhookState.ACTIVE):
            name, log_format = before.destination.name, before.destination.log_format
            return Plan(scope, name, endpoint, log_format, before, before.destination)
        raise SetupRefused(
            f"The webhook of {scope} sends to {shown(endpoint)} already."
            " `konnect rotate` gives it a new authorization, `konnect doctor` tells how it is doing."
        )
    if before.in_use and not take_over:
        raise SetupRefused(
            f"The webhook of {scope} is in use: it sends to {shown(before.endpoint)}."
            " There is only one; --take-over points it here, and that receiver gets nothing any more."
        )
    if await api.destinations(name=name):
        raise SetupRefused(
            f"Konnect has a destination called {name} already; give another --name,"
            " or remove that one with `konnect teardown`."
        )
    return Plan(scope, name, endpoint, log_format, before)


async def carry_out(api: KonnectApi, wanted: Plan, authorization: Secret, clock: Clock) -> DestinationInfo:
    """Create the destination and enable the webhook with it.

    Raises `SetupFailed`; what was made by then is undone, or the message says what is left. Where the webhook
    is bound here already *authorization* is not used.
    """
    if wanted.existing is not None:
        await api.set_webhook(wanted.scope, wanted.existing.id, enabled=True)
        return wanted.existing
    try:
        made = await api.create_destination(
            wanted.name, wanted.endpoint, authorization, log_format=wanted.log_format
        )
    except (KonnectError, asyncio.CancelledError) as error:
        raise await _without_destination(api, wanted, _told(error), clock) from error
    try:
        await api.set_webhook(wanted.scope, made.id, enabled=True)
    except (KonnectError, asyncio.CancelledError) as error:
        raise await _without_webhook(api, wanted, made, _told(error), clock) from error
    return made


def _told(error: KonnectError | asyncio.CancelledError) -> KonnectError:
    """Somebody who presses Ctrl-C wants no half of it either, and is told what became of it."""
    return error if isinstance(error, KonnectError) else KonnectUnavailable("The set-up was interrupted.")


async def _without_destination(
    api: KonnectApi, wanted: Plan, error: KonnectError, clock: Clock
) -> SetupFailed:
    """After a lost answer the destination may exist all the same."""
    if not isinstance(error, KonnectUnavailable):
        return SetupFailed(f"{error} Nothing was changed.")
    try:
        for found in await api.destinations(name=wanted.name):
            if found.endpoint == wanted.endpoint:
                await delete_patiently(api, found.id, clock)
    except KonnectError:
        return SetupFailed(
            f"{error} Whether the destination {wanted.name} was created is not known;"
            f" `konnect teardown --name {wanted.name}` removes it.",
            undone=False,
        )
    return SetupFailed(f"{error} Nothing was changed.")


async def _without_webhook(
    api: KonnectApi, wanted: Plan, made: DestinationInfo, error: KonnectError, clock: Clock
) -> SetupFailed:
    """The answer may have been lost after the change, so look before anything is put back."""
    lost = ""
    try:
        now = await api.webhook(wanted.scope)
        if now.destination_id == made.id:
            lost = await _put_back(api, wanted)
        await delete_patiently(api, made.id, clock)
    except KonnectError as second:
        return SetupFailed(
            f"{error} Undoing failed as well ({second}) The destination {wanted.name} ({made.id}) is left in"
            f" Konnect; `konnect teardown --name {wanted.name}` removes it.",
            undone=False,
        )
    return SetupFailed(f"{error} {lost or 'Everything is as it was before.'}")


async def _put_back(api: KonnectApi, wanted: Plan) -> str:
    """What could not be put back, in a sentence."""
    before = wanted.before
    if before.destination_id is not None:
        await api.set_webhook(wanted.scope, before.destination_id, enabled=before.enabled)
        return ""
    await api.unset_webhook(wanted.scope)
    if before.endpoint is None:
        return ""
    # Set by version 2 it had no destination, and Konnect never tells an authorization.
    return f"The webhook is unset now; {shown(before.endpoint)} has to be set again by hand."
