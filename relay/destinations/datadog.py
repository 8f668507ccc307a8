"""`datadog`: log events to Datadog's intake, API v2.

Owns the address of a site, the log's attributes and the probe. Datadog cuts a log above 1 MB short behind
a 202, so such an event is refused here instead of being sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

import orjson
from pydantic import Field, model_validator
from yarl import URL

from relay.clock import Clock
from relay.config.destination import BatchLimits
from relay.config.secret import SecretUrl
from relay.config.types import Size, Whole
from relay.destinations.base import Delivered, Outcome, ProbeReport, Rejected
from relay.destinations.classify import Reply, classify, json_object
from relay.destinations.framing import quoted
from relay.destinations.http_config import HeaderSecret, HttpUrl, UrlConfig, left_out
from relay.destinations.posting import Ask, Intake, PostingDestination
from relay.destinations.records import BLANK, headline, record
from relay.konnect.times import happened_at
from relay.model import Event

# docs.datadoghq.com/api/latest/logs/#send-logs: megabytes, so to be on the safe side not mebibytes.
_MOST_BODY = 5_000_000
_MOST_LOG = 1_000_000
_MOST_LOGS = 1000

_SITE = r"[a-z0-9-]+(\.[a-z0-9-]+)+"
_INTAKE = "/api/v2/logs"
_STORED = frozenset({200, 202})  # 202 is the intake's own, 200 what relays of Datadog's answer


class DatadogBatchLimits(BatchLimits):
    """Datadog takes 5 MB and 1000 logs in a request."""

    max_events: Annotated[Whole, Field(ge=1, le=_MOST_LOGS)] = Field(
        _MOST_LOGS, description="Most events in one request."
    )
    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        4_000_000, description="Most bytes in one request, before compression."
    )
    compression: Literal["none", "gzip"] = Field("gzip", description="How request bodies are compressed.")


class DatadogConfig(UrlConfig):
    """Datadog Log Management and Cloud SIEM."""

    type: Literal["datadog"] = Field(description="Datadog.")
    site: str = Field(
        default="datadoghq.com",
        description="Datadog site, e.g. datadoghq.eu or us5.datadoghq.com.",
        pattern=rf"^{_SITE}$",
    )
    url: HttpUrl = Field(
        default=SecretUrl(f"https://http-intake.logs.datadoghq.com{_INTAKE}"),
        description="Where to send, in place of the site's own intake.",
        json_schema_extra=left_out,
    )
    api_key: HeaderSecret = Field(description="API key, sent as `DD-API-KEY`.")
    source: str = Field(default="konnect", description="`ddsource` of every log: chooses the pipeline.")
    service: str = Field(default="kong-konnect", description="`service` of every log.")
    hostname: str = Field(default="konghq.com", description="`hostname` of every log.")
    tags: tuple[Annotated[str, Field(pattern=r"^[^,]+$")], ...] = Field(
        default=(), description="`ddtags` of every log, e.g. [env:prod, team:platform]."
    )
    batch: DatadogBatchLimits = Field(
        default=DatadogBatchLimits(), description="How many events go out in one request."
    )

    @model_validator(mode="before")
    @classmethod
    def _intake_of_the_site(cls, settings: object) -> object:
        if not isinstance(settings, dict) or settings.get("url"):
            return settings
        site = settings.get("site")
        if not isinstance(site, str) or not re.fullmatch(_SITE, site):
            return {key: value for key, value in settings.items() if key != "url"}
        return {**settings, "url": intake_of(site)}


def intake_of(site: str) -> str:
    """Where a *site* of Datadog takes logs."""
    return f"https://http-intake.logs.{site}{_INTAKE}"


def datadog(config: DatadogConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*."""
    url = config.address()
    if url.raw_path in {"", "/"}:
        url = url.with_path(_INTAKE, keep_query=True)
    log = writer(config)
    intake = Intake(
        url=url,
        content_type="application/json",
        part=log,
        body=array,
        judge=judge,
        probe=partial(probe, config, url),
        overhead=len(log(BLANK)) + 1,
        headers={"DD-API-KEY": config.api_key.reveal()},
        max_body=_MOST_BODY - len(b"[]"),
        max_part=_MOST_LOG,
    )
    return PostingDestination(config, intake, clock=clock)


def array(logs: Sequence[bytes]) -> bytes:
    """The logs of a request as one JSON array."""
    return b"[%b]" % b",".join(logs)


def writer(config: DatadogConfig) -> Callable[[Event], bytes]:
    """How *config* writes an event."""
    same = {
        "ddsource": config.source,
        "ddtags": ",".join(config.tags),
        "hostname": config.hostname,
        "service": config.service,
    }
    head = orjson.dumps({key: value for key, value in same.items() if value})[:-1]
    return partial(write, head=head + (b"," if len(head) > 1 else b""))


def write(event: Event, *, head: bytes) -> bytes:
    """One log. *head* is the beginning of its object, the same for all.

    Datadog reads JSON in `message` and lifts its keys to the top, where `trace_id` would be taken for a trace
    of its own. So a JSON event stands below `kong.audit`, and `message` says what it is.
    """
    fields = record(event.line)
    return b'%b"timestamp":%d,"message":%b,"kong":{"event_id":"%b","source":%b%b}}' % (
        head,
        happened_at(event),
        quoted(event.line) if fields is None else headline(event),
        event.id.encode(),
        orjson.dumps(event.source),
        b"" if fields is None else b',"audit":%b' % fields,
    )


def judge(reply: Reply, count: int, now: float) -> Outcome:
    """What Datadog's *reply* means: it takes all of a request or nothing, whatever the *count* of events."""
    del count
    return classify(reply, now=now, success=_STORED)


async def probe(config: DatadogConfig, url: URL, ask: Ask, now: float) -> ProbeReport:
    """Have the site validate the key; an address of the user's own is sent an empty body."""
    if config.url.reveal() == intake_of(config.site):
        reply = await ask("GET", URL(f"https://api.{config.site}/api/v1/validate"))
        if isinstance(reply, Reply) and reply.status == 200:
            valid = json_object(reply.body).get("valid") is True
            words = "the site accepts the API key" if valid else "answered 200, but not that the key is valid"
            return ProbeReport(ok=valid, detail=words)
    else:
        reply = await ask("POST", url, b"", {"Content-Type": "application/json"})
    if not isinstance(reply, Reply):
        return ProbeReport(ok=False, detail=reply.response.detail)
    outcome = judge(reply, 0, now)
    if isinstance(outcome, Delivered | Rejected):
        return ProbeReport(ok=True, detail=f"reachable, and the key is not refused ({reply.status})")
    return ProbeReport(ok=False, detail=outcome.response.detail)
