"""`konnect recover`: have Konnect send a span of time once more, by hand, and watch it.

Talks to Konnect, not to the relay, so it needs a token and nothing else; what comes reaches the relay by its
webhook, which has to be up. One replay job for each day: there is progress to show, and a failure costs one
day at most. Pulling, where Konnect allows no replay, is left to a relay with `recovery.konnect`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import typer

from relay.admin.times import rfc3339
from relay.cli import output
from relay.cli.client import CommandFailed
from relay.cli.konnect_access import (
    Access,
    PortalOption,
    RegionOption,
    TokenFileOption,
    TokenOption,
    access,
)
from relay.cli.moments import moment
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from relay.clock import Clock, SystemClock

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from relay.recovery.answers import ReplayJob
    from relay.recovery.api import KonnectApi

_DAY: Final = 86_400.0  # seconds of one job at most
_RETENTION: Final = 7 * _DAY
_SLACK: Final = 60.0  # seconds at the far end: clocks differ
_POLL: Final = 5.0  # seconds, where no configuration says otherwise
_PATIENCE: Final = 5  # calls in a row that may fail while a job runs

Piece = tuple[float, float]


def recover(
    start: Annotated[str, typer.Option("--from", help="From here on: 2026-08-22T09:30:00Z, or -2h.")],
    end: Annotated[str, typer.Option("--to", help="Up to here.")] = "now",
    region: RegionOption = None,
    portal: PortalOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Replay what Konnect logged in a span of the last seven days. The relay drops what it has already."""
    clock = SystemClock()
    now = clock.now()
    at = access(config, region=region, portal=portal, token=token, token_file=token_file)
    wanted = moment(start, now), min(moment(end, now), now)
    pieces, lost_until = pieces_of(*wanted, now)
    done = asyncio.run(_recover(at, pieces, clock, quiet=as_json))
    if as_json:
        output.print_json(
            {
                "region": at.region,
                "portal": at.scope.portal,
                "from": rfc3339(wanted[0]),
                "to": rfc3339(wanted[1]),
                "lost_until": None if lost_until is None else rfc3339(lost_until),
                "jobs": [{"from": rfc3339(first), "to": rfc3339(last)} for first, last in done],
            }
        )
        return
    screen = output.console()
    if lost_until is not None:
        screen.print(
            f"What is older than {rfc3339(lost_until)} is gone: Konnect keeps seven days.", markup=False
        )
    screen.print(
        f"Konnect has sent everything of {at.scope} from {rfc3339(pieces[0][0])} to {rfc3339(wanted[1])} "
        "again. `konnect-relay status` shows what was new and what was a duplicate.",
        markup=False,
    )


def pieces_of(start: float, end: float, now: float) -> tuple[list[Piece], float | None]:
    """The windows to be replayed, and up to when Konnect has deleted what was asked for.

    Raises `typer.BadParameter` where nothing is left of it.
    """
    if start >= end:
        raise typer.BadParameter("--from has to be before --to")
    oldest = now - _RETENTION + _SLACK
    if end <= oldest:
        raise typer.BadParameter("--to: Konnect keeps seven days, all of this is gone")
    first = max(start, oldest)
    pieces = []
    at = first
    while at < end:
        pieces.append((at, min(at + _DAY, end)))
        at += _DAY
    return pieces, first if first > start else None


async def _recover(at: Access, pieces: list[Piece], clock: Clock, *, quiet: bool) -> list[Piece]:
    """Raises `CommandFailed` or `KonnectError`; what was replayed by then stays replayed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from relay.recovery.errors import KonnectForbidden, KonnectNotFound

    done = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # The bar goes to standard error, so that standard output is one JSON document or one sentence.
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as progress:
        task = progress.add_task("replay", total=len(pieces))
        async with at.api() as api:
            for piece in pieces:
                try:
                    await _one(at, api, piece, clock, progress, task)
                except (KonnectForbidden, KonnectNotFound) as error:
                    raise CommandFailed(
                        f"{error} Without a replay only a relay with recovery.konnect.token can fetch this, "
                        "from the organisation's log."
                    ) from None
                done.append(piece)
                progress.advance(task)
    return done


async def _one(
    at: Access, api: KonnectApi, piece: Piece, clock: Clock, progress: Progress, task: TaskID
) -> None:
    """Run one job to its end."""
    from relay.recovery.answers import ReplayState
    from relay.recovery.errors import KonnectConflict

    while True:
        try:
            await api.start_replay(at.scope, *piece)
            break
        except KonnectConflict:
            progress.update(task, description="another replay job runs")
            await clock.sleep(_pause(at))
    while True:
        job = await _look(at, api, clock)
        if job.start is None or abs(job.start - piece[0]) >= 1.0:
            raise CommandFailed("Somebody began another replay job; run this again.")
        progress.update(task, description=job.state.value)
        if job.state is ReplayState.COMPLETED:
            return
        if job.state.over:
            raise CommandFailed(
                f"Konnect's replay job from {rfc3339(piece[0])} ended as {job.state}. "
                "Is the webhook active, and does the relay accept? `konnect-relay konnect doctor` tells."
            )
        await clock.sleep(_pause(at))


async def _look(at: Access, api: KonnectApi, clock: Clock) -> ReplayJob:
    """The job; a call that fails now and then does not end the watching."""
    from relay.recovery.errors import KonnectThrottled, KonnectUnavailable

    for _ in range(_PATIENCE - 1):
        try:
            return await api.replay_job(at.scope)
        except (KonnectThrottled, KonnectUnavailable) as error:
            await clock.sleep(error.retry_after or _pause(at))
    return await api.replay_job(at.scope)


def _pause(at: Access) -> float:
    return at.settings.job_interval if at.settings is not None else _POLL
