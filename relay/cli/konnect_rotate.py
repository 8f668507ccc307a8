"""`konnect rotate`: a new authorization without a lost batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from relay.cli.konnect_secret import Authorization, SecretFileOption, authorization
from relay.cli.konnect_setup import confirm
from relay.cli.moments import duration
from relay.cli.options import (
    DEFAULT_CONFIG,
    AdminTokenOption,
    AdminUrlOption,
    ConfigOption,
    JsonOption,
    YesOption,
)
from relay.errors import ConfigError, RelayError

if TYPE_CHECKING:
    from relay.recovery.rotation import Rotation


def rotate(
    region: RegionOption = None,
    url: UrlOption = None,
    portal: PortalOption = None,
    source: SourceOption = None,
    secret_file: SecretFileOption = None,
    wait: Annotated[
        float,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            show_default="10m",
            help="How long to wait until the relay accepts the new authorization, e.g. 90s or 5m.",
        ),
    ] = 600.0,
    ca_file: CaFileOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
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
    # With --url this machine reaches the relay in a way of its own, which tells nothing of Konnect's way.
    compared = at if url is None else replace(at, base=at.configured_url)
    planned = asyncio.run(_plan(at, compared.leads_here))
    secret = authorization(secret_file)
    confirm(at, planned.steps(), [f"Konnect will send {secret.described()}."], yes=yes)
    secret.keep()
    if secret.file is None:
        typer.echo(f"The new authorization, shown once: {secret.value.reveal()}", err=True)
    replicas = _replicas(config, admin_url, admin_token)
    proof = asyncio.run(_rotate(at, planned, secret, replicas, wait, ca_file))
    _report(at, planned, secret, proof, as_json=as_json)


async def _plan(at: Access, leads_here: Callable[[str | None], bool]) -> Rotation:
    from relay.recovery.rotation import plan_rotation

    async with at.api() as api:
        return await plan_rotation(api, at.scope, endpoint=at.endpoint(), leads_here=leads_here)


def _replicas(config: Path, admin_url: str | None, admin_token: str | None) -> int | None:
    """How many accept, by the relay's own word; None where it cannot be asked."""
    try:
        with reach(config, admin_url, admin_token) as relay:
            seen = relay.get("/api/v1/status")["replicas"]
    except (CommandFailed, ConfigError):
        return None
    return len([each for each in seen if each["role"] != "deliver"])


@dataclass(frozen=True, slots=True)
class Proof:
    """How sure it is that every replica accepts it."""

    replicas: int | None
    knocks: int

    def sentence(self) -> str:
        """What was seen, and what was not."""
        many = "an unknown number of replicas" if self.replicas is None else f"{self.replicas} replicas"
        known = "one process" if self.replicas == 1 else many
        return (
            f"All of {self.knocks} requests, each on a connection of its own, were accepted; the relay is"
            f" {known}. Whom a balancer never leads this machine to was not asked:"
            " make sure that all were reloaded."
        )


async def _rotate(
    at: Access,
    planned: Rotation,
    secret: Authorization,
    replicas: int | None,
    wait: float,
    ca_file: Path | None,
) -> Proof:
    from relay.clock import SystemClock
    from relay.recovery.rotation import all_accepted, await_acceptance, knocks

    source = at.source or "the source"
    typer.echo(
        f"Add it to the `authorization` list of {source} beside the old one, and reload the relay (SIGHUP).",
        err=True,
    )
    endpoint, times = planned.endpoint, knocks(replicas)
    await await_acceptance(
        endpoint, secret.value, times=times, patience=wait, clock=SystemClock(), ca_file=ca_file
    )
    others = [each for each in at.authorizations if each.reveal() != secret.value.reveal()]
    if not await all_accepted(endpoint, others, times=times, ca_file=ca_file):
        raise RelayError(
            "The relay accepts the new authorization but not every other one of its configuration."
            " Keep the old one in the list, or batches under way are lost. Konnect keeps the old one."
        )
    async with at.api() as api:
        await api.set_authorization(planned.destination.id, secret.value)
    return Proof(replicas, times)


def _report(at: Access, planned: Rotation, secret: Authorization, proof: Proof, *, as_json: bool) -> None:
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
                "requests_accepted": proof.knocks,
                "replicas": proof.replicas,
            }
        )
        return
    screen = output.console()
    screen.print(proof.sentence(), markup=False, soft_wrap=True)
    screen.print(
        f"{output.printable(made.name)} sends the new authorization. Take the old one out of the list in"
        f" {RETIRE_AFTER / 60:.0f} minutes, when no batch carries it any more, and reload.",
        markup=False,
        soft_wrap=True,
    )
