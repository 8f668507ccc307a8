"""`konnect status`: what Konnect says of its webhooks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from relay.admin.times import rfc3339_or_none
from relay.cli import output
from relay.cli.konnect_access import (
    Access,
    PortalOption,
    RegionOption,
    TokenFileOption,
    TokenOption,
    access,
)
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption

if TYPE_CHECKING:
    from relay.recovery.answers import Scope


def status(
    region: RegionOption = None,
    portal: PortalOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Each webhook of the region, configured Dev Portals' too: its last answer, its last replay job."""
    at = access(config, region=region, portal=portal, token=token, token_file=token_file)
    rows = asyncio.run(_rows(at))
    if as_json:
        output.print_json({"region": at.region, "webhooks": rows})
        return
    output.console().print(
        output.table(
            "WEBHOOK",
            "ENABLED",
            "STATUS",
            "DESTINATION",
            "ENDPOINT",
            "LAST ATTEMPT",
            "#CODE",
            "MESSAGE",
            "REPLAY",
            rows=[
                (
                    f"portal {it['portal']}" if it["portal"] else f"organisation ({at.region})",
                    "yes" if it["webhook_enabled"] else "no",
                    it["webhook_status"],
                    it["destination"],
                    it["endpoint"],
                    it["last_attempt_at"],
                    it["last_response_code"],
                    it["last_response_message"],
                    it["replay_status"],
                )
                for it in rows
            ],
        )
    )


def scopes(at: Access) -> list[Scope]:
    """The one that was asked for, or the organisation and every configured portal."""
    portals = at.settings.portals if at.settings is not None and at.scope.portal is None else ()
    return [at.scope, *(replace(at.scope, portal=each.id) for each in portals)]


async def _rows(at: Access) -> list[output.Document]:
    from relay.recovery.binding import binding, shown

    rows: list[output.Document] = []
    async with at.api() as api:
        for scope in scopes(at):
            bound = await binding(api, scope)
            seen = await api.webhook_status(scope)
            job = await api.replay_job(scope)
            rows.append(
                {
                    "portal": scope.portal,
                    "webhook_enabled": seen.enabled,
                    "webhook_status": seen.state.value,
                    "destination": bound.destination.name if bound.destination else None,
                    "endpoint": shown(bound.endpoint) if bound.endpoint else None,
                    "last_attempt_at": rfc3339_or_none(seen.last_attempt_at),
                    "last_response_code": seen.last_response_code,
                    "last_response_message": seen.last_response_message,
                    "replay_status": job.state.value,
                    "replay_from": rfc3339_or_none(job.start),
                    "replay_to": rfc3339_or_none(job.end),
                }
            )
    return rows
