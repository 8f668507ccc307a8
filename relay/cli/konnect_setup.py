"""`konnect setup`: point a webhook of Konnect's at the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli import output
from relay.cli.konnect_access import (
    Access,
    NameOption,
    PortalOption,
    RegionOption,
    SourceOption,
    TokenFileOption,
    TokenOption,
    UrlOption,
    access,
)
from relay.cli.konnect_secret import Authorization, SecretFileOption, authorization
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, YesOption
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config.secret import Secret
    from relay.recovery.answers import DestinationInfo
    from relay.recovery.setup import Plan


class LogFormat(StrEnum):
    """How Konnect writes events."""

    CEF = "cef"
    JSON = "json"
    CPS = "cps"


def setup(
    region: RegionOption = None,
    url: UrlOption = None,
    portal: PortalOption = None,
    source: SourceOption = None,
    name: NameOption = None,
    log_format: Annotated[
        LogFormat, typer.Option("--format", help="How Konnect is to write events.")
    ] = LogFormat.CEF,
    secret_file: SecretFileOption = None,
    as_configured: Annotated[
        bool,
        typer.Option("--as-configured", help="Send what the source is configured with, not a fresh one."),
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also a webhook that sends somewhere else now.")
    ] = False,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Create a destination in Konnect and point the webhook at this relay. Shows first what it will write."""
    at = access(
        config,
        region=region,
        portal=portal,
        token=token,
        token_file=token_file,
        url=url,
        source=source,
    )
    endpoint = at.endpoint()
    if endpoint is None:
        raise ConfigError(["Where does Konnect reach the relay? Give --url, or set recovery.konnect.url."])
    configured = _configured(at, secret_file) if as_configured else None
    planned = asyncio.run(_plan(at, name or at.default_name, endpoint, log_format.value, take_over))
    secret = authorization(secret_file, configured)
    steps = planned.steps()
    notes = [] if planned.existing is not None else [f"Konnect will send {secret.described()}."]
    confirm(at, steps, notes, yes=yes)
    made = asyncio.run(_carry_out(at, planned, secret))
    _report(at, planned, made, secret, as_json=as_json)


def _configured(at: Access, secret_file: Path | None) -> Secret:
    if secret_file is not None:
        raise typer.BadParameter("--as-configured and --secret-file exclude each other")
    if not at.authorizations:
        raise ConfigError(["The configuration names no authorization for this source."])
    return at.authorizations[0]


def confirm(at: Access, steps: Sequence[str], notes: Sequence[str], *, yes: bool) -> None:
    """Show what is going to be written, and ask unless told not to. On standard error."""
    typer.echo(f"To be done in Konnect ({at.region}):", err=True)
    for number, step in enumerate(steps, 1):
        typer.echo(f"  {number}. {output.printable(step)}", err=True)
    for note in notes:
        typer.echo(note, err=True)
    if not yes:
        typer.confirm("Go on?", abort=True, err=True)


async def _plan(at: Access, name: str, endpoint: str, log_format: str, take_over: bool) -> Plan:
    from relay.recovery.setup import plan

    async with at.api() as api:
        return await plan(
            api, at.scope, name=name, endpoint=endpoint, log_format=log_format, take_over=take_over
        )


async def _carry_out(at: Access, planned: Plan, secret: Authorization) -> DestinationInfo:
    from relay.clock import SystemClock
    from relay.recovery.setup import SetupFailed, carry_out

    if planned.existing is None:
        secret.keep()  # before Konnect knows it: afterwards nobody could read it any more
    try:
        # A client of its own: the other one's connections may have died while somebody thought.
        async with at.api() as api:
            return await carry_out(api, planned, secret.value, SystemClock())
    except SetupFailed as failed:
        # Where something is left, Konnect may be sending it by now.
        if failed.undone:
            secret.forget()
        raise


def _report(
    at: Access, planned: Plan, made: DestinationInfo, secret: Authorization, *, as_json: bool
) -> None:
    unused = planned.existing is not None
    shown = secret.value.reveal() if secret.fresh and secret.file is None and not unused else None
    if as_json:
        output.print_json(
            {
                "region": at.region,
                "portal": at.scope.portal,
                "destination": {"id": made.id, "name": made.name},
                "endpoint": planned.endpoint,
                "log_format": planned.log_format,
                "authorization": shown,
                "secret_file": str(secret.file) if secret.file and not unused else None,
            }
        )
        return
    screen = output.console()
    done = output.printable(f"The webhook of {at.scope} is enabled and sends to {made.name}.")
    screen.print(done, markup=False)
    if unused or (shown is None and secret.file is None):
        return
    screen.print(
        f"The source {at.source or 'it comes in at'} has to accept this authorization:", markup=False
    )
    value = f"{{file: {secret.file}}}" if secret.file else shown
    screen.print(f"  authorization: {value}", markup=False, soft_wrap=True)
    if shown is not None:
        screen.print(
            "It is not shown again. A relay that does not know it yet answers 401 and loses batches."
        )
