"""`queue`: look into, verify, repair or move the queue of a stopped relay."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from relay.admin.times import rfc3339_or_none
from relay.cli import migrate, output
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, YesOption
from relay.errors import RelayError

app = typer.Typer(
    help="The queue's file; the relay has to be stopped.", no_args_is_help=True, rich_markup_mode=None
)
app.command("migrate")(migrate.migrate)


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
    from relay.config.queue import SqliteQueueConfig

    queue = load_config(config).config.queue
    if not isinstance(queue, SqliteQueueConfig):
        raise RelayError(
            "This is for the file of a SQLite queue; look into one on NATS JetStream with"
            f" `nats stream info {queue.stream}` and `nats kv ls {queue.stream}-state`."
        )
    return queue.path


def _show(document: dict[str, Any], *, as_json: bool) -> None:
    told = _told(document)
    if as_json:
        output.print_json(told)
        return
    screen = output.console()
    lists = {name: value for name, value in told.items() if _is_rows(value)}
    screen.print(output.fields({name: value for name, value in told.items() if name not in lists}))
    for name, rows in lists.items():
        grid = output.table(*rows[0], rows=[row.values() for row in rows], title=name.replace("_", " "))
        screen.print("", grid, sep="\n")


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _told(value: Any, key: str = "") -> Any:
    """The document with its times as everywhere else, in RFC 3339."""
    if isinstance(value, dict):
        return {name: _told(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    if isinstance(value, float) and (key.endswith("_at") or key in ("start", "end")):
        return rfc3339_or_none(value or None)
    return value
