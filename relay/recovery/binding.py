"""What a webhook is bound to at the moment: its destination, wherever it was set.

Owns the joining of the three answers that only together tell it: version 3 knows the destination's id,
version 2 the endpoint of a webhook that has no destination, and the destinations' own list the rest.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from relay.recovery.answers import DestinationInfo, Scope
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectNotFound


@dataclass(frozen=True, slots=True)
class Binding:
    """A webhook as it is set."""

    destination_id: str | None
    destination: DestinationInfo | None  # None also where the id leads nowhere
    endpoint: str | None
    enabled: bool

    @property
    def in_use(self) -> bool:
        """Whether somebody has set it, enabled or not."""
        return self.destination_id is not None or self.endpoint is not None


async def binding(api: KonnectApi, scope: Scope) -> Binding:
    """Raises `KonnectError`."""
    webhook = await api.webhook(scope)
    destination = None
    if webhook.destination_id is not None:
        with suppress(KonnectNotFound):
            destination = await api.destination(webhook.destination_id)
    endpoint = None if destination is None else destination.endpoint
    if endpoint is None and scope.portal is None:
        with suppress(KonnectNotFound):  # version 2 may go away one day
            endpoint = (await api.inline_webhook()).endpoint
    return Binding(webhook.destination_id, destination, endpoint, webhook.enabled)


def shown(endpoint: str | None) -> str:
    """An endpoint as it may be printed: for some receivers the query holds the key."""
    if endpoint is None:
        return "an unknown endpoint"
    try:
        parts = urlsplit(endpoint)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # whoever set it was not us
        return "an endpoint that is no URL"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}{'?…' if parts.query else ''}"
