"""The `recovery` section: how Konnect's control API is reached, and how gaps are closed through it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from relay.config.secret import OptionalSecret, SecretUrl, is_loopback
from relay.config.types import Duration, Name, Section, refusal


def _public(url: SecretUrl) -> SecretUrl:
    if url.scheme != "https" and not is_loopback(url.host):
        raise refusal("expected an https URL: Konnect sends to no other")
    return url


def _base(url: SecretUrl) -> SecretUrl:
    if urlsplit(url.reveal()).query or urlsplit(url.reveal()).fragment:
        raise refusal("expected a URL without a query")
    return _public(url)


PublicUrl = Annotated[SecretUrl, AfterValidator(_public)]
BaseUrl = Annotated[SecretUrl, AfterValidator(_base)]
Region = Annotated[str, Field(pattern=r"^[a-z]{2,12}$")]


class Portal(Section):
    """A Dev Portal, whose webhook is one of its own."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = Field(description="The portal's id.")
    source: Name = Field(description="The source its audit logs come in at.")


class KonnectRecovery(Section):
    """One region of a Konnect organisation."""

    region: Region = Field(description="The region, e.g. us, eu, au, me, in or sg.")
    token: OptionalSecret = Field(
        None, description="Access token with the role Audit Logs / Admin; without one, gaps are only told."
    )
    source: Name | None = Field(
        None, description="The source the organisation's audit logs come in at; left out: the only one."
    )
    portals: tuple[Portal, ...] = Field((), description="Dev Portals, each with its id and its source.")
    url: PublicUrl | None = Field(
        None, description="Where Konnect reaches this relay, e.g. https://relay.example.com."
    )
    margin: Duration = Field(
        120.0, description="How far recovery reaches beyond a gap's ends, for times are not exact."
    )
    status_interval: Annotated[Duration, Field(gt=0)] = Field(
        60.0, description="Time between two looks at what Konnect says of the webhook."
    )
    job_interval: Annotated[Duration, Field(gt=0)] = Field(
        10.0, description="Time between two looks at a replay job."
    )
    heartbeat: Annotated[Duration, Field(gt=0)] | None = Field(
        None,
        description="Warn when no event follows a look at the webhook for so long; left out: do not look.",
    )
    timeout: Annotated[Duration, Field(gt=0)] = Field(
        20.0, description="Longest time a call of Konnect's API may take."
    )
    regional_url: BaseUrl | None = Field(
        None, description="In place of https://{region}.api.konghq.com, e.g. a proxy's."
    )
    global_url: BaseUrl | None = Field(
        None, description="In place of https://global.api.konghq.com, where destinations are kept."
    )


class Recovery(Section):
    """Fetching what Konnect could not deliver."""

    konnect: KonnectRecovery = Field(description="Access to Konnect's control API.")
