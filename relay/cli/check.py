"""`check`: is the configuration valid, do the destinations answer, and what would they get?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli import output
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from relay.clock import SystemClock
from relay.config.destination import DestinationConfig
from relay.config.schema import Config
from relay.destinations.base import ProbeReport
from relay.errors import ConfigError

if TYPE_CHECKING:  # it loads every destination, which `check` alone does not need
    from relay.cli.explain import Explained


def check(
    config: ConfigOption = DEFAULT_CONFIG,
    probe: Annotated[bool, typer.Option("--probe", help="Also contact every destination.")] = False,
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain", metavar="FILE", help="Show what each destination would get of the lines in FILE."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="With --explain: which source sends them; the first by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Validate the configuration."""
    from relay.cli.configuration import load_config

    loaded = load_config(config)
    reports = asyncio.run(_probe_all(loaded.config.destinations)) if probe else {}
    explained = _explain(explain, source, loaded.config) if explain is not None else None
    if as_json:
        document: output.Document = {
            "valid": True,
            "warnings": list(loaded.warnings),
            "probes": [{"destination": name, **_fields(it)} for name, it in reports.items()],
        }
        if explained is not None:
            document["lines"] = [asdict(each) for each in explained]
        output.print_json(document)
    else:
        _print(config, loaded.warnings, reports)
        _print_explained(explained or ())
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
    except ConfigError as error:  # a certificate that cannot be read, say; the others are still asked
        return ProbeReport(ok=False, detail="; ".join(error.problems))
    except OSError as error:
        return ProbeReport(ok=False, detail=f"cannot be opened: {error.strerror or type(error).__name__}")
    finally:
        await destination.close()


def _explain(path: Path, source: str | None, config: Config) -> Sequence[Explained]:
    from relay.cli.explain import explain

    known = [each.name for each in config.sources]
    if source is not None and source not in known:
        raise ConfigError([f"--source: expected one of {', '.join(known)}, got {source!r}"])
    return explain(path, source or known[0], config.destinations)


def _print_explained(explained: Sequence[Explained]) -> None:
    for each in explained:
        output.print_line(f"\n{each.line}")
        for fate in each.fates:
            outcome = fate.outcome.replace("_", "-")
            text = fate.text if fate.outcome == "sent" else ": ".join(filter(None, (outcome, fate.text)))
            output.print_line(f"  {fate.destination}: {text}")


def _fields(report: ProbeReport) -> output.Document:
    return {"ok": report.ok, "detail": report.detail}


def _print(path: Path, warnings: Sequence[str], reports: dict[str, ProbeReport]) -> None:
    output.print_line(f"{path} is valid.")
    for warning in warnings:
        output.print_line(f"warning: {warning}")
    for name, report in reports.items():
        output.print_line(f"{'ok    ' if report.ok else 'FAILED'} {name}: {report.detail}")
