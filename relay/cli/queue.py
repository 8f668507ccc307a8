"""`queue`: look into, verify or repair the queue of a stopped relay."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from relay.cli import output
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, YesOption

app = typer.Typer(
    help="The queue's file; the relay has to be stopped.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("inspect")
def inspect_(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show what the file holds."""
    from relay.queue.sqlite import tools

    _show(tools.inspect(_path(config)), as_json=as_json)


@app.command()
def verify(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Check the file and every batch's checksum; changes nothing. Exits with 1 where something is wrong."""
    from relay.queue.sqlite import tools

    report = tools.verify(_path(config))
    _show(asdict(report), as_json=as_json)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def repair(
    yes: YesOption = False, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Save what can be read into a new file; the old one is kept beside it."""
    from relay.queue.sqlite import tools

    path = _path(config)
    if not yes:
        typer.confirm(f"Write {path} anew from what can be read of it?", abort=True, err=True)
    _show(asdict(tools.repair(path)), as_json=as_json)


def _path(config: Path) -> Path:
    from relay.cli.configuration import load_config

    return load_config(config).config.queue.path


def _show(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.print_json(document)
        return
    output.console().print(output.fields(document))
