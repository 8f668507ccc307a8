"""`dead-letters`: look at what a destination would not take, send it again, or let it go."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from relay.admin.times import rfc3339
from relay.cli import output
from relay.cli.client import AdminClient, reach
from relay.cli.moments import moment
from relay.cli.options import (
    DEFAULT_CONFIG,
    AdminTokenOption,
    AdminUrlOption,
    ConfigOption,
    DestinationOption,
    JsonOption,
    SinceOption,
    YesOption,
)
from relay.clock import SystemClock
from relay.model import Reason

app = typer.Typer(help="Events a destination would not take.", no_args_is_help=True, rich_markup_mode=None)

_PAGE: Final = 1000

ReasonOption = Annotated[Reason | None, typer.Option("--reason", help="Dead-lettered for this reason only.")]
IdsOption = Annotated[list[int] | None, typer.Option("--id", help="Only this one; may be repeated.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every dead letter of every destination.")]


@app.command("list")
def list_(
    destination: DestinationOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Not more than this many.")] = 100,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, oldest first, without their content."""
    criteria = _criteria(destination, reason, since)
    with reach(config, admin_url, admin_token) as relay:
        letters, more = _listed(relay, criteria, limit)
    if as_json:
        output.print_json(letters)
        return
    screen = output.console()
    if not letters:
        screen.print("No dead letters.")
        return
    screen.print(
        output.table(
            "ID",
            "DESTINATION",
            "REASON",
            "#EVENTS",
            "AT",
            "#STATUS",
            "DETAIL",
            rows=[
                (
                    str(it["id"]),
                    it["destination"],
                    it["reason"] + (" (redriving)" if it["redriving"] else ""),
                    it["count"],
                    it["created_at"],
                    it["status"],
                    it["detail"],
                )
                for it in letters
            ],
        )
    )
    if more:
        screen.print(f"There are more than {limit}; --limit shows them.")


def _listed(relay: AdminClient, criteria: dict[str, object], limit: int) -> tuple[list[Any], bool]:
    """Up to *limit* dead letters, and whether there are more."""
    letters: list[Any] = []
    after = 0
    while True:
        page = min(_PAGE, limit + 1 - len(letters))  # one more than wanted tells whether there are more
        answer = relay.get("/api/v1/dead-letters", **criteria, after=after, limit=page)
        letters += answer["data"]
        if answer["meta"]["next"] is None or len(letters) > limit:
            return letters[:limit], len(letters) > limit
        after = answer["meta"]["next"]


@app.command()
def show(
    letter: Annotated[int, typer.Argument(metavar="ID", min=1, help="As `list` shows it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter with the event's line and the destination's answer."""
    with reach(config, admin_url, admin_token) as relay:
        document = relay.get(f"/api/v1/dead-letters/{letter}")
    if as_json:
        output.print_json(document)
        return
    screen = output.console()
    screen.print(output.fields(document["summary"]))
    answer, line = document["response_excerpt"] or "–", document["line"] or "its bytes are gone"
    screen.print("\nAnswer:", output.printable(answer), markup=False, soft_wrap=True)
    screen.print("\nEvent:", output.printable(line), markup=False, soft_wrap=True)


@app.command()
def redrive(
    destination: DestinationOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    ids: IdsOption = None,
    everything: AllOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters again, beside the live events."""
    body = _selection(destination, reason, since, ids, everything)
    with reach(config, admin_url, admin_token) as relay:
        document = relay.post("/api/v1/dead-letters/redrive", body)
    _done(document, "given to their destinations again", as_json=as_json)


@app.command()
def discard(
    destination: DestinationOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    ids: IdsOption = None,
    everything: AllOption = False,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete dead letters for good; they stay counted as discarded."""
    body = _selection(destination, reason, since, ids, everything)
    if not yes:
        typer.confirm("Delete these dead letters for good?", abort=True, err=True)
    with reach(config, admin_url, admin_token) as relay:
        document = relay.post("/api/v1/dead-letters/discard", body)
    _done(document, "deleted", as_json=as_json)


def _criteria(destination: str | None, reason: Reason | None, since: str | None) -> dict[str, object]:
    return {
        "destination": destination,
        "reason": reason.value if reason else None,
        "since": rfc3339(moment(since, SystemClock().now())) if since else None,
    }


def _selection(
    destination: str | None,
    reason: Reason | None,
    since: str | None,
    ids: list[int] | None,
    everything: bool,
) -> dict[str, object]:
    criteria = {**_criteria(destination, reason, since), "ids": ids or None}
    narrowed = {name: value for name, value in criteria.items() if value is not None}
    if bool(narrowed) == everything:
        raise typer.BadParameter("say which: --destination, --reason, --since or --id, or else --all")
    return {"all": True} if everything else narrowed


def _done(document: Any, what: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(document)
    else:
        output.console().print(f"{document['events']:,} events {what}.")
