"""`konnect recover`: fetch a span of time from Konnect once more, by hand, and watch it.

Owns the options, what becomes of a span that is partly deleted, and the words. A replay needs Konnect alone:
what comes reaches the relay by its webhook. Where there can be none, the running relay pulls the log.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from relay.admin.times import parse_rfc3339, rfc3339
from relay.cli import output
from relay.cli.client import CommandFailed, reach
from relay.cli.konnect_access import (
    Access,
    PortalOption,
    RegionOption,
    TokenFileOption,
    TokenOption,
    access,
)
from relay.cli.konnect_recovering import JOB_MOST, PULL_LASTS, By, Fetched, cut, pulled, replay
from relay.cli.moments import moment
from relay.cli.options import DEFAULT_CONFIG, AdminTokenOption, AdminUrlOption, ConfigOption, JsonOption
from relay.cli.watch import Watch
from relay.clock import SystemClock
from relay.errors import ConfigError
from relay.observe.ledger import KONNECT_RETENTION, RETENTION_SLACK


def recover(
    start: Annotated[
        str, typer.Option("--from", help="From here on: 2026-08-22T09:30:00Z (without a zone UTC), or -2h.")
    ],
    end: Annotated[str, typer.Option("--to", help="Up to here.")] = "now",
    by: Annotated[
        By | None,
        typer.Option(help="A replay by Konnect, or the relay pulls the log; otherwise as is possible."),
    ] = None,
    region: RegionOption = None,
    portal: PortalOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch what Konnect logged in a span of the last seven days. The relay drops what it has already."""
    clock = SystemClock()
    now = clock.now()
    if by is By.PULL and portal is not None:
        raise typer.BadParameter("--by pull: Konnect has no log of a Dev Portal's to pull, only a replay")
    wanted = moment(start, now), min(moment(end, now), now)
    first, lost_until = kept(*wanted, now)
    at = access(config, region=region, portal=portal, token=token, token_file=token_file)
    fetched = Fetched()
    with Watch(quiet=as_json) as watch:
        if by is not By.PULL:
            jobs = cut(first, wanted[1], JOB_MOST)
            asyncio.run(replay(at, jobs, fetched, look=by is None, clock=clock, watch=watch))
        if by is By.PULL or fetched.not_replayed is not None:
            left = fetched.jobs[-1][1] if fetched.jobs else first
            _require_pull(at, by, fetched)
            try:
                with reach(config, admin_url, admin_token, timeout=PULL_LASTS) as relay:
                    for done in pulled(at, relay, [(left, wanted[1])], watch.tell):
                        fetched.pulls.append(done)
                        watch.reached(1 - (parse_rfc3339(done["from"]) - left) / (wanted[1] - first))
            except (CommandFailed, ConfigError) as error:
                if fetched.not_replayed is None:
                    raise
                raise CommandFailed(f"{fetched.not_replayed} {error}") from None
    if as_json:
        output.print_json(
            {
                "region": at.region,
                "portal": at.scope.portal,
                "from": rfc3339(wanted[0]),
                "to": rfc3339(wanted[1]),
                "lost_until": None if lost_until is None else rfc3339(lost_until),
                "jobs": [{"from": rfc3339(each[0]), "to": rfc3339(each[1])} for each in fetched.jobs],
                "not_replayed": fetched.not_replayed,
                "pulls": fetched.pulls,
            }
        )
        return
    _show(at, fetched, (first, wanted[1]), lost_until)


def kept(start: float, end: float, now: float) -> tuple[float, float | None]:
    """From when on there is something to fetch, and up to when Konnect has deleted what was asked for.

    Raises `typer.BadParameter` where nothing is left of it.
    """
    if start >= end:
        raise typer.BadParameter(
            f"--from ({rfc3339(start)}) has to be before --to ({rfc3339(end)}), and before now"
        )
    oldest = now - KONNECT_RETENTION + RETENTION_SLACK
    if end <= oldest:
        raise typer.BadParameter(f"--to ({rfc3339(end)}): Konnect keeps seven days, all of this is gone")
    first = max(start, oldest)
    return first, first if first > start else None


def _require_pull(at: Access, by: By | None, fetched: Fetched) -> None:
    """Raises `CommandFailed` where what was not replayed is not to be pulled either."""
    if by is By.REPLAY or (at.scope.portal is not None and fetched.not_replayed is not None):
        other = "" if at.scope.portal else " Without --by replay the relay pulls the log instead."
        raise CommandFailed(f"{fetched.not_replayed}{other} `konnect-relay konnect doctor` tells more.")


def _show(at: Access, fetched: Fetched, span: tuple[float, float], lost_until: float | None) -> None:
    screen = output.console()
    if lost_until is not None:
        screen.print(
            f"What is older than {rfc3339(lost_until)} is gone: Konnect keeps seven days.", markup=False
        )
    if fetched.jobs:
        screen.print(
            f"By replay: Konnect has sent everything of {at.scope} from {rfc3339(fetched.jobs[0][0])} to"
            f" {rfc3339(fetched.jobs[-1][1])} again. `konnect-relay status` shows what was new and what was"
            " a duplicate.",
            markup=False,
        )
    if fetched.not_replayed is not None:
        screen.print(output.printable(f"No replay: {fetched.not_replayed}"), markup=False)
    if fetched.pulls:
        entries = sum(each["entries"] for each in fetched.pulls)
        accepted = sum(each["accepted"] for each in fetched.pulls)
        screen.print(
            f"By pull: Konnect's log has {entries:,} events from {fetched.pulls[-1]['from']} to"
            f" {rfc3339(span[1])}; {accepted:,} of them were new to {fetched.pulls[0]['source']}.",
            markup=False,
        )
