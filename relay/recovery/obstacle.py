"""What keeps a replay from getting here, as far as Konnect tells beforehand.

Owns the questions and the sentences. Whether it matters is for whoever wants the replay.
"""

from __future__ import annotations

from collections.abc import Callable

from relay.recovery.answers import Scope, WebhookState
from relay.recovery.api import KonnectApi
from relay.recovery.binding import binding, shown
from relay.recovery.errors import KonnectForbidden, KonnectNotFound


async def obstacle(api: KonnectApi, scope: Scope, *, leads_here: Callable[[str | None], bool]) -> str | None:
    """A sentence; None where nothing speaks against it, or the token may not look. Raises `KonnectError`."""
    whose = f"The webhook of {scope}"
    try:
        bound = await binding(api, scope)
        status = await api.webhook_status(scope)
    except (KonnectForbidden, KonnectNotFound):
        return None  # the replay job itself will tell
    if not bound.in_use:
        return f"{whose} is not set."
    if not bound.enabled:
        return f"{whose} is switched off."
    if not leads_here(bound.endpoint):
        return f"{whose} sends to {shown(bound.endpoint)}, which is not this relay as it is configured here."
    if status.state is WebhookState.INACTIVE:
        return f"{whose} is inactive: Konnect has given up on a batch and sends nothing."
    return None
