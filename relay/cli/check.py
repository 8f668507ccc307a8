"""`check`: is the configuration valid, and do the destinations answer?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from relay.cli import output
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from relay.clock import SystemClock
from relay.config.destination import DestinationConfig
from relay.destinations.base import ProbeReport


def check(
    config: ConfigOption = DEFAULT_CONFIG,
    probe: Annotated[bool, typer.Option("--probe", help="Also contact every destination.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Validate the configuration."""
    from relay.cli.configuration import load_config

    loaded = load_config(config)
    reports = asyncio.run(_probe_all(loaded.config.destinations)) if probe else {}
    if as_json:
        output.print_json(
            {
                "valid": True,
                "warnings": list(loaded.warnings),
                "probes": [{"destination": name, **_fields(it)} for name, it in reports.items()],
            }
        )
    else:
        _print(config, loaded.warnings, reports)
    if not all(report.ok for report in reports.values()):
        raise typer.Exit(1)


async def _probe_all(configs: Sequence[DestinationConfig]) -> dict[str, ProbeReport]:
    """Contact all destinations at once."""
    async with asyncio.TaskGroup() as group:
        probes = {config.name: group.create_task(_probe(config)) for config in configs}
    return {name: probe.result() for name, probe in probes.items()}


async def _probe(config: DestinationConfig) -> ProbeReport:
    from relay.destinations.registry import build

    destination = build(config, clock=SystemClock())
    try:
        await destination.open()
        return await destination.probe()
    except OSError as error:
        # A directory that cannot be written, a certificate that cannot be read.
        return ProbeReport(ok=False, detail=f"It cannot be opened: {error.strerror}.")
    finally:
        await destination.close()


def _fields(report: ProbeReport) -> output.Document:
    return {"ok": report.ok, "detail": report.detail}


def _print(path: Path, warnings: Sequence[str], reports: dict[str, ProbeReport]) -> None:
    screen = output.console()
    screen.print(f"{path} is valid.", markup=False)
    for warning in warnings:
        screen.print(f"warning: {warning}", markup=False)
    for name, report in reports.items():
        screen.print(f"{'ok    ' if report.ok else 'FAILED'} {name}: {report.detail}", markup=False)
