"""`logscale`: CrowdStrike Falcon LogScale and Next-Gen SIEM, through their HEC dialect.

Owns the address and the reading of answers. LogScale documents neither partial errors nor the body of
an answer, so only the status counts here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from relay.clock import Clock
from relay.destinations.base import Outcome
from relay.destinations.classify import Reply, classify
from relay.destinations.hec import Dialect, HecConfig, collector
from relay.destinations.posting import PostingDestination

_INGEST = "/api/v1/ingest/hec"


class LogScaleConfig(HecConfig):
    """`sourcetype` is the parser's name; `index` is the repository and must be the token's."""

    type: Literal["logscale"] = Field(description="LogScale or Next-Gen SIEM.")


def logscale(config: LogScaleConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*.

    A URL with a path is a connector's address and used as it is; LogScale's own base URL has none.
    """
    url = config.address()
    if url.raw_path in {"", "/"}:
        url = url.with_path(_INGEST, keep_query=True)
    return collector(config, Dialect(scheme="Bearer", url=url, judge=judge), clock=clock)


def judge(reply: Reply, count: int, now: float) -> Outcome:
    """What LogScale's *reply* means, whatever the *count* of events."""
    del count
    return classify(reply, now=now)
