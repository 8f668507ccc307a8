"""How a webhook is and where it sends, by Konnect's word, and switching on one that Konnect has given up on.

Owns the calls, the log lines about them, and since when a failing webhook's events may be missing. When it is
time for either is decided by `plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from relay.clock import Clock
from relay.observe.ledger import KONNECT_RETENTION
from relay.observe.logs import Log
from relay.queue.base import Queue
from relay.recovery.answers import ORGANISATION, WebhookState, WebhookStatus
from relay.recovery.api import KonnectApi
from relay.recovery.binding import binding, shown
from relay.recovery.errors import KonnectForbidden, KonnectNotFound
from relay.recovery.hook import INACTIVE, Hook
from relay.recovery.state import Target

LeadsHere = Callable[[str, str | None], bool]
"""Whether an endpoint (second; None: unknown) is where this relay takes a source's (first) events."""

_SETTLED: Final = 60.0  # seconds after a failed attempt until Konnect must have drawn its conclusion


class Echo(Protocol):
    """Who wants to know of our own calls, which Konnect writes into the log we receive."""

    def called(self, source: str) -> None: ...


class Webhooks:
    """Of one region. *complain* logs a trouble, once as long as it is the same."""

    def __init__(
        self,
        api: KonnectApi,
        queue: Queue,
        leads_here: LeadsHere,
        complain: Callable[[str], None],
        *,
        clock: Clock,
        log: Log,
        echo: Echo | None,
    ) -> None:
        self._api = api
        self._queue = queue
        self._leads_here = leads_here
        self._complain = complain
        self._clock = clock
        self._log = log
        self._echo = echo

    async def poll(self, target: Target, before: Hook | None) -> Hook:
        """Ask how it is; a failing one opens a gap or widens it. Raises `KonnectError`."""
        status = await self._status(target)
        now = self._clock.now()
        hook = replace(before or Hook(now, status), polled_at=now, status=status, outdated=False)
        if _is_well(status, now):
            hook = replace(hook, well=status)
        if hook.elsewhere is not None:
            hook = await self.locate(target, hook)  # it may have come back
        if not hook.is_failing:
            if before is not None and before.is_failing:
                await self._failed_until(target, before, now)
            return hook
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

    async def locate(self, target: Target, hook: Hook) -> Hook:
        """See where it sends. Raises `KonnectError`."""
        elsewhere = None
        try:
            bound = await binding(self._api, target.scope)
        except (KonnectForbidden, KonnectNotFound) as error:
            self._complain(str(error))
            elsewhere = "an endpoint that Konnect does not show us"
        else:
            if not bound.in_use:
                elsewhere = "nowhere"
            elif not self._leads_here(target.source, bound.endpoint):
                elsewhere = shown(bound.endpoint)
        if elsewhere is not None and elsewhere != hook.elsewhere:
            self._log.warning(
                "recovery.webhook_elsewhere",
                source=target.source,
                webhook=str(target.scope),
                endpoint=elsewhere,
                detail="It does not lead to this relay: it is neither switched on nor used for a replay.",
            )
        return replace(hook, elsewhere=elsewhere)

    async def mend(self, target: Target, hook: Hook) -> Hook:
        """Switch it on; one that we may not switch on holds up nothing else. Raises `KonnectError`."""
        try:
            webhook = await self._api.webhook(target.scope)
            if webhook.destination_id is None:
                detail = "It was set by version 2 of the API, so only its owner can. Switch it on in Konnect."
                return self._not_ours(target, hook, detail)
            await self._api.set_webhook(target.scope, webhook.destination_id, enabled=True)
        except KonnectForbidden as error:
            detail = f"{error} Switch it on in Konnect, or give the token the right to."
            return self._not_ours(target, hook, detail)
        self._log.warning("webhook.switched_on", source=target.source, webhook=str(target.scope))
        await self._failed_until(target, hook, self._clock.now())
        # Konnect may call it inactive until the next batch: from here on only a new failure counts.
        attempt = hook.status.last_attempt_at if hook.status is not None else None
        now = self._clock.now()
        return replace(hook, outdated=True, mended_at=now, mended_attempt=attempt, refused_at=None)

    def _not_ours(self, target: Target, hook: Hook, detail: str) -> Hook:
        self._log.error(
            "webhook.not_switched_on", source=target.source, webhook=str(target.scope), detail=detail
        )
        return replace(hook, refused_at=self._clock.now())

    async def _status(self, target: Target) -> WebhookStatus | None:
        try:
            status = await self._api.webhook_status(target.scope)
        except (KonnectForbidden, KonnectNotFound) as error:
            self._complain(str(error))
            return None
        if self._echo is not None and target.scope == ORGANISATION:
            self._echo.called(target.source)
        return status

    async def _failed_until(self, target: Target, last: Hook, now: float) -> None:
        """It is on: widen the gap, which ends with the *last* look, for it may have been off up to *now*."""
        await self._queue.open_gap(target.source, min(last.polled_at, now), now, INACTIVE, refusals=0)

    def _failing_since(self, target: Target, before: Hook | None, hook: Hook) -> float:
        """The last moment at which all was well, as far as we know, or that of the failed attempt."""
        now = hook.polled_at
        if before is not None and before.is_failing:  # up to then it is noted
            return min(before.polled_at, now)
        good = before.polled_at if before is not None else self._queue.last_received().get(target.source, now)
        attempt = hook.status.last_attempt_at if hook.status is not None else None
        return max(now - KONNECT_RETENTION, min(good, now if attempt is None else attempt))


def _is_well(status: WebhookStatus | None, now: float) -> bool:
    """Whether it is enabled and active, and not only because Konnect is about to give up on it."""
    if status is None or not status.enabled or status.state is not WebhookState.ACTIVE:
        return False
    code, at = status.last_response_code, status.last_attempt_at
    return at is None or (code is not None and 200 <= code < 300) or now - at > _SETTLED
