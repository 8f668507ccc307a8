"""`newrelic`: log events to New Relic's Log API.

Owns the address of a region, the attributes of a log and the probe. New Relic only says that it took the
request; what it makes of single logs later shows in its own `NrIntegrationError` events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import orjson
from pydantic import Field, model_validator
from yarl import URL

from relay.clock import Clock
from relay.config.destination import BatchLimits
from relay.config.secret import SecretUrl
from relay.config.types import Size
from relay.destinations.base import Delivered, Outcome, ProbeReport, Rejected
from relay.destinations.classify import Reply, classify
from relay.destinations.framing import quoted
from relay.destinations.http_config import HeaderSecret, HttpUrl, UrlConfig, left_out
from relay.destinations.posting import Ask, Intake, PostingDestination
from relay.destinations.records import BLANK, headline, record
from relay.konnect.times import happened_at
from relay.model import Event

# docs.newrelic.com/docs/logs/log-api/introduction-log-api/#limits: 10^6 bytes in a POST.
_MOST_BODY = 1_000_000
_MOST_ATTRIBUTES = 200  # of 255; what lies beyond is dropped there, ours and New Relic's own included

_INTAKE = "/log/v1"
_HOSTS: Mapping[str, str] = {
    "us": "log-api.newrelic.com",
    "eu": "log-api.eu.newrelic.com",
    "jp": "log-api.jp.nr-data.net",
    "gov": "gov-log-api.newrelic.com",
}


class NewRelicBatchLimits(BatchLimits):
    """New Relic takes 1 MB in a request, and wrapping adds about a quarter."""

    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        800_000, description="Most bytes in one request, before compression."
    )
    compression: Literal["none", "gzip"] = Field("gzip", description="How request bodies are compressed.")


class NewRelicConfig(UrlConfig):
    """New Relic Logs."""

    type: Literal["newrelic"] = Field(description="New Relic.")
    region: Literal["us", "eu", "jp", "gov"] = Field(default="us", description="Region of the account.")
    url: HttpUrl = Field(
        default=SecretUrl(f"https://{_HOSTS['us']}{_INTAKE}"),
        description="Where to send, in place of the region's own address.",
        json_schema_extra=left_out,
    )
    license_key: HeaderSecret = Field(description="License key (ingest), sent as `Api-Key`.")
    logtype: str = Field(
        default="konnect-audit", description="`logtype` of every log: chooses parsing rules."
    )
    service: str = Field(default="kong-konnect", description="`service` of every log.")
    hostname: str = Field(default="konghq.com", description="`hostname` of every log.")
    attributes: dict[str, str] = Field(default_factory=dict, description="Attributes of every log.")
    batch: NewRelicBatchLimits = Field(
        default=NewRelicBatchLimits(), description="How many events go out in one request."
    )

    @model_validator(mode="before")
    @classmethod
    def _address_of_the_region(cls, settings: object) -> object:
        if not isinstance(settings, dict) or settings.get("url"):
            return settings
        host = _HOSTS.get(str(settings.get("region")), _HOSTS["us"])
        return {**settings, "url": f"https://{host}{_INTAKE}"}


def newrelic(config: NewRelicConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*."""
    url = config.address()
    if url.raw_path in {"", "/"}:
        url = url.with_path(_INTAKE, keep_query=True)
    same = {"logtype": config.logtype, "service": config.service, "hostname": config.hostname}
    common = {**{key: value for key, value in same.items() if value}, **config.attributes}
    room = _MOST_BODY - len(payload([], common=common))
    intake = Intake(
        url=url,
        content_type="application/json",
        part=write,
        body=partial(payload, common=common),
        judge=judge,
        probe=partial(probe, url),
        overhead=len(write(BLANK)) + 1,
        headers={"Api-Key": config.license_key.reveal()},
        max_body=room,
        max_part=room,
    )
    return PostingDestination(config, intake, clock=clock)


def payload(logs: Sequence[bytes], *, common: Mapping[str, str]) -> bytes:
    """The logs of a request behind what they have in common."""
    return b'[{"common":{"attributes":%b},"logs":[%b]}]' % (orjson.dumps(common), b",".join(logs))


def write(event: Event) -> bytes:
    """One log.

    New Relic reads JSON in `message` and makes attributes of its keys, over its own where they meet. So the
    fields of a JSON event are attributes below `kong.`, and `message` says what it is.
    """
    fields = record(event.line)
    return b'{"timestamp":%d,"message":%b,"attributes":{"kong.event_id":"%b","kong.source":%b%b}}' % (
        happened_at(event),
        quoted(event.line) if fields is None else headline(event),
        event.id.encode(),
        orjson.dumps(event.source),
        b"" if fields is None else _attributes(fields),
    )


def _attributes(fields: bytes) -> bytes:
    """The fields of an object as attributes, whose values may only be text, numbers and truth values.

    Where that leaves out any, the whole object stands in one more attribute, as text.
    """
    content: dict[str, object] = orjson.loads(fields)
    simple = [(key, value) for key, value in content.items() if isinstance(value, str | int | float)]
    pairs = {f"kong.audit.{key}": value for key, value in simple[:_MOST_ATTRIBUTES]}
    if len(pairs) < sum(value is not None for value in content.values()):
        pairs["kong.audit"] = fields.decode()
    return b"," + orjson.dumps(pairs)[1:-1] if pairs else b""


def judge(reply: Reply, count: int, now: float) -> Outcome:
    """What New Relic's *reply* means, whatever the *count* of events: it looks at them only later."""
    del count
    return classify(reply, now=now, success={202})


async def probe(url: URL, ask: Ask, now: float) -> ProbeReport:
    """Post an empty body: a wrong key is refused before anyone misses the logs."""
    reply = await ask("POST", url, b"", {"Content-Type": "application/json"})
    if not isinstance(reply, Reply):
        return ProbeReport(ok=False, detail=reply.response.detail)
    outcome = judge(reply, 0, now)
    if isinstance(outcome, Delivered | Rejected):
        return ProbeReport(ok=True, detail=f"reachable, and the key is not refused ({reply.status})")
    return ProbeReport(ok=False, detail=outcome.response.detail)
