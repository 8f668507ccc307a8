"""`replay`: send a range of retained events to one destination again, and watch it go."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from relay.admin.times import rfc3339
from relay.cli import output
from relay.cli.client import AdminClient, reach
from relay.cli.moments import moment
from relay.cli.options import DEFAULT_CONFIG, AdminTokenOption, AdminUrlOption, ConfigOption, JsonOption
from relay.clock import Clock, SystemClock

_POLL: Final = 0.5  # seconds


def replay(
    destination: Annotated[str, typer.Option(help="Where to send them.")],
    start: Annotated[str, typer.Option("--from", help="Accepted at or after: 2026-08-22T09:30:00Z, or -2h.")],
    end: Annotated[str, typer.Option("--to", help="Accepted before.")] = "now",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Events per second at most; otherwise as fast as it goes.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Watch until everything is sent.")] = True,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send events again that the relay still retains. Live events go first."""
    clock = SystemClock()
    now = clock.now()
    body = {
        "destination": destination,
        "from": rfc3339(moment(start, now)),
        "to": rfc3339(moment(end, now)),
        "rate": rate,
    }
    with reach(config, admin_url, admin_token) as relay:
        reader = relay.post("/api/v1/replays", body)
        if wait:
            # The bar goes to standard error, so that standard output is one JSON document or one sentence.
            asyncio.run(_watch(relay, reader, clock, Console(stderr=True, quiet=as_json)))
    if as_json:
        output.print_json({**reader, "from": body["from"], "to": body["to"], "finished": wait})
        return
    total = reader["total"] or 0
    sentence = (
        f"{total:,} events sent to {destination} again." if wait else f"{total:,} events are being sent."
    )
    output.console().print(sentence, markup=False)


async def _watch(relay: AdminClient, reader: Any, clock: Clock, screen: Console) -> None:
    """Follow the replay until its reader is gone. Stopping to watch does not stop it."""
    total = reader["total"] or 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen) as progress:
        task = progress.add_task(reader["destination"], total=total)
        while True:
            status = relay.get(f"/api/v1/destinations/{reader['destination']}")
            left = next((it["backlog"] for it in status["readers"] if it["id"] == reader["id"]), None)
            waiting = "" if status["state"] in ("active", None) else f" ({status['state']})"
            progress.update(
                task,
                completed=total - (left or 0),
                description=reader["destination"] + waiting,
            )
            if left is None:
                return
            await clock.sleep(_POLL)
