"""`splunk_hec`: Splunk's HTTP Event Collector, event endpoint.

Owns Splunk's address, its status codes and the rule of its partial errors, which is: a request is not
atomic. The events before the first bad one are indexed, those from it on are not (measured; see
docs/destinations/splunk_hec.md).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal, Self

import orjson
from pydantic import Field

from relay.clock import Clock
from relay.destinations.base import Delivered, Misconfigured, Outcome, Partial, Rejection
from relay.destinations.classify import Reply, classify, respond
from relay.destinations.hec import Dialect, HecConfig, collector
from relay.destinations.posting import PostingDestination
from relay.model import Reason

_COLLECTOR = "/services/collector"

_STORED = frozenset({0, 24, 25})  # 24 and 25: stored, but the collector nears its capacity

# Codes in a 400 that blame one event, by its number.
_BAD_EVENT = {
    6: "invalid data format",
    12: "the event field is required",
    13: "the event field cannot be blank",
    15: "indexed fields cannot be handled",
}
# Codes in a 400 that blame the token, the channel or the index. The index is set once for all events,
# so no event is to blame for a wrong one.
_WRONG_INDEX = 7
_BAD_SETUP = {
    _WRONG_INDEX: "the index is not one this token may write to",
    10: "the data channel is missing",
    11: "the data channel is invalid",
    14: "acknowledgement is disabled",
    16: "credentials in the query are not enabled",
    21: "the token is invalid",
    22: "the token is disabled",
    28: "the data channel is missing",
}


class SplunkHecConfig(HecConfig):
    """Splunk Enterprise or Splunk Cloud."""

    type: Literal["splunk_hec"] = Field(description="Splunk's HTTP Event Collector.")
    acknowledge: Literal[False] = Field(
        default=False, description="Indexer acknowledgement; not available in this version."
    )


def splunk_hec(config: SplunkHecConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*."""
    base = config.address()
    # People paste the whole address; what stands before the collector's own path may be a proxy's.
    prefix = base.raw_path.split(_COLLECTOR)[0].rstrip("/")
    dialect = Dialect(
        scheme="Splunk",
        url=base.with_path(f"{prefix}{_COLLECTOR}/event", encoded=True, keep_query=True),
        health=base.with_path(f"{prefix}{_COLLECTOR}/health", encoded=True),
        judge=judge,
        # Needed by tokens with acknowledgement, ignored by others. The same after a restart.
        headers={"X-Splunk-Request-Channel": str(uuid.uuid5(uuid.NAMESPACE_URL, config.name))},
    )
    return collector(config, dialect, clock=clock)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The collector's own words: `{"text": …, "code": n, "invalid-event-number": m}`."""

    code: int
    number: int | None  # of the first bad event, from 0; for code 7 one more than that

    @classmethod
    def read(cls, body: bytes) -> Self | None:
        """None where *body* is not a collector's answer."""
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(said, dict) or not isinstance(said.get("code"), int):
            return None
        number = said.get("invalid-event-number")
        return cls(said["code"], number if isinstance(number, int) else None)


def judge(reply: Reply, count: int, now: float) -> Outcome:
    """What Splunk's *reply* to *count* events means."""
    verdict = _Verdict.read(reply.body)
    if reply.status == 200:
        return _judge_success(reply, verdict)
    if reply.status == 400 and verdict is not None:
        return _judge_refusal(reply, verdict, count, now)
    return classify(reply, now=now)


def _judge_success(reply: Reply, verdict: _Verdict | None) -> Outcome:
    # An empty 200 or a login page behind a 200 has stored nothing.
    if verdict is None or verdict.code not in _STORED:
        return Misconfigured(respond(reply, "but this is not how an event collector answers"))
    return Delivered(respond(reply))


def _judge_refusal(reply: Reply, verdict: _Verdict, count: int, now: float) -> Outcome:
    if verdict.code in _BAD_SETUP:
        indexed = verdict.number - 1 if verdict.code == _WRONG_INDEX and verdict.number is not None else 0
        response = respond(reply, f"code {verdict.code}, {_BAD_SETUP[verdict.code]}")
        if 0 < indexed < count:
            # What came before is stored. The rest is sent again at once and then stands first.
            return Partial(response, tuple(range(indexed)), ())
        return Misconfigured(response)
    if verdict.code in _BAD_EVENT and verdict.number is not None and 0 <= verdict.number < count:
        detail = f"code {verdict.code}, {_BAD_EVENT[verdict.code]}"
        return Partial(
            respond(reply, detail),
            tuple(range(verdict.number)),
            (Rejection(verdict.number, Reason.REJECTED, detail),),
        )
    return classify(reply, now=now)
