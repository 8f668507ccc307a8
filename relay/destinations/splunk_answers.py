"""What Splunk's HTTP Event Collector answers, as pure functions.

Owns its status codes and the rule of its partial errors, which is: a request is not atomic. The events
before the first bad one are indexed, those from it on are not (measured; see
docs/destinations/splunk_hec.md). Never does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import orjson

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    Rejection,
    Throttled,
    Transient,
)
from relay.destinations.classify import Reply, classify, respond
from relay.model import Reason

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
    14: "indexer acknowledgement is off for this token",
    16: "credentials in the query are not enabled",
    21: "the token is invalid",
    22: "the token is disabled",
    28: "the data channel is missing",
}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The collector's own words: `{"text": …, "code": n, "invalid-event-number": m}`."""

    code: int
    number: int | None = None  # of the first bad event, from 0; for code 7 one more than that

    @classmethod
    def read(cls, body: bytes) -> Self | None:
        """None where *body* is not a collector's answer."""
        said = _object(body)
        code = None if said is None else said.get("code")
        if said is None or not isinstance(code, int):
            return None
        number = said.get("invalid-event-number")
        return cls(code, number if isinstance(number, int) else None)


def judge(reply: Reply, count: int, now: float) -> Outcome:
    """What Splunk's *reply* to *count* events at the event endpoint means."""
    verdict = _Verdict.read(reply.body)
    if reply.status == 200:
        return _judge_success(reply, verdict)
    if reply.status == 400 and verdict is not None:
        return _judge_refusal(reply, verdict, count, now)
    return classify(reply, now=now)


def judge_raw(reply: Reply, count: int, now: float) -> Outcome:
    """What Splunk's *reply* to *count* lines at the raw endpoint means.

    A number in it counts what Splunk made of the lines, which need not be one event each: it blames nobody.
    """
    del count
    verdict = _Verdict.read(reply.body)
    if reply.status == 200:
        return _judge_success(reply, verdict)
    if reply.status == 400 and verdict is not None and verdict.code in _BAD_SETUP:
        return _bad_setup(reply, verdict)
    return classify(reply, now=now)


def ack_id(reply: Reply) -> int | None:
    """The number by which to ask whether the events are indexed; they count from 0 in each channel."""
    said = _object(reply.body)
    number = None if said is None else said.get("ackId")
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def acknowledged(reply: Reply, now: float) -> frozenset[int] | Throttled | Transient | Misconfigured:
    """The ids that *reply*, of the acknowledgement endpoint, says are indexed; or why it says nothing."""
    if reply.status == 200:
        said = _object(reply.body)
        acks = None if said is None else said.get("acks")
        if not isinstance(acks, dict):
            return Misconfigured(respond(reply, "but this is not how acknowledgements are answered"))
        return frozenset(int(id_) for id_, indexed in acks.items() if indexed is True and id_.isdecimal())
    verdict = _Verdict.read(reply.body)
    if reply.status == 400 and verdict is not None and verdict.code in _BAD_SETUP:
        return _bad_setup(reply, verdict)
    outcome = classify(reply, now=now)
    if isinstance(outcome, Throttled | Transient | Misconfigured):
        return outcome
    return Misconfigured(respond(reply, "asked for acknowledgements, whatever the events"))


def _object(body: bytes) -> dict[str, object] | None:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) else None


def _judge_success(reply: Reply, verdict: _Verdict | None) -> Outcome:
    # An empty 200 or a login page behind a 200 has stored nothing.
    if verdict is None or verdict.code not in _STORED:
        return Misconfigured(respond(reply, "but this is not how an event collector answers"))
    return Delivered(respond(reply))


def _judge_refusal(reply: Reply, verdict: _Verdict, count: int, now: float) -> Outcome:
    if verdict.code in _BAD_SETUP:
        indexed = verdict.number - 1 if verdict.code == _WRONG_INDEX and verdict.number is not None else 0
        held = _bad_setup(reply, verdict)
        if 0 < indexed < count:
            # What came before is stored. The rest is sent again at once and then stands first.
            return Partial(held.response, tuple(range(indexed)), ())
        return held
    if verdict.code in _BAD_EVENT and verdict.number is not None and 0 <= verdict.number < count:
        detail = f"code {verdict.code}, {_BAD_EVENT[verdict.code]}"
        return Partial(
            respond(reply, detail),
            tuple(range(verdict.number)),
            (Rejection(verdict.number, Reason.REJECTED, detail),),
        )
    return classify(reply, now=now)


def _bad_setup(reply: Reply, verdict: _Verdict) -> Misconfigured:
    return Misconfigured(respond(reply, f"code {verdict.code}, {_BAD_SETUP[verdict.code]}"))
