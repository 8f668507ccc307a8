"""Sending to an HTTP Event Collector: what Splunk and LogScale have in common.

Owns the request. Which address, which credentials and what an answer means is the dialect's, in
`splunk_hec` and `logscale`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from yarl import URL

from relay.clock import Clock
from relay.config.destination import BatchLimits
from relay.config.types import Size, refusal
from relay.destinations.base import Misconfigured, Outcome, ProbeReport
from relay.destinations.classify import Reply, classify
from relay.destinations.hec_envelope import Envelope
from relay.destinations.http_config import OptionalHeaderSecret, UrlConfig
from relay.destinations.posting import Ask, Intake, NoReply, PostingDestination, Proof
from relay.model import Event


class HecBatchLimits(BatchLimits):
    """1 MB is what Splunk has always taken and what other senders keep to."""

    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        1_000_000, description="Most bytes in one request, before compression."
    )
    compression: Literal["none", "gzip"] = Field("gzip", description="How request bodies are compressed.")


class HecConfig(UrlConfig):
    """What every HEC dialect lets one set."""

    token: OptionalHeaderSecret = Field(default=None, description="Ingest token, without a scheme.")
    authorization: OptionalHeaderSecret = Field(
        default=None, description="Value of the Authorization header, sent verbatim, in place of `token`."
    )
    host: str | None = Field(default="konghq.com", description="`host` of every event.")
    source: str | None = Field(default="konnect", description="`source` of every event.")
    sourcetype: str | None = Field(default=None, description="`sourcetype` of every event.")
    index: str | None = Field(default=None, description="`index` of every event; by default the token's.")
    batch: HecBatchLimits = Field(
        default=HecBatchLimits(), description="How many events go out in one request."
    )

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.token is None) == (self.authorization is None):
            raise refusal("expected either `token` or `authorization`")
        return self


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where HEC implementations differ."""

    scheme: str  # of the Authorization header
    url: URL  # for events
    judge: Callable[[Reply, int, float], Outcome]  # reply, number of events sent, now
    headers: Mapping[str, str] = field(default_factory=dict)
    health: URL | None = None  # answers without credentials
    lines: bool = False  # takes lines as they are, without an envelope
    proof: Proof | None = None  # that events are indexed, where the answer is none
    check: Callable[[Ask, float], Awaitable[NoReply | None]] | None = None  # what a probe looks at as well


def collector(config: HecConfig, dialect: Dialect, *, clock: Clock) -> PostingDestination:
    """The destination for *config*, which speaks *dialect*."""
    envelope = Envelope(
        host=config.host, source=config.source, sourcetype=config.sourcetype, index=config.index
    )
    intake = Intake(
        url=dialect.url,
        content_type="text/plain" if dialect.lines else "application/json",
        part=_line if dialect.lines else envelope.wrap,
        body=_lines if dialect.lines else b"\n".join,
        judge=dialect.judge,
        probe=partial(_probe, dialect, config.index),
        overhead=0 if dialect.lines else envelope.overhead,
        headers={**dialect.headers, "Authorization": _authorization(config, dialect.scheme)},
    )
    return PostingDestination(config, intake, clock=clock, proof=dialect.proof)


def _line(event: Event) -> bytes:
    return event.line


def _lines(parts: Sequence[bytes]) -> bytes:
    return b"".join([part + b"\n" for part in parts])


async def _probe(dialect: Dialect, index: str | None, ask: Ask, now: float) -> ProbeReport:
    """Ask for its health where it has such an address, then post nothing to prove the token.

    A collector looks at the token first: with a good one it complains of the missing event. No request is
    documented that makes it look at the *index* and stores nothing.
    """
    if dialect.health is not None:
        health = await ask("GET", dialect.health)
        if not isinstance(health, Reply):
            return ProbeReport(ok=False, detail=health.response.detail)
        if health.status >= 500:
            said = classify(health, now=now).response.detail
            return ProbeReport(ok=False, detail=f"asked for its health it {said}")
    reply = await ask("POST", dialect.url)
    if not isinstance(reply, Reply):
        return ProbeReport(ok=False, detail=reply.response.detail)
    if reply.status == 400 or reply.status in range(200, 300):
        outcome = dialect.judge(reply, 0, now)
        if isinstance(outcome, Misconfigured):
            return ProbeReport(ok=False, detail=outcome.response.detail)
        trouble = None if dialect.check is None else await dialect.check(ask, now)
        if trouble is not None:
            return ProbeReport(ok=False, detail=f"acknowledgements: {trouble.response.detail}")
        proven = "reachable, and the token is accepted"
        if index is None:
            return ProbeReport(ok=True, detail=proven)
        return ProbeReport(
            ok=True, detail=f"{proven}; whether it may write to the index {index}, only an event would tell"
        )
    return ProbeReport(ok=False, detail=classify(reply, now=now).response.detail)


def _authorization(config: HecConfig, scheme: str) -> str:
    if config.authorization is not None:
        return config.authorization.reveal()
    assert config.token is not None  # noqa: S101  # the configuration has checked it; this tells mypy
    return f"{scheme} {config.token.reveal()}"
