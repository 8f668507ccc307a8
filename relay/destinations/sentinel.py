"""`sentinel`: Microsoft Sentinel and Azure Monitor, through the Logs Ingestion API.

Owns the row that an event becomes, Azure's clouds, and the reading of its answers. Limits are those of
Microsoft's page "Azure Monitor service limits" (see docs/destinations/sentinel.md). Knows nothing of
tables: what becomes of a row is the data collection rule's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import orjson
from pydantic import Field
from yarl import URL

from relay.clock import Clock
from relay.config.destination import BatchLimits
from relay.config.secret import Secret
from relay.config.types import Size
from relay.destinations.base import Delivered, Misconfigured, Outcome, ProbeReport, Unfit
from relay.destinations.classify import Reply, classify, respond
from relay.destinations.framing import quoted
from relay.destinations.hec_envelope import payload
from relay.destinations.http_config import HttpUrl, UrlConfig
from relay.destinations.posting import Ask, Intake, PostingDestination
from relay.destinations.tokens import Grant, TokenSource
from relay.konnect.times import happened_at, rfc3339
from relay.model import Event, Reason

Cloud = Literal["public", "usgov", "china"]

# Where tokens come from, and for what: "Logs Ingestion API in Azure Monitor", request headers.
_CLOUDS: dict[Cloud, tuple[str, str]] = {
    "public": ("https://login.microsoftonline.com", "https://monitor.azure.com/.default"),
    "usgov": ("https://login.microsoftonline.us", "https://monitor.azure.us/.default"),
    "china": ("https://login.partner.microsoftonline.cn", "https://monitor.azure.cn/.default"),
}
_RULES = "/dataCollectionRules"
_API_VERSION = "2023-01-01"

_STORED = frozenset({204})  # a 200 is a proxy's
_MAX_BODY = 1_000_000  # bytes: "1 MB", compressed and uncompressed alike
_MAX_VALUE = 64_000  # bytes: "64 KB", longer ones are truncated behind a 204

# Microsoft Entra's own error codes, which say more than those of OAuth beside them.
_HINTS = {
    "AADSTS7000215": "the client secret is wrong; was its id taken for its value?",
    "AADSTS7000222": "the client secret has expired",
    "AADSTS700016": "no such application in this tenant",
    "AADSTS90002": "no such tenant in this cloud",
    "AADSTS900023": "no such tenant in this cloud",
}
_NO_ROLE = (
    "the application lacks the role Monitoring Metrics Publisher on the data collection rule; "
    "once granted it takes up to 30 minutes"
)
_REFUSED_TOKEN = "it refuses a fresh token: are cloud, tenant and scope right?"  # noqa: S105  # not a password
_NO_RULE = "no such data collection rule or stream at this endpoint"


class SentinelBatchLimits(BatchLimits):
    """1 MB is the most that a call may have; quotes and columns need their share of it."""

    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        900_000, description="Most bytes in one request, before compression."
    )
    compression: Literal["none", "gzip"] = Field("gzip", description="How request bodies are compressed.")


class SentinelConfig(UrlConfig):
    """A stream of a data collection rule (DCR)."""

    type: Literal["sentinel"] = Field(description="Microsoft Sentinel and Azure Monitor Logs.")
    dcr: str = Field(description="Immutable id of the data collection rule.", pattern=r"^dcr-[0-9A-Za-z]+$")
    stream: str = Field(
        description="Stream of the rule, e.g. Custom-Konnect.",
        pattern=r"^(Custom|Microsoft)-[0-9A-Za-z_-]+$",
    )
    tenant_id: str = Field(description="Directory (tenant) id.", pattern=r"^[0-9A-Za-z.-]+$")
    client_id: str = Field(description="Application (client) id.", min_length=1)
    client_secret: Secret = Field(description="Value of the application's client secret.")
    cloud: Cloud = Field(default="public", description="Azure cloud: public, usgov or china.")
    columns: Literal["raw", "dynamic"] = Field(
        default="raw",
        description="raw: every event as text in `RawData`. dynamic: JSON events as objects in `Event`.",
    )
    token_url: HttpUrl | None = Field(default=None, description="Token endpoint, in place of the cloud's.")
    scope: str | None = Field(default=None, description="Scope of the token, in place of the cloud's.")
    batch: SentinelBatchLimits = Field(
        default=SentinelBatchLimits(), description="How many events go out in one request."
    )

    def intake_url(self) -> URL:
        """Where the rows of this stream go."""
        base = self.address()
        # People paste the whole address; rule and stream have keys of their own.
        prefix = base.raw_path.split(_RULES)[0].rstrip("/")
        path = f"{prefix}{_RULES}/{self.dcr}/streams/{self.stream}"
        return base.with_path(path, encoded=True).with_query({"api-version": _API_VERSION})

    def grant(self) -> Grant:
        """Client credentials of RFC 6749 section 4.4."""
        login, scope = _CLOUDS[self.cloud]
        url = self.token_url.reveal() if self.token_url else f"{login}/{self.tenant_id}/oauth2/v2.0/token"
        form = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "client_secret": self.client_secret.reveal(),
            "scope": self.scope or scope,
        }
        return Grant(URL(url, encoded=True), lambda _: form, frozenset({"client_secret"}), _HINTS)


def sentinel(config: SentinelConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*."""
    url = config.intake_url()
    intake = Intake(
        url=url,
        content_type="application/json",
        part=partial(row, dynamic=config.columns == "dynamic"),
        body=rows,
        judge=judge,
        probe=partial(_probe, url),
        overhead=_OVERHEAD,
        max_body=_MAX_BODY - len(rows([])),
    )
    return PostingDestination(
        config, intake, clock=clock, credentials=TokenSource(config, config.grant(), clock=clock)
    )


def row(event: Event, *, dynamic: bool) -> bytes | Unfit:
    """One event as a row of the stream.

    `EventTime` says the same as `TimeGenerated`, which Azure sets to the time of arrival where it is more
    than two days old, as that of a replayed event may be.
    """
    if not _fits(event.line):
        return Unfit(Reason.TOO_LARGE, f"longer than the {_MAX_VALUE} bytes that Azure stores untruncated")
    value = payload(event.line) if dynamic else quoted(event.line)
    return _row(
        rfc3339(happened_at(event)).encode(),
        b"Event" if value.startswith(b"{") else b"RawData",
        value,
        event.id.encode(),
        orjson.dumps(event.source),
    )


def _fits(line: bytes) -> bool:
    """Whether *line* is stored whole. A byte that is not UTF-8 becomes U+FFFD, which has three."""
    if len(line) * 3 <= _MAX_VALUE:
        return True
    return len(line.decode("utf-8", errors="replace").encode()) <= _MAX_VALUE


def _row(time: bytes, column: bytes, value: bytes, event_id: bytes, source: bytes) -> bytes:
    return b'{"TimeGenerated":"%b","EventTime":"%b","%b":%b,"EventId":"%b","Source":%b}' % (
        time,
        time,
        column,
        value,
        event_id,
        source,
    )


_ID_BYTES = 36  # 32 hex digits and room for the number of a twin
_SOURCE_BYTES = 32  # a usual name with its quotes
#: Bytes that a row adds to its event, escapes not counted.
_OVERHEAD = len(_row(b"0" * 24, b"RawData", b'""', b"0" * _ID_BYTES, b"0" * _SOURCE_BYTES)) + 1


def rows(parts: Sequence[bytes]) -> bytes:
    """The rows as one array."""
    return b"[" + b",".join(parts) + b"]"


def judge(reply: Reply, count: int, now: float) -> Outcome:
    """What Azure's *reply* means, whatever the *count* of rows: it takes all of them or none."""
    del count
    words = {401: _REFUSED_TOKEN, 403: _NO_ROLE, 404: _NO_RULE}.get(reply.status)
    if words is not None:
        return Misconfigured(respond(reply, words))
    return classify(reply, now=now, success=_STORED)


async def _probe(url: URL, ask: Ask, now: float) -> ProbeReport:
    """Post an array of no rows: credentials, role, rule and stream are checked, and nothing is stored."""
    reply = await ask("POST", url, rows([]), {"Content-Type": "application/json"})
    if not isinstance(reply, Reply):
        return ProbeReport(ok=False, detail=reply.response.detail)
    outcome = judge(reply, 0, now)
    if isinstance(outcome, Delivered):
        return ProbeReport(ok=True, detail="reachable, and the application may write to the stream")
    return ProbeReport(ok=False, detail=outcome.response.detail)
