"""What every destination's configuration has in common, whatever its type.

A destination type subclasses `DestinationConfig` in its own module, sets `type` to its own literal and
adds what its vendor needs; secrets in it are `Secret`, addresses `SecretUrl`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from relay.config.secret import OptionalSecret
from relay.config.types import Duration, Name, Section, Size, Whole, format_duration, refusal, shown

EventTypeName = Literal["authentication", "authorization", "access"]
Texts = Annotated[tuple[str, ...], Field(min_length=1)]

FormatName = Literal["source", "cef", "json", "cps", "ecs", "ocsf"]
RedactedField = Literal["user_agent", "query", "principal_name", "src", "request", "principal_id", "actor_id"]
RedactionMethod = Literal["drop", "mask", "hash"]

_RETRY_SIGNAL = re.compile(r"connection_error|[45]xx|[45][0-9]{2}")
_RETRY_SIGNALS_SCHEMA = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string", "pattern": f"^({_RETRY_SIGNAL.pattern})$"},
            {"type": "integer", "minimum": 400, "maximum": 599},
        ]
    },
}


def _retry_signals(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise refusal(f"expected a list such as [connection_error, 429, 5xx], got {shown(value)}")
    signals = tuple(dict.fromkeys(str(signal) for signal in value))
    for signal in signals:
        if not _RETRY_SIGNAL.fullmatch(signal):
            raise refusal(f"expected connection_error, 4xx, 5xx or a status from 400 to 599, got {signal!r}")
        if signal == "501":
            raise refusal("501 means that the method is not implemented; it is never retried")
    return signals


class Filter(Section):
    """Which events a destination gets: those that meet every condition given."""

    types: Annotated[tuple[EventTypeName, ...], Field(min_length=1)] | None = Field(
        None, description="Event types to deliver; left out: all. Told by the event's name."
    )
    min_severity: Annotated[Whole, Field(ge=0, le=10)] = Field(
        0, description="Deliver events of this severity (0 to 10) and above."
    )
    products: Texts | None = Field(
        None, description="Products to deliver, e.g. Konnect or Dev-Portal; left out: all."
    )
    sources: Texts | None = Field(None, description="Names of sources to deliver; left out: all.")
    exclude_kong_initiated: bool = Field(
        default=False, description="Leave out events that Kong itself caused (kong_initiated)."
    )
    names: Texts | None = Field(
        None, description="Patterns of event names to deliver, e.g. Authz.*; left out: all."
    )
    alerts: bool = Field(
        default=False, description="Deliver only what Kong advises to be alerted of, see docs/alerts.md."
    )


class BatchLimits(Section):
    """How many events go out in one request."""

    max_events: Annotated[Whole, Field(ge=1)] = Field(1000, description="Most events in one request.")
    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        1024 * 1024, description="Most bytes in one request, before compression."
    )
    compression: Literal["none", "gzip"] = Field("none", description="How request bodies are compressed.")
    linger: Annotated[Duration, Field(le=900)] = Field(
        0.0, description="How long an idle destination waits for more events before it sends the first."
    )


class Retry(Section):
    """When to send again, and when to stop and hold. The defaults are Konnect's own documented policy."""

    min_wait: Annotated[Duration, Field(gt=0)] = Field(
        1.0, description="Wait before the first retry; doubles with each further one."
    )
    max_wait: Duration = Field(30.0, description="Longest wait between two attempts.")
    max_retries: Annotated[Whole, Field(ge=0)] = Field(
        4, description="Retries after the first attempt, before on_exhausted applies."
    )
    max_retry_after: Duration = Field(
        300.0, description="Longest wait a destination may ask for by Retry-After."
    )
    on: Annotated[tuple[str, ...], BeforeValidator(_retry_signals), WithJsonSchema(_RETRY_SIGNALS_SCHEMA)] = (
        Field(
            ("connection_error", "408", "429", "5xx"),
            description="What is retried: connection_error, a status, 4xx or 5xx. 501 never is.",
        )
    )
    on_exhausted: Literal["hold", "dead_letter"] = Field(
        "hold", description="After the last retry: keep everything and probe, or dead-letter these events."
    )
    probe_interval: Annotated[Duration, Field(gt=0)] = Field(
        30.0, description="Time between two probes of a held destination."
    )
    probe_max_events: Annotated[Whole, Field(ge=1)] = Field(10, description="Most events in a probe.")

    @model_validator(mode="after")
    def _waits_in_order(self) -> Self:
        if self.min_wait > self.max_wait:
            raise refusal(
                f"min_wait ({format_duration(self.min_wait)}) must not be longer than "
                f"max_wait ({format_duration(self.max_wait)})"
            )
        return self


class ClientTls(Section):
    """TLS of connections that the relay opens."""

    verify: bool = Field(
        default=True, description="Check the server's certificate. Off only against a test system."
    )
    ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust, in place of the system's."
    )
    cert: Path | None = Field(None, description="PEM file of our client certificate.")
    key: Path | None = Field(None, description="PEM file of the client certificate's key.")

    @model_validator(mode="after")
    def _cert_with_key(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise refusal("cert and key go together; one of them is missing")
        return self


class Redact(Section):
    """Fields that are taken out of events before they leave for this destination."""

    fields: Annotated[dict[RedactedField, RedactionMethod], Field(min_length=1)] = Field(
        description="The fields, each with what becomes of it: drop, mask (***) or hash (HMAC-SHA256)."
    )
    key: OptionalSecret = Field(
        None, description="Key of the hashes; equal values give equal hashes under the same key."
    )

    @model_validator(mode="after")
    def _key_for_hashes(self) -> Self:
        if self.key is None and "hash" in self.fields.values():
            raise refusal("`hash` needs a `key`: without one, whoever guesses a value can prove it")
        return self


def _redact(value: object) -> object:
    """`[user_agent, src]` stands for dropping them; `{src: mask}` for `{fields: {src: mask}}`."""
    if isinstance(value, list | tuple):
        return {"fields": {str(name): "drop" for name in value}}
    if isinstance(value, dict) and not value.keys() & {"fields", "key"}:
        return {"fields": value}
    return value


class DestinationConfig(Section):
    """A configured SIEM: what all types share."""

    name: Name = Field(description="Unique among destinations; its watermark is stored under this name.")
    type: str = Field(description="What kind of destination it is.")
    format: FormatName = Field(
        "source", description="How events are written: source passes the received bytes through."
    )
    filter: Filter = Field(default=Filter(), description="Which events this destination gets.")
    redact: Annotated[Redact | None, BeforeValidator(_redact)] = Field(
        None, description="Fields this destination must not see: a list, or each with drop, mask or hash."
    )
    batch: BatchLimits = Field(default=BatchLimits(), description="How many events go out in one request.")
    retry: Retry = Field(default=Retry(), description="When to send again, and when to hold.")
    max_in_flight: Annotated[Whole, Field(ge=1, le=64)] = Field(
        1, description="Requests under way at once. More than one gives up the order of events."
    )
    timeout: Annotated[Duration, Field(gt=0)] = Field(
        30.0, description="Longest time a request may take, from connecting to the last byte."
    )
    tls: ClientTls = Field(default=ClientTls(), description="TLS towards this destination.")
    start_from: Literal["now", "earliest"] = Field(
        "now", description="Where a destination added later begins: with new events, or all retained ones."
    )
