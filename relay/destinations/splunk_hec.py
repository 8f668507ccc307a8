"""`splunk_hec`: Splunk's HTTP Event Collector, its event endpoint and its raw one.

Owns Splunk's addresses and settings. What it answers is `splunk_answers`', the proof that events are indexed
`splunk_ack`'s.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import Field
from yarl import URL

from relay.clock import Clock
from relay.config.types import Duration
from relay.destinations.hec import Dialect, HecConfig, collector
from relay.destinations.posting import PostingDestination
from relay.destinations.splunk_ack import Acknowledgements
from relay.destinations.splunk_answers import judge, judge_raw

_COLLECTOR = "/services/collector"


class SplunkHecConfig(HecConfig):
    """Splunk Enterprise or Splunk Cloud."""

    type: Literal["splunk_hec"] = Field(description="Splunk's HTTP Event Collector.")
    endpoint: Literal["event", "raw"] = Field(
        default="event",
        description="event: each event with its time and id; raw: lines as they are, cut by the sourcetype.",
    )
    acknowledge: bool = Field(
        default=False,
        description="Count events as delivered only when indexed. The token must have acknowledgement on.",
    )
    ack_timeout: Annotated[Duration, Field(gt=0)] = Field(
        default=300.0, description="How long to wait for an acknowledgement before the events are sent again."
    )


def splunk_hec(config: SplunkHecConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*."""
    acks = None
    if config.acknowledge:
        acks = Acknowledgements(_at(config, "ack"), limit=config.ack_timeout, clock=clock)
    raw = config.endpoint == "raw"
    dialect = Dialect(
        scheme="Splunk",
        url=_raw_with_metadata(config) if raw else _at(config, "event"),
        health=_at(config, "health").with_query(None),
        judge=judge_raw if raw else judge,
        lines=raw,
        # Needed by tokens with acknowledgement, ignored by others. Acknowledgement ids count by channel, so
        # with them no other process, earlier or beside this one, may have the same.
        headers={"X-Splunk-Request-Channel": str(uuid.uuid4() if acks else _lasting_channel(config))},
        proof=acks,
        check=None if acks is None else acks.refusal,
    )
    return collector(config, dialect, clock=clock)


def _lasting_channel(config: SplunkHecConfig) -> uuid.UUID:
    """The same after a restart: a collector keeps something for each channel it has seen."""
    return uuid.uuid5(uuid.NAMESPACE_URL, config.name)


def _at(config: SplunkHecConfig, endpoint: str) -> URL:
    """An endpoint. People paste whole addresses; what stands before the collector's path may be a proxy's."""
    base = config.address()
    prefix = base.raw_path.split(_COLLECTOR)[0].rstrip("/")
    return base.with_path(f"{prefix}{_COLLECTOR}/{endpoint}", encoded=True, keep_query=True)


def _raw_with_metadata(config: SplunkHecConfig) -> URL:
    """The raw endpoint with what an envelope would say in its query, where it holds for the whole request."""
    url = _at(config, "raw")
    pairs = {
        "host": config.host,
        "source": config.source,
        "sourcetype": config.sourcetype,
        "index": config.index,
    }
    metadata = urlencode({key: value for key, value in pairs.items() if value is not None})
    query = "&".join(filter(None, (url.raw_query_string, metadata)))
    return URL(f"{url.with_query(None)}?{query}" if query else str(url), encoded=True)
