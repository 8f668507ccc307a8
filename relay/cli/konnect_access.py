"""What every `konnect` command needs to know first: region, token, whose webhook, and where the relay is.

Owns the options and the order in which they are looked for: the command line, the environment, the
configuration. A machine without a configuration file will do, where the command line says everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from relay.cli.options import DEFAULT_CONFIG
from relay.errors import ConfigError

if TYPE_CHECKING:  # loading these takes longer than a command's `--help` should
    from relay.config.recovery import KonnectRecovery
    from relay.config.schema import Config
    from relay.config.secret import Secret
    from relay.recovery.answers import Scope
    from relay.recovery.api import Hosts, KonnectApi

RegionOption = Annotated[
    str | None, typer.Option(help="The organisation's region, e.g. us; otherwise as configured.")
]
PortalOption = Annotated[
    str | None,
    typer.Option("--portal", metavar="ID", help="The webhook of this Dev Portal, not the organisation's."),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="KONNECT_TOKEN",
        help="Konnect access token. Better given in the environment: arguments are visible to everyone.",
    ),
]
TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="A file that holds the token.")
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", help="Where Konnect reaches the relay: https://host, or with the whole path of a source."
    ),
]
SourceOption = Annotated[
    str | None, typer.Option("--source", help="The source whose path it is; otherwise as configured.")
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="The destination's name in Konnect; unique there.")
]
CaFileOption = Annotated[
    Path | None,
    typer.Option("--ca-file", metavar="FILE", help="Authorities for the relay's certificate, in PEM."),
]

_TIMEOUT: Final = 20.0  # seconds, where no configuration says otherwise


@dataclass(frozen=True, slots=True)
class Access:
    """One webhook of one region, and how it is reached."""

    region: str
    scope: Scope
    source: str | None  # None: not known
    base: str | None  # where Konnect reaches the relay, as it was given
    authorizations: tuple[Secret, ...]  # the source's, as configured here
    token: Secret
    settings: KonnectRecovery | None  # of this region
    alone: bool  # the configuration names no other source

    @property
    def default_name(self) -> str:
        """Of the destination; names are unique over all regions."""
        return f"konnect-relay-{self.scope.portal or self.region}"

    @property
    def configured_url(self) -> str | None:
        """Where Konnect reaches the relay, by the configuration."""
        url = None if self.settings is None else self.settings.url
        return None if url is None else url.reveal()

    def endpoint(self) -> str | None:
        """The URL of the source's intake; None where it is not known. Raises `ConfigError`."""
        from relay.recovery.binding import endpoint_of, is_whole

        if self.base is None:
            return None
        if self.source is None and not is_whole(self.base):
            raise ConfigError(["Which source is it? Give --source, or --url with its whole path."])
        return endpoint_of(self.base, self.source or "")

    def leads_here(self, endpoint: str | None) -> bool:
        """Whether what Konnect sends there comes to the relay, as far as it can be told here."""
        from relay.recovery.binding import is_ours

        return self.source is None or is_ours(endpoint, self.source, base=self.base, alone=self.alone)

    def hosts(self) -> Hosts:
        """Where Konnect's API is."""
        from relay.recovery.api import Hosts

        return Hosts.of_region(self.region) if self.settings is None else Hosts.of(self.settings)

    def api(self) -> KonnectApi:
        """A client that is to be opened."""
        from relay.clock import SystemClock
        from relay.recovery.api import KonnectApi

        timeout = _TIMEOUT if self.settings is None else self.settings.timeout
        return KonnectApi(self.hosts(), self.token, clock=SystemClock(), timeout=timeout)


def access(
    config: Path,
    *,
    region: str | None,
    portal: str | None,
    token: str | None,
    token_file: Path | None,
    url: str | None = None,
    source: str | None = None,
) -> Access:
    """Put together what was given. Raises `ConfigError` and `typer.BadParameter`."""
    from relay.recovery.answers import Scope

    loaded = _loaded(config)
    settings = loaded.recovery.konnect if loaded is not None and loaded.recovery is not None else None
    found = region or (settings.region if settings else None)
    if found is None:
        raise ConfigError(["Which region is it? Give --region, or set recovery.konnect.region."])
    ours = settings if settings is not None and settings.region == found else None
    where = source or _source(loaded, ours, portal)
    configured = ours.url.reveal() if ours is not None and ours.url is not None else None
    return Access(
        region=_region(found),
        scope=Scope(portal),
        source=where,
        base=_public(url) if url else configured,
        authorizations=tuple(
            secret
            for each in (loaded.sources if loaded else ())
            if each.name == where
            for secret in each.authorization
        ),
        token=_token(token, token_file, settings),
        settings=ours,
        alone=loaded is not None and len(loaded.sources) == 1,
    )


def _loaded(path: Path) -> Config | None:
    if path == DEFAULT_CONFIG and not path.exists():
        return None
    from relay.cli.configuration import load_config

    return load_config(path).config


def _region(text: str) -> str:
    from relay.recovery.api import Hosts

    try:
        Hosts.of_region(text)
    except ValueError as error:
        raise typer.BadParameter(f"--region: {error}, got {text!r}") from None
    return text


def _source(config: Config | None, settings: KonnectRecovery | None, portal: str | None) -> str | None:
    """The source that the configuration names for this webhook."""
    if portal is not None:
        portals = settings.portals if settings is not None else ()
        return next((each.source for each in portals if each.id == portal), None)
    if settings is not None and settings.source is not None:
        return settings.source
    return config.sources[0].name if config is not None and len(config.sources) == 1 else None


def _public(url: str) -> str:
    from relay.config.secret import is_loopback

    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and not parts.fragment and not parts.username
    except ValueError:  # a port or an IPv6 address that is none
        usable = False
    else:
        usable = usable and (parts.scheme == "https" or is_loopback(parts.hostname or ""))
    if not usable:
        raise typer.BadParameter("--url: expected https://…; Konnect sends to nothing else")
    return url


def _token(given: str | None, file: Path | None, settings: KonnectRecovery | None) -> Secret:
    from relay.config.secret import Secret

    if file is not None:
        text = read_secret(file)
    elif given:
        text = given
    elif settings is not None and settings.token is not None:
        text = settings.token.reveal()
    else:
        raise ConfigError(
            ["No Konnect token: set KONNECT_TOKEN, give --token-file, or set recovery.konnect.token."]
        )
    text = text.strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(["The Konnect token holds characters that no token has."])
    return Secret(text)


def read_secret(path: Path) -> str:
    """A file's content without its last line end. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: cannot be read: it is not UTF-8 text"]) from None
    if not text:
        raise ConfigError([f"{path}: is empty"])
    return text
