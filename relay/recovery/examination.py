"""Collects what `konnect doctor` judges by: from Konnect, from the public URL.

Owns the asking and that one failure hides no other. What it means is `relay.recovery.findings`' affair.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from relay.clock import Clock
from relay.config.secret import Secret
from relay.recovery.answers import Scope
from relay.recovery.api import KonnectApi
from relay.recovery.binding import Binding, binding
from relay.recovery.errors import KonnectError
from relay.recovery.findings import Facts, RelayView
from relay.recovery.probe import certificate, knock

Answer = TypeVar("Answer")


async def examine(
    api: KonnectApi,
    scope: Scope,
    *,
    expected: str | None,
    authorization: Secret | None,
    relay: RelayView | str,
    clock: Clock,
    ca_file: Path | None = None,
) -> Facts:
    """All facts of one webhook. *expected* is the endpoint that should be set, as far as it is known."""
    bound = await _or_error(binding(api, scope))
    status = await _or_error(api.webhook_status(scope))
    job = await _or_error(api.replay_job(scope))
    endpoint = expected or (bound.endpoint if isinstance(bound, Binding) else None)
    return Facts(
        scope=scope,
        now=clock.now(),
        expected=expected,
        bound=bound,
        status=status,
        job=job,
        skew=api.clock_skew,
        certificate=None if endpoint is None else await certificate(endpoint, ca_file=ca_file),
        answered=None
        if endpoint is None or authorization is None
        else await knock(endpoint, authorization, ca_file=ca_file),
        relay=relay,
    )


async def _or_error(asking: Awaitable[Answer]) -> Answer | KonnectError:
    try:
        return await asking
    except KonnectError as error:
        return error
