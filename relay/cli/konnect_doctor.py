"""`konnect doctor`: is everything right between Konnect and the relay, and what is to be done?"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from relay.admin.times import parse_rfc3339
from relay.cli import output
from relay.cli.client import CommandFailed, reach
from relay.cli.konnect_access import (
    Access,
    CaFileOption,
    PortalOption,
    RegionOption,
    SourceOption,
    TokenFileOption,
    TokenOption,
    UrlOption,
    access,
)
from relay.cli.konnect_status import scopes
from relay.cli.options import DEFAULT_CONFIG, AdminTokenOption, AdminUrlOption, ConfigOption, JsonOption
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.recovery.answers import Scope
    from relay.recovery.finding import Finding
    from relay.recovery.findings import RelayView
    from relay.recovery.gap_finding import OpenGap

_MARKS: Final = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM"}


def doctor(
    region: RegionOption = None,
    url: UrlOption = None,
    portal: PortalOption = None,
    source: SourceOption = None,
    ca_file: CaFileOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Webhook, endpoint, certificate, last batch, clock and gaps. Exits with 1 where there is a problem."""
    at = access(
        config,
        region=region,
        portal=portal,
        token=token,
        token_file=token_file,
        url=url,
        source=source,
    )
    places = [
        at
        if scope == at.scope
        else access(
            config,
            region=region,
            portal=scope.portal,
            token=token,
            token_file=token_file,
        )
        for scope in scopes(at)
    ]
    # Before anything is sent to the relay's intake: what it saw last should be Konnect's.
    views = [_relay(place, config, admin_url, admin_token) for place in places]
    reports = asyncio.run(_examine(places, views, ca_file))
    if as_json:
        output.print_json(
            [{"portal": scope.portal, **asdict(finding)} for scope, them in reports for finding in them]
        )
    else:
        _print(reports)
    if any(finding.level.value == "problem" for _, them in reports for finding in them):
        raise typer.Exit(1)


async def _examine(
    places: list[Access], views: list[RelayView | str], ca_file: Path | None
) -> list[tuple[Scope, tuple[Finding, ...]]]:
    from relay.clock import SystemClock
    from relay.recovery.examination import examine
    from relay.recovery.findings import findings

    reports = []
    async with places[0].api() as api:
        for place, view in zip(places, views, strict=True):
            facts = await examine(
                api,
                place.scope,
                expected=_expected(place),
                authorization=place.authorizations[0] if place.authorizations else None,
                relay=view,
                clock=SystemClock(),
                ca_file=ca_file,
            )
            reports.append((place.scope, findings(facts)))
    return reports


def _expected(place: Access) -> str | None:
    try:
        return place.endpoint()
    except ConfigError:  # the source is not known, and that is a finding of its own
        return None


def _relay(place: Access, config: Path, admin_url: str | None, admin_token: str | None) -> RelayView | str:
    """What the relay says of the source, or why it says nothing."""
    from relay.recovery.findings import RelayView

    if place.source is None:
        return "Which source the events come in at is not known, so the relay was not asked."
    try:
        with reach(config, admin_url, admin_token) as relay:
            rows = {row["name"]: row for row in relay.get("/api/v1/status")["sources"]}
            gaps = relay.get("/api/v1/gaps")["data"]
    except CommandFailed as error:
        return str(error)
    except ConfigError:  # there is none on this machine; everything else was given
        return "No configuration says where the relay's admin API is, so the relay was not asked."
    if place.source not in rows:
        return f"The relay has no source {place.source}."
    row = rows[place.source]
    return RelayView(
        place.source,
        None if row["last_event_at"] is None else parse_rfc3339(row["last_event_at"]),
        tuple(_gap(each) for each in gaps if each["source"] == place.source),
        row["lost_gaps"],
    )


def _gap(row: Any) -> OpenGap:
    from relay.recovery.gap_finding import OpenGap

    return OpenGap(
        row["id"],
        parse_rfc3339(row["start"]),
        parse_rfc3339(row["end"]),
        by_relay=not row["replay"],
        doing=row["doing"],
        at_work=row["at_work"],
    )


def _print(reports: list[tuple[Scope, tuple[Finding, ...]]]) -> None:
    screen = output.console()
    for scope, them in reports:
        if len(reports) > 1:
            screen.print(f"{scope}:", markup=False)
        for finding in them:
            text = f"{_MARKS[finding.level.value]} {finding.check}: {output.printable(finding.text)}"
            screen.print(text + (f" -> {finding.next}" if finding.next else ""), markup=False, soft_wrap=True)
