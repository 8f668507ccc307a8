"""What a webhook is bound to at the moment: its destination, wherever it was set.

Owns the joining of the three answers that only together tell it: version 3 knows the destination's id,
version 2 the endpoint of a webhook that has no destination, and the destinations' own list the rest. Owns as
well what counts as an endpoint of this relay.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from relay.recovery.answers import DestinationInfo, Scope
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectNotFound

_PATH: Final = "/audit-logs"  # the intake's


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


def is_whole(base: str) -> bool:
    """Whether a configured URL says the path as well, not only the host."""
    parts = urlsplit(base)
    return bool(parts.path.strip("/") or parts.query)


def endpoint_of(base: str, source: str) -> str:
    """Where Konnect should send a source's events. *base* is where it reaches this relay."""
    return base if is_whole(base) else f"{base.rstrip('/')}{_PATH}/{source}"


def is_ours(endpoint: str | None, source: str, *, base: str | None, alone: bool) -> bool:
    """Whether what is sent there comes in here, at *source*; *alone*: there is no other source.

    Where nobody has said how Konnect reaches this relay (*base*), the path has to do. A *base* with a path is
    that of one source; for the others the host counts, and the path as above.
    """
    if endpoint is None:
        return False
    if base is not None and endpoint == endpoint_of(base, source):
        return True
    try:
        parts = urlsplit(endpoint)
    except ValueError:  # whoever set it was not us
        return False
    if base is not None and (parts.scheme, parts.netloc) != urlsplit(base)[:2]:
        return False
    if base is not None and not is_whole(base):
        return alone and parts.path == _PATH
    return parts.path.endswith(f"{_PATH}/{source}") or (alone and parts.path.endswith(_PATH))


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
