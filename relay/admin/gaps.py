"""What `/api/v1/gaps` says of a gap: since when, until when it can be closed, what is done, what to do.

Pure. Where the relay has no token of Konnect's, or no webhook for the source, the call to make is told in
full, the token aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

import orjson

from relay.admin.control import KonnectAccess
from relay.admin.times import rfc3339, rfc3339_or_none
from relay.model import Gap, Recovering, Replica
from relay.observe.ledger import KONNECT_RETENTION, RETENTION_SLACK

_UNKNOWN_REGION: Final = "REGION"

State = Literal["open", "closed", "lost", "partly_lost"]


@dataclass(frozen=True, slots=True)
class GapStatus:
    """A span in which Konnect may have given up on us."""

    id: int
    source: str
    start: str
    end: str
    cause: str
    refusals: int
    closed_at: str | None
    lost_until: str | None  # what happened from `start` to here is gone for good
    state: State
    age_seconds: float  # since it began
    deadline: str | None  # when Konnect deletes the first of what it misses; None once it is closed
    deadline_seconds: float | None
    doing: str | None  # what is being done about it, or what keeps it open
    at_work: bool  # it is being fetched at this moment
    replay: tuple[str, ...]  # what to run by hand, where recovery does not do it


def gap_statuses(
    gaps: Sequence[Gap], konnect: KonnectAccess, replicas: Sequence[Replica], now: float
) -> tuple[GapStatus, ...]:
    """In the order of *gaps*."""
    doing = next((each.recovering for each in replicas if each.recovering is not None), None)
    return tuple(_status(gap, konnect, doing, now) for gap in gaps)


def _status(gap: Gap, konnect: KonnectAccess, doing: Recovering | None, now: float) -> GapStatus:
    is_open = gap.closed_at is None
    left_out = konnect.recovers and gap.source not in konnect.recovered  # waiting would be in vain
    deadline = gap.start + KONNECT_RETENTION
    return GapStatus(
        id=gap.id,
        source=gap.source,
        start=rfc3339(gap.start),
        end=rfc3339(gap.end),
        cause=gap.cause,
        refusals=gap.refusals,
        closed_at=rfc3339_or_none(gap.closed_at),
        lost_until=rfc3339_or_none(gap.lost_until),
        state=_state(gap),
        age_seconds=max(0.0, now - gap.start),
        deadline=rfc3339(deadline) if is_open else None,
        deadline_seconds=max(0.0, deadline - now) if is_open else None,
        doing=_doing(gap, doing) if is_open and not left_out else None,
        at_work=is_open and doing is not None and doing.at_work and doing.gap == gap.id,
        replay=_calls(gap, konnect, now) if is_open and gap.source not in konnect.recovered else (),
    )


def _state(gap: Gap) -> State:
    if gap.closed_at is None:
        return "open"
    if gap.lost_until is None:
        return "closed"
    return "lost" if gap.lost_until >= gap.end else "partly_lost"


def _doing(gap: Gap, doing: Recovering | None) -> str | None:
    """None where nobody recovers."""
    if doing is None:
        return None
    return doing.detail if doing.gap in (None, gap.id) else "waiting for an older gap"


def _calls(gap: Gap, konnect: KonnectAccess, now: float) -> tuple[str, ...]:
    """The replay of the gap by the webhook that brings this source's events."""
    start = max(gap.start - konnect.margin, now - KONNECT_RETENTION + RETENTION_SLACK)
    end = min(gap.end + konnect.margin, now)
    if start >= end:
        return ()
    body = orjson.dumps({"start_at": rfc3339(start), "end_at": rfc3339(end)}).decode()
    portal = konnect.webhooks.get(gap.source)
    region = konnect.region or _UNKNOWN_REGION
    call = (
        f"curl -X PUT https://{region}.api.konghq.com/v3{_portal(portal)}/audit-log-replay-job"
        ' -H "Authorization: Bearer $KONNECT_TOKEN" -H "Content-Type: application/json"'
        f" -d '{body}'"
    )
    return (call,)


def _portal(portal: str | None) -> str:
    return "" if portal is None else f"/portals/{quote(portal, safe='')}"
