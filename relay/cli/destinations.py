"""`destinations`: test, hold, resume or forget one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relay.cli import output
from relay.cli.client import reach
from relay.cli.options import (
    DEFAULT_CONFIG,
    AdminTokenOption,
    AdminUrlOption,
    ConfigOption,
    JsonOption,
    YesOption,
)

app = typer.Typer(help="Act on one destination.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The destination's name.")]


@app.command("test")
def contact(
    name: Name,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the running relay contact the destination, sending no event where that is possible."""
    with reach(config, admin_url, admin_token) as relay:
        report = relay.post(f"/api/v1/destinations/{name}/test")
    if as_json:
        output.print_json(report)
    else:
        output.print_line(f"{name}: {report['detail']}")
    if not report["ok"]:
        raise typer.Exit(1)


@app.command()
def hold(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Shown in status.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop sending; events wait in the queue. Survives a restart, ends with `resume`."""
    with reach(config, admin_url, admin_token) as relay:
        body = {"detail": reason} if reason else None
        document = relay.post(f"/api/v1/destinations/{name}/hold", body)
    _report(document, f"{name} is on hold; its events wait in the queue.", as_json=as_json)


@app.command()
def resume(
    name: Name,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lift a hold, whoever put it there, and try at once."""
    with reach(config, admin_url, admin_token) as relay:
        document = relay.post(f"/api/v1/destinations/{name}/resume")
    _report(document, f"{name} is trying again; {document['backlog']:,} events wait.", as_json=as_json)


@app.command()
def forget(
    name: Name,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop all that is kept for a destination no longer configured: backlog, books, dead letters."""
    if not yes:
        typer.confirm(f"Drop everything that {name} is still owed?", abort=True, err=True)
    with reach(config, admin_url, admin_token) as relay:
        document = relay.post(f"/api/v1/destinations/{name}/forget")
    _report(document, f"{name} is forgotten.", as_json=as_json)


def _report(document: Any, sentence: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(document)
    else:
        output.console().print(sentence, markup=False)
