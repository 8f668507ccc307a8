"""`google_secops`: Google Security Operations (Chronicle), through the Chronicle API's `logs:import`.

Owns the entry that an event becomes, the address of the instance, and the reading of answers. Field names
are those of `LogsInlineSource` and `Log` in the REST reference (see docs/destinations/google_secops.md).
Never looks into an event: Google parses it by its log type.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import orjson
from pydantic import Field
from yarl import URL

from relay.clock import Clock
from relay.config.destination import BatchLimits
from relay.config.types import Size
from relay.destinations.base import Delivered, Misconfigured, Outcome, ProbeReport, Rejected, TooLarge
from relay.destinations.classify import Reply, classify, respond
from relay.destinations.http_config import HttpConfigBase, HttpUrl
from relay.destinations.posting import Ask, Intake, PostingDestination
from relay.destinations.service_account import GRANT_TYPE, ServiceAccount, ServiceAccountKey
from relay.destinations.tokens import Grant, TokenSource
from relay.konnect.times import happened_at, rfc3339
from relay.model import Event

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_MAX_BODY = 1_000_000  # bytes; not documented, what other senders keep to

# What a 400 complains of that is the same for all events, so that none of them is to blame.
_SET_ONCE = (b"forwarder", b"log type", b"log_type", b"logtype")
_OVERSIZE = b"payload size exceeds"  # Google's front end says this with a 400, not a 413

_REFUSED_TOKEN = "it refuses a fresh token"  # noqa: S105  # not a password
_NO_PERMISSION = "the service account lacks the permission {} on this instance"
_NO_INSTANCE = "no such project, region, instance or log type at this address"

_NAME = r"^[0-9A-Za-z._:-]+$"  # one segment of a resource's name


class SecOpsBatchLimits(BatchLimits):
    """Base64 makes four bytes of three: 700 kB of events are 933 kB of body."""

    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        700_000, description="Most bytes in one request, before base64 and compression."
    )
    compression: Literal["none", "gzip"] = Field("gzip", description="How request bodies are compressed.")


class GoogleSecOpsConfig(HttpConfigBase):
    """A log type of an instance."""

    type: Literal["google_secops"] = Field(description="Google Security Operations (Chronicle).")
    project: str = Field(description="Google Cloud project of the instance, id or number.", pattern=_NAME)
    region: str = Field(
        description="Region of the instance, e.g. us or europe-west2.", pattern=r"^[0-9a-z-]+$"
    )
    instance: str = Field(description="Customer id of the instance, a UUID.", pattern=_NAME)
    log_type: str = Field(
        description="Log type of the events; it chooses the parser.", pattern=r"^[0-9A-Z_]+$"
    )
    forwarder: str | None = Field(
        default=None, description="Id of the forwarder the events are shown under.", pattern=_NAME
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Ingestion labels set on every event.")
    service_account: ServiceAccountKey = Field(description="JSON key of the service account, whole.")
    url: HttpUrl | None = Field(default=None, description="Address of the API, in place of the region's.")
    api_version: Literal["v1alpha", "v1beta", "v1"] = Field(default="v1alpha", description="API version.")
    token_url: HttpUrl | None = Field(default=None, description="Token endpoint, in place of the key's own.")
    batch: SecOpsBatchLimits = Field(
        default=SecOpsBatchLimits(), description="How many events go out in one request."
    )

    def address(self) -> URL:
        if self.url is not None:
            return URL(self.url.reveal(), encoded=True)
        return URL(f"https://{self.region}-chronicle.googleapis.com")

    def parent(self) -> str:
        """The instance's resource name."""
        return f"projects/{self.project}/locations/{self.region}/instances/{self.instance}"

    def log_type_url(self) -> URL:
        """The resource that the events are imported into."""
        base = self.address()
        path = f"{base.raw_path.rstrip('/')}/{self.api_version}/{self.parent()}/logTypes/{self.log_type}"
        return base.with_path(path, encoded=True)

    def grant(self) -> Grant:
        """A signed assertion of RFC 7523."""
        account = ServiceAccount.read(self.service_account)

        def form(now: float) -> Mapping[str, str]:
            return {"grant_type": GRANT_TYPE, "assertion": account.assertion(_SCOPE, now)}

        url = self.token_url.reveal() if self.token_url else account.token_uri
        return Grant(URL(url, encoded=True), form, frozenset({"assertion"}))


def google_secops(config: GoogleSecOpsConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*."""
    log_type = config.log_type_url()
    tail = partial(labels, config.labels)
    forwarder = f"{config.parent()}/forwarders/{config.forwarder}" if config.forwarder else None
    body = envelope(forwarder)
    intake = Intake(
        url=log_type.with_path(f"{log_type.raw_path}/logs:import", encoded=True),
        content_type="application/json",
        part=partial(entry, tail=tail),
        body=body,
        judge=judge,
        probe=partial(_probe, log_type),
        overhead=len(_entry(b"", b"0" * 24, b"0" * 24, tail(None))) + 1,
        max_body=_MAX_BODY - len(body([])),
    )
    return PostingDestination(
        config, intake, clock=clock, credentials=TokenSource(config, config.grant(), clock=clock)
    )


def labels(chosen: Mapping[str, str], signature: str | None) -> bytes:
    """The end of an entry: ingestion labels, with the result of the signature check where there is one."""
    found = {**chosen, "signature": signature} if signature else chosen
    if not found:
        return b""
    return b',"labels":' + orjson.dumps({key: {"value": value} for key, value in found.items()})


_UNLABELLED = partial(labels, {})


def entry(event: Event, *, tail: Callable[[str | None], bytes] = _UNLABELLED) -> bytes:
    """One event as a `Log`; *tail* gives its labels for a signature's result.

    `collectionTime` has to lie behind `logEntryTime`, also where the clocks of Konnect and the relay differ.
    """
    happened = happened_at(event)
    collected = max(round(event.received_at * 1000), happened + 1)
    times = rfc3339(happened).encode(), rfc3339(collected).encode()
    return _entry(b64encode(event.line), *times, tail(event.signature))


def _entry(data: bytes, happened: bytes, collected: bytes, tail: bytes) -> bytes:
    return b'{"data":"%b","logEntryTime":"%b","collectionTime":"%b"%b}' % (data, happened, collected, tail)


def envelope(forwarder: str | None) -> Callable[[Sequence[bytes]], bytes]:
    """What makes one request of entries: an inline source, with the *forwarder*'s resource name."""
    head = b'{"inlineSource":{'
    if forwarder is not None:
        head += b'"forwarder":' + orjson.dumps(forwarder) + b","
    return lambda parts: head + b'"logs":[' + b",".join(parts) + b"]}}"


def judge(reply: Reply, count: int, now: float) -> Outcome:
    """What Google's *reply* means, whatever the *count* of events: it takes all of them or none."""
    del count
    if reply.status == 200 and not _is_answer(reply.body):
        return Misconfigured(respond(reply, "but this is not how the Chronicle API answers"))
    words = {401: _REFUSED_TOKEN, 403: _NO_PERMISSION.format("chronicle.logs.import"), 404: _NO_INSTANCE}
    if reply.status in words:
        return Misconfigured(respond(reply, words[reply.status]))
    outcome = classify(reply, now=now, success=(200,))
    if isinstance(outcome, Rejected):
        complaint = reply.body.lower()
        if _OVERSIZE in complaint:
            return TooLarge(outcome.response)
        if any(word in complaint for word in _SET_ONCE):
            return Misconfigured(respond(reply, "it does not know the forwarder or the log type"))
    return outcome


def _is_answer(body: bytes) -> bool:
    """Nothing, or an object: a login page behind a 200 has stored nothing."""
    try:
        return not body.strip() or isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        return False


async def _probe(log_type: URL, ask: Ask, now: float) -> ProbeReport:
    """Read the log type: proves key and addresses; the permission it needs is not that to import."""
    reply = await ask("GET", log_type)
    if not isinstance(reply, Reply):
        return ProbeReport(ok=False, detail=reply.response.detail)
    outcome = judge(reply, 0, now)
    if isinstance(outcome, Delivered):
        return ProbeReport(ok=True, detail="reachable, the key is good and the log type exists")
    if reply.status == 403:
        words = _NO_PERMISSION.format("chronicle.logTypes.get, which only a probe needs,")
        return ProbeReport(ok=False, detail=respond(reply, words).detail)
    return ProbeReport(ok=False, detail=outcome.response.detail)
