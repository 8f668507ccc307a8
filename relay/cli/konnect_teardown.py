"""`konnect teardown`: take back what `konnect setup` made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.cli import output
from relay.cli.konnect_access import (
    Access,
    NameOption,
    PortalOption,
    RegionOption,
    TokenFileOption,
    TokenOption,
    access,
)
from relay.cli.konnect_setup import confirm
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, YesOption

if TYPE_CHECKING:
    from relay.recovery.teardown import Removal


def teardown(
    region: RegionOption = None,
    portal: PortalOption = None,
    name: NameOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Unset the webhook and delete the destination. What happens from then on is sent to nobody."""
    at = access(config, region=region, portal=portal, token=token, token_file=token_file)
    planned = asyncio.run(_plan(at, name or at.default_name))
    confirm(at, planned.steps(), [], yes=yes)
    asyncio.run(_remove(at, planned))
    made = planned.destination
    if as_json:
        output.print_json(
            {
                "region": at.region,
                "portal": at.scope.portal,
                "destination": {"id": made.id, "name": made.name},
                "webhook_unset": planned.bound,
            }
        )
        return
    done = output.printable(f"The destination {made.name} is gone from Konnect.")
    output.console().print(done, markup=False)


async def _plan(at: Access, name: str) -> Removal:
    from relay.recovery.teardown import plan_removal

    async with at.api() as api:
        return await plan_removal(api, at.scope, name=name)


async def _remove(at: Access, planned: Removal) -> None:
    from relay.clock import SystemClock
    from relay.recovery.teardown import remove

    async with at.api() as api:
        await remove(api, planned, SystemClock())
