"""How a webhook is, by Konnect's own word, and switching on one that Konnect has given up on.

Owns the calls, the log lines about them, and since when a failing webhook's events may be missing. When it is
time for either is decided by `plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from relay.clock import Clock
from relay.observe.logs import Log
from relay.queue.base import Queue
from relay.recovery.answers import ORGANISATION, WebhookState, WebhookStatus
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectForbidden, KonnectNotFound
from relay.recovery.plan import INACTIVE, RETENTION, Hook, Target


class Echo(Protocol):
    """Who wants to know of our own calls, which Konnect writes into the log we receive."""

    def called(self, source: str) -> None: ...


class Webhooks:
    """Of one region. *complain* logs a trouble, once as long as it is the same."""

    def __init__(
        self,
        api: KonnectApi,
        queue: Queue,
        complain: Callable[[str], None],
        *,
        clock: Clock,
        log: Log,
        echo: Echo | None,
    ) -> None:
        self._api = api
        self._queue = queue
        self._complain = complain
        self._clock = clock
        self._log = log
        self._echo = echo

    async def poll(self, target: Target, before: Hook | None) -> Hook:
        """Ask how it is; a failing one opens a gap or widens it. Raises `KonnectError`."""
        status = await self._status(target)
        now = self._clock.now()
        hook = Hook(now, status, before.mended_at if before else None)
        if not hook.is_failing:
            well = status is not None and status.state is WebhookState.ACTIVE
            return replace(hook, mended_at=None) if well else hook  # an incident is over
        if before is None or not before.is_failing:
            self._log.warning(
                "webhook.inactive",
                source=target.source,
                webhook=str(target.scope),
                by_hand=hook.off_by_hand,
                last_response_code=status.last_response_code if status else None,
                last_response_message=status.last_response_message if status else None,
            )
        since = self._failing_since(target, before, hook)
        await self._queue.open_gap(target.source, since, now, INACTIVE, refusals=0)
        return hook

    async def mend(self, target: Target, hook: Hook) -> Hook:
        """Switch it on. Raises `KonnectError`."""
        webhook = await self._api.webhook(target.scope)
        if webhook.destination_id is None:
            self._complain(f"{target.scope} has a webhook that only its owner can switch on (version 2)")
        else:
            await self._api.set_webhook(target.scope, webhook.destination_id, enabled=True)
            self._log.warning("webhook.switched_on", source=target.source, webhook=str(target.scope))
        # Konnect may call it inactive until the next batch: from here on only a new failure counts.
        return replace(hook, polled_at=0.0, mended_at=self._clock.now())

    async def _status(self, target: Target) -> WebhookStatus | None:
        try:
            status = await self._api.webhook_status(target.scope)
        except (KonnectForbidden, KonnectNotFound) as error:
            self._complain(str(error))
            return None
        if self._echo is not None and target.scope == ORGANISATION:
            self._echo.called(target.source)
        return status

    def _failing_since(self, target: Target, before: Hook | None, hook: Hook) -> float:
        """The last moment at which all was well, as far as we know, or that of the failed attempt."""
        now = hook.polled_at
        if before is not None and before.is_failing:  # up to then it is noted
            return before.polled_at
        good = before.polled_at if before is not None else self._queue.last_received().get(target.source, now)
        attempt = hook.status.last_attempt_at if hook.status is not None else None
        return max(now - RETENTION, min(good, now if attempt is None else attempt))
