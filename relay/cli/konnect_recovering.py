"""A span of time fetched from Konnect once more: by replay jobs, or by the running relay's pulling.

Owns the order: whether a replay would get here, one job after the other, and the pull of what is left. The
relay pulls (`POST /api/v1/pulls`), since the queue is its own, with the token of its configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from relay.admin.times import rfc3339
from relay.cli.client import AdminClient, CommandFailed
from relay.cli.konnect_access import Access
from relay.cli.watch import Watch
from relay.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.recovery.api import KonnectApi

JOB_MOST: Final = 86_400.0
"""Seconds of one replay job at most: there is progress to show, and a failure costs one day at most."""

PULL_LASTS: Final = 3600.0
"""Seconds that the relay may take to answer a call to pull. It answers before, and says how far it came."""

_POLL: Final = 5.0  # seconds, where no configuration says otherwise

Piece = tuple[float, float]


class By(StrEnum):
    """How to fetch it."""

    REPLAY = "replay"
    PULL = "pull"


@dataclass(slots=True)
class Fetched:
    """What was done."""

    jobs: list[Piece] = field(default_factory=list)  # replayed, each completely
    pulls: list[Any] = field(default_factory=list)  # the relay's answers
    not_replayed: str | None = None  # why not everything was


def cut(start: float, end: float, most: float) -> list[Piece]:
    """Pieces of at most *most* seconds."""
    pieces = []
    at = start
    while at < end:
        pieces.append((at, min(at + most, end)))
        at += most
    return pieces


async def replay(
    at: Access, pieces: Sequence[Piece], fetched: Fetched, *, look: bool, clock: Clock, watch: Watch
) -> None:
    """Run a job for each; *fetched* tells which ended well, and why no more of them did.

    *look*: do not begin where Konnect says that it would not get here. Raises `KonnectError` for what is no
    answer to that, such as a token that is not accepted.
    """
    from relay.recovery.errors import KonnectForbidden, KonnectNotFound, KonnectRefused
    from relay.recovery.obstacle import obstacle

    async with at.api() as api:
        if look:
            fetched.not_replayed = await obstacle(api, at.scope, leads_here=at.leads_here)
        for piece in pieces:
            if fetched.not_replayed is not None:
                return
            try:
                fetched.not_replayed = await _one(at, api, piece, clock, watch)
            except (KonnectForbidden, KonnectNotFound, KonnectRefused) as error:
                fetched.not_replayed = str(error)
            else:
                if fetched.not_replayed is None:
                    fetched.jobs.append(piece)
                    watch.reached(len(fetched.jobs) / len(pieces))


async def _one(at: Access, api: KonnectApi, piece: Piece, clock: Clock, watch: Watch) -> str | None:
    """Run one job to its end; None where it completed."""
    from relay.recovery.answers import ReplayState
    from relay.recovery.healing import run_job

    poll = at.settings.job_interval if at.settings is not None else _POLL
    span = f"{rfc3339(piece[0])} to {rfc3339(piece[1])}"

    def told(sentence: str) -> None:
        watch.tell(f"{span}: {sentence}")

    job = await run_job(api, at.scope, *piece, clock=clock, poll=poll, told=told)
    if job.state is ReplayState.COMPLETED:
        return None
    return f"Konnect's replay job from {span} ended as {job.state}."


def pulled(
    at: Access, relay: AdminClient, pieces: Sequence[Piece], told: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Have the relay pull each, the newest part first; its answers, as they come.

    Each call asks for the whole rest, since the relay reads its own log once for each. Raises
    `CommandFailed`; what was pulled stays.
    """
    before = ""
    for start, end in pieces:
        span = {"from": rfc3339(start), "to": rfc3339(end)}
        while span["to"] > span["from"]:
            told(f"{span['from']} to {span['to']}: the relay pulls it")
            try:
                answer = relay.post("/api/v1/pulls", {**span, "region": at.region})
            except CommandFailed as error:
                where = f"from {span['from']} to {span['to']}"
                raise CommandFailed(
                    f"The relay could not pull Konnect's log {where}: {error}{before}"
                ) from None
            before = " What it had pulled before that stays."
            reached = answer.pop("reached")
            yield {"from": reached, "to": span["to"], **answer}
            span["to"] = reached
