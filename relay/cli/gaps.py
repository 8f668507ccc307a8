"""`gaps`: the spans in which Konnect may have given up, and a word that one of them needs nothing more."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relay.cli import output
from relay.cli.client import AdminClient, reach
from relay.cli.options import (
    DEFAULT_CONFIG,
    AdminTokenOption,
    AdminUrlOption,
    ConfigOption,
    JsonOption,
    YesOption,
)

app = typer.Typer(
    help="Spans in which Konnect may have given up on events.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_(
    include_closed: Annotated[bool, typer.Option("--closed", help="The closed ones as well.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the open gaps and what is done about each."""
    with reach(config, admin_url, admin_token) as relay:
        gaps = _listed(relay, include_closed=include_closed)
    if as_json:
        output.print_json(gaps)
        return
    screen = output.console()
    if not gaps:
        screen.print("No gaps." if include_closed else "No open gaps.")
        return
    screen.print(
        output.table(
            "ID",
            "SOURCE",
            "CAUSE",
            "FROM",
            "TO",
            "STATE",
            "#LEFT",
            "DOING",
            rows=[
                (
                    str(it["id"]),
                    it["source"],
                    it["cause"],
                    it["start"],
                    it["end"],
                    it["state"],
                    None if it["deadline_seconds"] is None else output.span(it["deadline_seconds"]),
                    doing(it),
                )
                for it in gaps
            ],
        )
    )


@app.command()
def close(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID", min=1, help="As `list` shows them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every open gap.")] = False,
    detail: Annotated[str, typer.Option("--detail", help="Why; goes into the relay's log.")] = "",
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close gaps that you had Konnect replay, or that missed nothing; the relay leaves them alone then."""
    if bool(ids) == everything:
        raise typer.BadParameter("say which: one ID or several, or else --all")
    if everything and not yes:
        typer.confirm("Close every open gap? The relay fetches nothing more for them.", abort=True, err=True)
    with reach(config, admin_url, admin_token) as relay:
        # An id of 0 is a gap that a cluster has not written down yet: nothing can be said of it.
        wanted = ids or [it["id"] for it in _listed(relay, include_closed=False) if it["id"]]
        closed = [relay.post(f"/api/v1/gaps/{number}/close", {"detail": detail}) for number in wanted]
    if as_json:
        output.print_json(closed)
        return
    screen = output.console()
    for it in closed:
        span = f"{it['source']}, {it['start']} to {it['end']}"
        screen.print(output.printable(f"Gap {it['id']} ({span}) is {_word(it['state'])}."), markup=False)
    if not closed:
        screen.print("No open gaps.")


def doing(gap: Any) -> str | None:
    """What becomes of an open gap, as far as this process knows: another one may be at it."""
    return gap["doing"] or ("replay it by hand" if gap["replay"] else None)


def _listed(relay: AdminClient, *, include_closed: bool) -> list[Any]:
    answer = relay.get("/api/v1/gaps", include_closed=str(include_closed).lower())
    gaps: list[Any] = answer["data"]
    return gaps


def _word(state: str) -> str:
    """One that was lost before stays so."""
    return {"partly_lost": "partly lost"}.get(state, state)
