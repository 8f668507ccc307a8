"""The options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

DEFAULT_CONFIG: Final = Path("config/relay.yaml")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="RELAY_CONFIG", help="The configuration file.")
]
AdminUrlOption = Annotated[
    str | None,
    typer.Option(
        "--admin-url",
        help="Where the relay's admin API is, e.g. http://127.0.0.1:8072; otherwise as configured.",
    ),
]
AdminTokenOption = Annotated[
    str | None,
    typer.Option(
        "--admin-token",
        envvar="RELAY_ADMIN_TOKEN",
        help="With --admin-url. Better given in the environment: arguments are visible to everyone.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DestinationOption = Annotated[str | None, typer.Option("--destination", help="Of this destination only.")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="Not older than this: 2026-08-22T09:30:00Z, or -2h for two hours ago."),
]
