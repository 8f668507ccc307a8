"""`sumologic`: lines to an HTTP source of Sumo Logic.

Owns Sumo's metadata headers and the reading of its answers. The code in the URL is the credential.
"""

from __future__ import annotations

from typing import Annotated, Literal

import orjson
from pydantic import Field

from relay.batch import Chunk
from relay.clock import Clock
from relay.config.destination import BatchLimits
from relay.config.types import Size
from relay.destinations.base import Delivered, Outcome, ProbeReport, Rejected
from relay.destinations.classify import Reply, classify, respond
from relay.destinations.http_client import HttpClient, zipped
from relay.destinations.http_config import HeaderText, UrlConfig
from relay.model import Event


class SumoBatchLimits(BatchLimits):
    """Sumo takes up to 1 MB uncompressed in a request."""

    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        1_000_000, description="Most bytes in one request, before compression."
    )
    compression: Literal["none", "gzip"] = Field("gzip", description="How request bodies are compressed.")


class SumoLogicConfig(UrlConfig):
    """An HTTP Logs and Metrics source of Sumo Logic."""

    type: Literal["sumologic"] = Field(description="Sumo Logic.")
    category: HeaderText | None = Field(default=None, description="`_sourceCategory` of the events.")
    source_name: HeaderText | None = Field(default=None, description="`_sourceName` of the events.")
    source_host: HeaderText | None = Field(default=None, description="`_sourceHost` of the events.")
    fields: dict[HeaderText, HeaderText] = Field(
        default_factory=dict, description="Fields set on every event; they must exist in Sumo Logic."
    )
    batch: SumoBatchLimits = Field(
        default=SumoBatchLimits(), description="How many events go out in one request."
    )

    def metadata(self) -> dict[str, str]:
        """The `X-Sumo-*` headers."""
        headers = {
            "X-Sumo-Client": "konnect-relay",
            "X-Sumo-Category": self.category,
            "X-Sumo-Name": self.source_name,
            "X-Sumo-Host": self.source_host,
            "X-Sumo-Fields": ",".join(f"{key}={value}" for key, value in self.fields.items()),
        }
        return {name: value for name, value in headers.items() if value}


class SumoLogicDestination:
    """Sends to one HTTP source."""

    event_overhead = 0

    def __init__(self, config: SumoLogicConfig, *, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._url = config.address()
        self._gzip = config.batch.compression == "gzip"
        self._body_headers = {"Content-Type": "text/plain", **config.metadata()}
        if self._gzip:
            self._body_headers["Content-Encoding"] = "gzip"
        self._client = HttpClient(config, headers={})

    def __repr__(self) -> str:
        return f"<SumoLogicDestination {self._config.name}>"

    def part(self, event: Event) -> bytes:
        return event.line

    async def open(self) -> None:
        await self._client.open()

    async def send(self, chunk: Chunk) -> Outcome:
        body = await zipped(chunk.body) if self._gzip else chunk.body
        reply = await self._client.request("POST", self._url, body, self._body_headers)
        return self._judge(reply) if isinstance(reply, Reply) else reply

    async def probe(self) -> ProbeReport:
        """An empty POST, the nearest that Sumo has to a health check: it stores nothing."""
        reply = await self._client.request("POST", self._url)
        outcome = self._judge(reply) if isinstance(reply, Reply) else reply
        return ProbeReport(ok=isinstance(outcome, Delivered), detail=outcome.response.detail)

    async def close(self) -> None:
        await self._client.close()

    def _judge(self, reply: Reply) -> Outcome:
        """Sumo answers success with an empty body; a body with a `code` tells of a processing problem."""
        outcome = classify(reply, now=self._clock.now())
        if isinstance(outcome, Delivered) and _reports_problem(reply.body):
            return Rejected(respond(reply, "but reports a problem with what was sent"))
        return outcome


def _reports_problem(body: bytes) -> bool:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(said, dict) and bool(said.get("code"))
