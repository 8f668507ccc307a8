"""`elasticsearch`: documents into a data stream or index of Elasticsearch or OpenSearch.

Owns the address, the document and the probe. What the answers mean is in `bulk_answer`. Each document's
`_id` is the event's id and is only ever created, so an event that is sent twice is stored once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, Self

import orjson
from pydantic import Field, model_validator
from yarl import URL

from relay.clock import Clock
from relay.config.destination import BatchLimits
from relay.config.types import Size, refusal
from relay.destinations.base import ProbeReport
from relay.destinations.bulk_answer import judge
from relay.destinations.classify import Reply, classify, json_object
from relay.destinations.framing import is_object, quoted
from relay.destinations.http_config import AuthorizedConfig, OptionalHeaderSecret
from relay.destinations.posting import Ask, Intake, PostingDestination
from relay.destinations.records import BLANK, iso_time, record
from relay.konnect.times import happened_at
from relay.model import Event

# What an answer has to hold to be judged; without it a success alone is 250 bytes for each event.
_FILTER = (
    "errors,error,status,items.*.status,items.*.failure_store,"
    "items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"
)
_ANSWER_PER_EVENT = 4096  # bytes; a reason quotes a field's value, and names the document
_ANSWER_AT_LEAST = 64 * 1024


class ElasticsearchBatchLimits(BatchLimits):
    """Elastic advises 5 to 15 MB; the cluster's own limit is 100 MB before compression."""

    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        5_000_000, description="Most bytes in one request, before compression."
    )
    compression: Literal["none", "gzip"] = Field("gzip", description="How request bodies are compressed.")


class ElasticsearchConfig(AuthorizedConfig):
    """Elasticsearch, Elastic Cloud, Serverless, or OpenSearch."""

    type: Literal["elasticsearch"] = Field(description="Elasticsearch or OpenSearch.")
    index: str = Field(
        default="logs-kong.audit-default",
        description="Data stream, alias or index to write to.",
        pattern=r"^[A-Za-z0-9.][A-Za-z0-9._-]{0,254}$",
    )
    pipeline: str | None = Field(
        default=None, description="Ingest pipeline to use in place of the index's own.", min_length=1
    )
    api_key: OptionalHeaderSecret = Field(
        default=None, description="The `encoded` value of an API key, sent as `ApiKey <key>`."
    )
    own_ids: bool = Field(
        default=True,
        description="Make the event's id the document's `_id`, so that an event sent twice is stored once. "
        "Off, the cluster makes ids, which is faster, and such an event is stored twice.",
    )
    labels: dict[str, str] = Field(default_factory=dict, description="`labels` of every document.")
    batch: ElasticsearchBatchLimits = Field(
        default=ElasticsearchBatchLimits(), description="How many events go out in one request."
    )

    @model_validator(mode="after")
    def _encoded_key(self) -> Self:
        if self.api_key is not None and ":" in self.api_key.reveal():
            raise refusal("expected the `encoded` value of `api_key`, not `id:key`")
        return self

    def credentials(self) -> list[str]:
        given = super().credentials()
        return given if self.api_key is None else [*given, f"ApiKey {self.api_key.reveal()}"]

    def below(self, *segments: str) -> URL:
        """An address below `url`, whose path may be a proxy's."""
        base = self.address()
        path = "/".join([base.raw_path.rstrip("/"), *segments])
        return base.with_path(path or "/", encoded=True, keep_query=True)


def elasticsearch(config: ElasticsearchConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*."""
    url = config.below(config.index, "_bulk").update_query(filter_path=_FILTER)
    if config.pipeline is not None:
        url = url.update_query(pipeline=config.pipeline)
    part = partial(action, document=documents(config), own_ids=config.own_ids)
    max_answer = _ANSWER_AT_LEAST + _ANSWER_PER_EVENT * config.batch.max_events
    intake = Intake(
        url=url,
        content_type="application/x-ndjson",
        part=part,
        body=b"".join,
        judge=partial(judge, max_answer=max_answer),
        probe=partial(probe, config),
        overhead=len(part(BLANK)),
        headers=config.authorization_header(),
        # A document holds a JSON event as text and as an object.
        max_body=config.batch.max_bytes,
        max_answer=max_answer,
        secrets=config.passwords(),
    )
    return PostingDestination(config, intake, clock=clock)


def documents(config: ElasticsearchConfig) -> Callable[[Event], bytes]:
    """How *config* writes an event."""
    labels = b',"labels":%b' % orjson.dumps(config.labels) if config.labels else b""
    if config.format == "ecs":
        return partial(ecs_document, labels=labels)
    return partial(document, labels=labels)


def action(event: Event, *, document: Callable[[Event], bytes], own_ids: bool) -> bytes:
    """The two lines of a bulk request that store one event. Data streams only know `create`."""
    about = b'{"_id":"%b"}' % event.id.encode() if own_ids else b"{}"
    return b'{"create":%b}\n%b\n' % (about, document(event))


def document(event: Event, *, labels: bytes) -> bytes:
    """An event as a document whose fields outside `kong` are those of the Elastic Common Schema.

    What Konnect calls its fields stays below `kong.audit`, where no name meets one of the schema's.
    """
    original = b',"original":%b' % quoted(event.received) if event.received != event.line else b""
    fields = record(event.line)
    audit = b',"audit":%b' % fields if fields is not None else b""
    return b'{"@timestamp":"%b","event":{"id":"%b"%b},"message":%b,"kong":{"source":%b%b}%b}' % (
        iso_time(happened_at(event)),
        event.id.encode(),
        original,
        quoted(event.line),
        orjson.dumps(event.source),
        audit,
        labels,
    )


def ecs_document(event: Event, *, labels: bytes) -> bytes:
    """A line that already is a document of the Elastic Common Schema as it is, any other one in ours."""
    if event.rewritten_from is not None and is_object(event.line):
        return event.line
    return document(event, labels=labels)


async def probe(config: ElasticsearchConfig, ask: Ask, now: float) -> ProbeReport:
    """Ask what it is, then whether we may write; an API key for one index may be refused the first."""
    root = await ask("GET", config.below(""))
    if not isinstance(root, Reply):
        return ProbeReport(ok=False, detail=root.response.detail)
    refused = ProbeReport(ok=False, detail=classify(root, now=now).response.detail)
    if root.status not in {200, 403}:
        return refused
    product = _product(root.body)
    if root.status == 200 and product is None:
        return ProbeReport(
            ok=False, detail="answered 200 OK, but this is neither Elasticsearch nor OpenSearch"
        )
    found = product or "reachable, version not told"
    may_write = await _may_write(config, ask)
    if may_write is not None:
        words = "these credentials may write to" if may_write else "these credentials lack `create_doc` on"
        return ProbeReport(ok=may_write, detail=f"{found}; {words} {config.index}")
    head = await ask("HEAD", config.below(config.index))
    if isinstance(head, Reply) and head.status in {200, 404}:
        there = "exists" if head.status == 200 else "does not exist yet"
        return ProbeReport(ok=True, detail=f"{found}; {config.index} {there}; may we write? not told")
    if root.status == 403:
        return refused
    return ProbeReport(ok=True, detail=f"{found}; may we write to {config.index}? not told")


async def _may_write(config: ElasticsearchConfig, ask: Ask) -> bool | None:
    """Elasticsearch tells anyone about his own privileges. None where it does not, as OpenSearch."""
    wanted = {"index": [{"names": [config.index], "privileges": ["create_doc"]}]}
    reply = await ask(
        "POST",
        config.below("_security", "user", "_has_privileges"),
        orjson.dumps(wanted),
        {"Content-Type": "application/json"},
    )
    if not isinstance(reply, Reply) or reply.status != 200:
        return None
    has_all = json_object(reply.body).get("has_all_requested")
    return has_all if isinstance(has_all, bool) else None


def _product(body: bytes) -> str | None:
    """Name and version, from `{"version": {"number": …, "distribution": "opensearch"}}`."""
    version = json_object(body).get("version")
    if not isinstance(version, dict) or not isinstance(version.get("number"), str):
        return None
    name = "OpenSearch" if version.get("distribution") == "opensearch" else "Elasticsearch"
    return f"{name} {version['number'][:20]}"
