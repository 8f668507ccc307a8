"""`konnect rotate`: a new authorization without a lost batch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli import output
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
from relay.cli.konnect_secret import Authorization, SecretFileOption, authorization
from relay.cli.konnect_setup import confirm
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, YesOption
from relay.errors import RelayError

if TYPE_CHECKING:
    from relay.recovery.rotation import Rotation


def rotate(
    region: RegionOption = None,
    url: UrlOption = None,
    portal: PortalOption = None,
    source: SourceOption = None,
    secret_file: SecretFileOption = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait until the relay accepts the new authorization.")
    ] = 600.0,
    ca_file: CaFileOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Give Konnect a new authorization, once the relay accepts it beside the old one."""
    at = access(
        config,
        region=region,
        portal=portal,
        token=token,
        token_file=token_file,
        url=url,
        source=source,
    )
    planned = asyncio.run(_plan(at))
    secret = authorization(secret_file)
    confirm(at, planned.steps(), [f"Konnect will send {secret.described()}."], yes=yes)
    secret.keep()
    if secret.file is None:
        typer.echo(f"The new authorization, shown once: {secret.value.reveal()}", err=True)
    asyncio.run(_rotate(at, planned, secret, wait, ca_file))
    _report(at, planned, secret, as_json=as_json)


async def _plan(at: Access) -> Rotation:
    from relay.recovery.rotation import plan_rotation

    async with at.api() as api:
        return await plan_rotation(api, at.scope, endpoint=at.endpoint())


async def _rotate(
    at: Access, planned: Rotation, secret: Authorization, wait: float, ca_file: Path | None
) -> None:
    from relay.clock import SystemClock
    from relay.recovery.rotation import all_accepted, await_acceptance

    source = at.source or "the source"
    typer.echo(
        f"Add it to the `authorization` list of {source} beside the old one, and reload the relay (SIGHUP).",
        err=True,
    )
    await await_acceptance(
        planned.endpoint, secret.value, patience=wait, clock=SystemClock(), ca_file=ca_file
    )
    if not await all_accepted(planned.endpoint, at.authorizations, ca_file=ca_file):
        raise RelayError(
            "The relay accepts the new authorization but not every other one of its configuration."
            " Keep the old one in the list, or batches under way are lost. Konnect keeps the old one."
        )
    async with at.api() as api:
        await api.set_authorization(planned.destination.id, secret.value)


def _report(at: Access, planned: Rotation, secret: Authorization, *, as_json: bool) -> None:
    from relay.recovery.rotation import RETIRE_AFTER

    made = planned.destination
    if as_json:
        output.print_json(
            {
                "region": at.region,
                "portal": at.scope.portal,
                "destination": {"id": made.id, "name": made.name},
                "authorization": None if secret.file else secret.value.reveal(),
                "secret_file": str(secret.file) if secret.file else None,
                "retire_old_after_seconds": RETIRE_AFTER,
            }
        )
        return
    output.console().print(
        f"{made.name} sends the new authorization. Take the old one out of the list in"
        f" {RETIRE_AFTER / 60:.0f} minutes, when no batch carries it any more, and reload.",
        markup=False,
        soft_wrap=True,
    )
