"""`run`: the relay itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption


class Role(StrEnum):
    """Which halves of the relay a process is; they meet in the queue."""

    ALL = "all"
    INGEST = "ingest"
    DELIVER = "deliver"


def run(
    config: ConfigOption = DEFAULT_CONFIG,
    role: Annotated[
        Role, typer.Option(help="Accept and deliver, or only one of the two on the same queue.")
    ] = Role.ALL,
) -> None:
    """Run the relay until SIGTERM. SIGHUP reads the configuration again."""
    import uvloop

    from relay.service import run as run_relay

    uvloop.run(run_relay(config, role.value))
