"""`konnect reconcile`: does the relay have everything that Konnect has, and what became of it?

Owns the command's options and what it prints. Both sides are asked in `konnect_reconciling`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from relay.cli import output
from relay.cli.client import CommandFailed, reach
from relay.cli.konnect_access import (
    RegionOption,
    SourceOption,
    TokenFileOption,
    TokenOption,
    access,
)
from relay.cli.konnect_reconciling import Options, Range, Reconciler
from relay.cli.konnect_recovering import PULL_LASTS
from relay.cli.moments import moment
from relay.cli.options import DEFAULT_CONFIG, AdminTokenOption, AdminUrlOption, ConfigOption, JsonOption
from relay.clock import SystemClock

_COLUMNS: Final = (
    "name",
    "received",
    "missing",
    "unproven",
    "extra",
    "dead_lettered",
    "filtered",
    "backlog",
    "not_owed",
)
_NOTES: Final = {
    "unproven": "events are older than what the relay's log still holds.",
    "konnect_unreadable": "events of Konnect's have nothing to compare by.",
    "portal": "accepted events are of a Dev Portal, which Konnect's log does not cover.",
    "unreadable": "accepted events have nothing to compare by.",
    "kept_back": "events were kept back for their signature: they count as not accepted.",
}


def reconcile(
    start: Annotated[
        str,
        typer.Option(
            "--from", help="Happened at or after: 2026-08-22T09:30:00Z (without a zone UTC), or -2h."
        ),
    ],
    end: Annotated[
        str, typer.Option("--to", help="Happened before. What is younger than a minute may be on its way.")
    ] = "-5m",
    heal: Annotated[
        bool, typer.Option("--heal", help="Fetch what is missing: by replay, or else the relay pulls it.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the report: FILE.html or FILE.json."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, max=100_000, help="List at most so many missing and extra events.")
    ] = 1000,
    region: RegionOption = None,
    source: SourceOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the organisation's log with what was accepted and delivered. Exit status 1 unless complete."""
    now = SystemClock().now()
    span = Range(round(moment(start, now) * 1000), round(moment(end, now) * 1000))
    if span.start >= span.end:
        raise typer.BadParameter("--from has to be before --to")
    if report is not None and report.suffix not in (".html", ".json"):
        raise typer.BadParameter("--output: expected a name that ends in .html or .json")
    at = access(config, region=region, portal=None, token=token, token_file=token_file, source=source)
    options = Options(limit, heal=heal, quiet=as_json)
    with reach(config, admin_url, admin_token, timeout=PULL_LASTS) as relay:
        document = asyncio.run(Reconciler(at, relay, span, options).run())
    from relay.recovery.report import enveloped

    if report is not None:
        _write(report, document)
    if as_json:
        output.print_json(enveloped(document))
    else:
        _show(document, report)
    if document["verdict"] != "complete":
        raise typer.Exit(1)


def _write(path: Path, document: dict[str, object]) -> None:
    from relay.recovery.page import html
    from relay.recovery.report import enveloped

    if path.suffix == ".html":
        text = html(document)
    else:
        text = orjson.dumps(
            enveloped(document), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        ).decode()
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from error


def _show(document: Any, report: Path | None) -> None:
    screen = output.console()
    totals = document["totals"]
    screen.print(
        output.table(
            "DESTINATION",
            "#RECEIVED",
            "#MISSING",
            "#UNPROVEN",
            "#EXTRA",
            "#DEAD-LETTERED",
            "#FILTERED",
            "#BACKLOG",
            "#NOT OWED",
            rows=[[each[name] for name in _COLUMNS] for each in document["destinations"]],
        )
    )
    for window in document["windows"]:
        screen.print(
            f"missing {window['missing']:,} between {window['from']} and {window['to']}", markup=False
        )
    if (healing := document["healing"]) is not None:
        screen.print(
            f"{healing['missing_before'] - healing['missing_after']:,} of {healing['missing_before']:,} "
            "missing events came back.",
            markup=False,
        )
        if healing["not_replayed"]:
            screen.print(output.printable(f"No replay: {healing['not_replayed']}"), markup=False)
        if healing["pulls"]:
            accepted = sum(each["accepted"] for each in healing["pulls"])
            screen.print(
                f"The relay pulled Konnect's log instead: {accepted:,} events were new.", markup=False
            )
        if healing["problem"]:
            screen.print(output.printable(healing["problem"]), markup=False)
    for name, sentence in _NOTES.items():
        if totals[name]:
            screen.print(f"{totals[name]:,} {sentence}", markup=False)
    if (deleted_before := document["konnect"]["deleted_before"]) is not None:
        screen.print(
            f"What is older than {deleted_before} cannot be told: Konnect keeps seven days.", markup=False
        )
    screen.print(
        f"{document['verdict']}: Konnect has {totals['konnect']:,} events, {totals['received']:,} of them "
        f"were accepted, {totals['missing']:,} are missing.",
        markup=False,
    )
    if report is not None:
        screen.print(f"The report is in {report}.", markup=False)
