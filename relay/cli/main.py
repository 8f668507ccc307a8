"""Puts the commands together and turns every failure into one sentence and an exit status.

Exit status: 0 fine, 1 failed, 2 wrong usage or configuration. Nobody sees a stack trace for
something that can go wrong in operation.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from relay import __version__
from relay.cli import (
    check,
    dead_letters,
    demo,
    destinations,
    gaps,
    konnect,
    output,
    queue,
    replay,
    run,
    status,
)
from relay.errors import ConfigError, RelayError

FAILED, WRONG = 1, 2

app = typer.Typer(
    help="Durable fan-out relay between Kong Konnect's audit logs and your SIEMs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("check")(check.check)
app.command("status")(status.status)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(gaps.app, name="gaps")
app.command("replay")(replay.replay)
app.add_typer(destinations.app, name="destinations")
app.add_typer(konnect.app, name="konnect")
app.add_typer(queue.app, name="queue")
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"konnect-relay {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Durable fan-out relay between Kong Konnect's audit logs and your SIEMs."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit; wrong usage and `typer.Exit` exit on their own."""
    try:
        app(arguments)
    except ConfigError as error:
        for problem in error.problems:
            complain(problem)
        raise SystemExit(WRONG) from None
    except RelayError as error:
        complain(str(error))
        raise SystemExit(FAILED) from None
    raise SystemExit(0)


def complain(message: str) -> None:
    sys.stderr.write(output.printable(f"konnect-relay: {message}\n"))
