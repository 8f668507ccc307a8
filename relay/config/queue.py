"""The `queue` section: one file on a local disk, or a NATS cluster.

Owns what each kind of queue is told and the checks it can make on its own. Whether a server can be reached
and is set up as it should be is found out by the queue that uses it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from relay.config.destination import ClientTls, Texts
from relay.config.secret import OptionalSecret, Secret, is_loopback
from relay.config.types import Duration, Section, Size, Whole, refusal, shown

WEEK: Final = 7 * 86400.0  # seconds; as long as Konnect itself keeps audit logs

WhenFull = Literal["release_laggards", "reject"]

_REPLICAS: Final = (1, 3, 5)  # what NATS takes; an even number would bear no more failures
_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
# https://docs.nats.io/using-nats/developer/connecting/creds
_CREDS = re.compile(
    r"-----BEGIN NATS USER JWT-----\n\S+\n.*-----BEGIN USER NKEY SEED-----\nSU[A-Z2-7]{56}\n", re.DOTALL
)
_USER_SEED = re.compile(r"SU[A-Z2-7]{56}")


class SqliteQueueConfig(Section):
    """The embedded queue: one file on a local disk."""

    type: Literal["sqlite"] = Field("sqlite", description="Kind of queue: sqlite or jetstream.")
    path: Path = Field(Path("data/relay.db"), description="The queue's file, on a local disk.")
    max_bytes: Annotated[Size, Field(gt=0)] = Field(10 * 1024**3, description="Most disk the queue may use.")
    min_free_disk: Size = Field(1024**3, description="Disk space that is left to others.")
    when_full: WhenFull = Field(
        "release_laggards",
        description="Full: dead-letter what the destination furthest behind is owed, or answer 429.",
    )
    retention: Duration = Field(
        WEEK, description="How long delivered events stay, for replay and for destinations added later."
    )


def _address(url: str, *, schemes: tuple[str, str], example: str) -> str:
    """Scheme, host and port. Messages never repeat the value: it may hold a password."""
    try:
        parts = urlsplit(url)
        further = (parts.path, parts.query, parts.fragment)
        valid = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and not any(further)
    except ValueError:  # a port or an IPv6 address that is none
        valid = False
    if "@" in url:
        raise refusal("credentials do not belong into a URL; expected them in keys of their own")
    if not valid or any(character.isspace() for character in url):
        raise refusal(f"expected a URL such as {example}")
    return url


def _server(url: str) -> str:
    return _address(url, schemes=("nats", "tls"), example="nats://n1:4222 or tls://n1:4222")


def _monitor(url: str) -> str:
    return _address(url.rstrip("/"), schemes=("http", "https"), example="http://n1:8222")


def _odd(value: int) -> int:
    if value not in _REPLICAS:
        raise refusal(f"expected 1, 3 or 5, got {value}")
    return value


def _prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise refusal(
            "expected a name of lower-case letters, digits, '_' and '-' "
            f"that starts with a letter or digit, got {shown(value)}"
        )
    return value


def _subject(value: str) -> str:
    if not _SUBJECT.fullmatch(value):
        raise refusal(f"expected a subject without wildcards, got {shown(value)}")
    return value


def _creds(secret: Secret | None) -> Secret | None:
    if secret is not None and not _CREDS.search(secret.reveal().replace("\r\n", "\n") + "\n"):
        raise refusal("expected the content of a .creds file, with a user's JWT and nkey seed")
    return secret


def _seed(secret: Secret | None) -> Secret | None:
    if secret is not None and not _USER_SEED.fullmatch(secret.reveal()):
        raise refusal("expected the seed of a user's nkey, which starts with SU")
    return secret


class Placement(Section):
    """On which servers of a larger installation the streams lie."""

    cluster: str | None = Field(None, description="Name of the NATS cluster that holds the streams.")
    tags: Texts | None = Field(None, description="Server tags that every replica's server must have.")


class JetStreamQueueConfig(Section):
    """The queue on NATS JetStream, shared by any number of relays."""

    type: Literal["jetstream"] = Field(description="Kind of queue: sqlite or jetstream.")
    servers: Annotated[tuple[Annotated[str, AfterValidator(_server)], ...], Field(min_length=1)] = Field(
        description="Where NATS is, e.g. tls://n1:4222; servers not named here are learnt from these."
    )
    replicas: Annotated[Whole, AfterValidator(_odd), Field(json_schema_extra={"enum": list(_REPLICAS)})] = (
        Field(
            3, description="How many servers keep each event; an event is accepted when most of them have it."
        )
    )
    stream: Annotated[
        str, AfterValidator(_prefix), Field(json_schema_extra={"pattern": f"^{_PREFIX.pattern}$"})
    ] = Field(
        "konnect-audit",
        description="Name prefix of everything the relay creates. One per relay installation.",
    )
    credentials: Annotated[OptionalSecret, AfterValidator(_creds)] = Field(
        None, description="Content of a .creds file, best given as {file: /path}."
    )
    token: OptionalSecret = Field(None, description="Token of the server's `authorization`.")
    user: str | None = Field(None, description="User name; goes with password.")
    password: OptionalSecret = Field(None, description="Password of user.")
    nkey: Annotated[OptionalSecret, AfterValidator(_seed)] = Field(None, description="Seed of a user's nkey.")
    tls: ClientTls | None = Field(
        None, description="TLS towards NATS. Given, or with a tls:// URL, the relay speaks nothing else."
    )
    manage: bool = Field(
        default=True, description="Create the streams and keep their settings; off: only check them."
    )
    max_bytes: Annotated[Size, Field(gt=0)] = Field(
        10 * 1024**3, description="Most disk the queue may use, on each server that keeps it."
    )
    when_full: WhenFull = Field(
        "release_laggards",
        description="Full: dead-letter what the destination furthest behind is owed, or answer 429.",
    )
    retention: Duration = Field(
        WEEK, description="How long delivered events stay, for replay and for destinations added later."
    )
    placement: Placement | None = Field(None, description="Which servers keep the streams; left out: any.")
    api_prefix: Annotated[str, AfterValidator(_subject)] = Field(
        "$JS.API", description="Subject of the JetStream API; $JS.NAME.API where it is in a domain."
    )
    inbox_prefix: Annotated[str, AfterValidator(_subject)] = Field(
        "_INBOX", description="Subject below which answers come back, where the user may not use _INBOX."
    )
    monitoring: tuple[Annotated[str, AfterValidator(_monitor)], ...] = Field(
        (), description="Monitoring endpoints, e.g. http://n1:8222; asked how often servers sync."
    )
    connect_timeout: Annotated[Duration, Field(gt=0)] = Field(
        10.0, description="Longest time to wait for NATS at the start."
    )

    @property
    def encrypted(self) -> bool:
        """Whether nothing may cross the network without TLS."""
        return self.tls is not None or any(url.startswith("tls:") for url in self.servers)

    @property
    def exposed(self) -> tuple[str, ...]:
        """Hosts to which events and credentials may go unencrypted."""
        hosts = [urlsplit(url).hostname or "" for url in self.servers]
        return () if self.encrypted else tuple(host for host in hosts if not is_loopback(host))

    @model_validator(mode="after")
    def _one_way_to_identify(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise refusal("user and password go together; one of them is missing")
        given = [name for name in ("credentials", "token", "user", "nkey") if getattr(self, name) is not None]
        if len(given) > 1:
            raise refusal(f"expected one of credentials, token, user and nkey, got {' and '.join(given)}")
        return self


def _kind(value: Any) -> str:
    """Which of the two a section is; without `type` it is the default. What is no section fails as sqlite."""
    kind = value.get("type", "sqlite") if isinstance(value, dict) else getattr(value, "type", "sqlite")
    return kind if isinstance(kind, str) else shown(kind)


QueueConfig = Annotated[
    Annotated[SqliteQueueConfig, Tag("sqlite")] | Annotated[JetStreamQueueConfig, Tag("jetstream")],
    Discriminator(_kind),
]
"""Told apart by `type`."""
