"""The whole configuration as typed, frozen objects. Defaults stand beside each field.

Owns the shape and the checks that one section can make on its own; what spans sections is in
`relay.config.checks`, reading files in `relay.config.load`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator

from relay.config.destination import DestinationConfig
from relay.config.queue import WEEK, QueueConfig, SqliteQueueConfig
from relay.config.recovery import Recovery
from relay.config.secret import OptionalSecret, Secret, Secrets, is_loopback
from relay.config.types import Duration, Name, Port, Section, Size, refusal


class ServerTls(Section):
    """TLS of the ingest listener. The files are read again when they change."""

    cert: Path = Field(description="PEM file of the certificate and its chain.")
    key: Path = Field(description="PEM file of the certificate's key.")
    client_ca: Path | None = Field(
        None, description="PEM file of authorities; given, senders must show a certificate of theirs."
    )


class Server(Section):
    """The listener Konnect posts to."""

    host: str = Field("0.0.0.0", description="Address to listen on.")
    port: Port = Field(8071, description="Port to listen on; 8071 is Konnect's audit-log port.")
    tls: ServerTls | None = Field(None, description="Serve HTTPS; left out where a proxy does.")
    max_body: Annotated[Size, Field(gt=0)] = Field(
        32 * 1024 * 1024, description="Largest request body as sent (compressed); more is answered 413."
    )
    max_decoded_body: Annotated[Size, Field(gt=0)] = Field(
        128 * 1024 * 1024, description="Largest request body after decompression; more is answered 413."
    )
    max_in_flight_bytes: Annotated[Size, Field(gt=0)] = Field(
        256 * 1024 * 1024, description="Memory all requests in progress may take; beyond, 429."
    )
    header_timeout: Annotated[Duration, Field(gt=0)] = Field(
        10.0, description="Longest time for a request's headers to arrive."
    )
    body_timeout: Annotated[Duration, Field(gt=0)] = Field(
        30.0, description="Longest time for a request's body to arrive."
    )
    keep_alive: Annotated[Duration, Field(gt=0)] = Field(
        75.0, description="How long an idle connection stays open."
    )
    shutdown_grace: Annotated[Duration, Field(gt=0)] = Field(
        8.0, description="How long a stopping relay may take to finish requests, in and out."
    )


class Admin(Section):
    """The listener for metrics, health and the admin API."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8072, description="Port to listen on.")
    token: OptionalSecret = Field(
        None, description="Bearer token of the admin API; required to listen on anything but loopback."
    )

    @model_validator(mode="after")
    def _token_beyond_loopback(self) -> Self:
        if self.token is None and not is_loopback(self.host):
            raise refusal(f"token is required to listen on {self.host}; only loopback does without")
        return self


def _signatures_of_this_version(value: object) -> object:
    if value in ("tag", "quarantine"):
        raise refusal(f"checking signatures ({value}) is not available in this version; expected off")
    return "off" if value is False else value


class Signatures(Section):
    """Checking of Konnect's event signatures."""

    mode: Annotated[
        Literal["off"],
        BeforeValidator(_signatures_of_this_version, json_schema_input_type=Literal["off", False]),
    ] = Field("off", description="Whether signatures are checked; only off in this version.")


def _some(values: tuple[Secret, ...]) -> tuple[Secret, ...]:
    if not values:
        raise refusal("expected the Authorization value Konnect sends; it must not be empty")
    return values


def _off_is_none(value: object) -> object:
    return None if value is False or value == "off" else value


class Source(Section):
    """A configured sender, e.g. one Konnect region or one Dev Portal."""

    name: Name = Field(description="Unique among sources; events come in at POST /audit-logs/{name}.")
    authorization: Annotated[Secrets, AfterValidator(_some)] = Field(
        description="Exact Authorization header of its requests; a list accepts several during rotation."
    )
    signatures: Signatures = Field(default=Signatures(), description="Checking of event signatures.")
    deduplicate: Annotated[
        Duration | None,
        BeforeValidator(_off_is_none, json_schema_input_type=Duration | Literal["off", False]),
    ] = Field(WEEK, description="How long an event is remembered so that a second copy is dropped, or off.")
    silence: Annotated[Duration, Field(gt=0)] | None = Field(
        None, description="Warn when no event has come for so long."
    )


class Logging(Section):
    """The relay's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least important records to write."
    )
    format: Literal["json", "console"] = Field("json", description="JSON lines, or text for people.")


Named = TypeVar("Named", Source, DestinationConfig)


def unique_names(values: tuple[Named, ...]) -> tuple[Named, ...]:
    names = [value.name for value in values]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise refusal(f"names must be unique; used more than once: {', '.join(twice)}")
    if not names:
        raise refusal("expected at least one")
    return values


class Config(Section):
    """Everything a relay is told."""

    server: Server = Field(default=Server(), description="The listener Konnect posts to.")
    admin: Admin = Field(default=Admin(), description="The listener for metrics, health and the admin API.")
    sources: Annotated[tuple[Source, ...], AfterValidator(unique_names)] = Field(description="Who may send.")
    queue: QueueConfig = Field(
        default=SqliteQueueConfig(), description="Where events are kept until every destination has them."
    )
    destinations: Annotated[tuple[SerializeAsAny[DestinationConfig], ...], AfterValidator(unique_names)] = (
        Field(description="Where events go.")
    )
    recovery: Recovery | None = Field(None, description="Fetching what Konnect could not deliver.")
    logging: Logging = Field(default=Logging(), description="The relay's own log.")
