"""`loki`: lines into one stream of Grafana Loki.

Owns the push request, its time stamps and the reading of Loki's messages. A stamp follows from the event
alone, so an entry that is sent again is the very same entry, which Loki merges. That is what makes it safe to
send again what may be stored already: Loki stores the valid entries of a push it answers with 400.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import orjson
from pydantic import Field
from yarl import URL

from relay.clock import Clock
from relay.config.destination import BatchLimits
from relay.config.types import Size
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    ProbeReport,
    Rejected,
    Rejection,
    TooLarge,
)
from relay.destinations.classify import ANY_2XX, Reply, classify, respond
from relay.destinations.framing import quoted
from relay.destinations.http_config import AuthorizedConfig, HeaderText
from relay.destinations.posting import Ask, Intake, PostingDestination
from relay.destinations.records import BLANK
from relay.konnect.lines import ordinal_of
from relay.konnect.times import happened_at
from relay.model import Event, Reason

_PUSH = "/loki/api/v1/push"
_NOTHING = b'{"streams":[]}'
_NS_PER_MS = 1_000_000

# The messages in grafana/loki, pkg/validation/validate.go, from their beginning. Several come in a row and
# counted, `3 errors like: …; 1 errors like: …`. They quote labels, which are ours, and times, but no line.
_SETUP = re.compile(
    rb"""
        error\ at\ least\ one\ label\ pair\ is\ required
        | error\ parsing\ labels
        | missing\ required\ labels
        | ingestion\ blocked
        | entry\ for\ stream\ '.*?'\ has\ \d+\ label\ names
        | stream\ '.*?'\ has\ (?:label\ (?:name|value)\ too\ long|duplicate\ label\ name)
        | stream\ '.*?'\ (?:includes|has\ too\ many)\ structured\ metadata
        | stream\ '.*?'\ has\ structured\ metadata\ too\ large
    """,
    re.IGNORECASE | re.VERBOSE,
)
_TOO_LONG = re.compile(rb"max entry size '?\d+'? bytes exceeded", re.IGNORECASE)
_BETWEEN = re.compile(rb"(?:^|; |\n)\s*(?:\d+ errors like: )?")
_ALIKE = re.compile(rb"(?:^|; )(\d{1,9}) errors like: ", re.MULTILINE)
_IGNORED = re.compile(rb"total ignored: (\d{1,9}) out of \d")
_DETAIL_LENGTH = 300
_MOST_ANSWER = 1024 * 1024  # bytes; every entry of a chunk may have a message of its own
_NO_STREAM = b"at least one valid stream is required"


class LokiBatchLimits(BatchLimits):
    """Loki takes far more; 1 MB is what other senders keep to."""

    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        1_000_000, description="Most bytes in one request, before compression."
    )
    compression: Literal["none", "gzip"] = Field("gzip", description="How request bodies are compressed.")


LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=1024)]
LabelValue = Annotated[str, Field(min_length=1, max_length=2048)]


class LokiConfig(AuthorizedConfig):
    """Grafana Loki, Grafana Cloud Logs, or another receiver of Loki's push API."""

    type: Literal["loki"] = Field(description="Grafana Loki.")
    tenant: HeaderText | None = Field(
        default=None, description="Tenant, sent as `X-Scope-OrgID`.", min_length=1
    )
    labels: Annotated[dict[LabelName, LabelValue], Field(min_length=1, max_length=15)] = Field(
        default={"job": "konnect-audit"}, description="Labels of the stream, the same for every event."
    )
    structured_metadata: bool = Field(
        default=True,
        description="Send the event's id and source as structured metadata; Loki before 3.0 may refuse it.",
    )
    batch: LokiBatchLimits = Field(
        default=LokiBatchLimits(), description="How many events go out in one request."
    )


def loki(config: LokiConfig, *, clock: Clock) -> PostingDestination:
    """The destination for *config*.

    A URL that ends in `/push` is used as it is, any other one is a base address.
    """
    url = config.address()
    if not url.raw_path.endswith("/push"):
        url = url.with_path(url.raw_path.rstrip("/") + _PUSH, encoded=True, keep_query=True)
    write = partial(entry, structured_metadata=config.structured_metadata)
    tenant = {} if config.tenant is None else {"X-Scope-OrgID": config.tenant}
    intake = Intake(
        url=url,
        content_type="application/json",
        part=write,
        body=partial(push, labels=config.labels),
        judge=judge,
        probe=partial(probe, url),
        overhead=len(write(BLANK)) + 1,
        max_answer=_MOST_ANSWER,
        headers={**tenant, **config.authorization_header()},
        secrets=config.passwords(),
    )
    return PostingDestination(config, intake, clock=clock)


def stamp(event: Event) -> int:
    """Nanoseconds since the epoch: the event's own milliseconds and, below them, digits of its id.

    So two events of one millisecond differ, and one event always has the same stamp. Twins are one apart.
    """
    digits = int(event.id[:8], 16) + ordinal_of(event.id)
    return happened_at(event) * _NS_PER_MS + digits % _NS_PER_MS


def entry(event: Event, *, structured_metadata: bool) -> bytes:
    """One entry: stamp, line, and what is known beside it, all of it text."""
    about = b""
    if structured_metadata:
        about = b',{"event_id":"%b","source":%b}' % (event.id.encode(), orjson.dumps(event.source))
    return b'["%d",%b%b]' % (stamp(event), quoted(event.line), about)


def push(entries: Sequence[bytes], *, labels: Mapping[str, str]) -> bytes:
    """The entries of one stream, by time: Loki refuses what lies too far behind what it has."""
    ordered = sorted(entries, key=_stamp_of)
    return b'{"streams":[{"stream":%b,"values":[%b]}]}' % (orjson.dumps(labels), b",".join(ordered))


def _stamp_of(written: bytes) -> int:
    return int(written[2 : written.index(b'"', 2)])


def judge(reply: Reply, count: int, now: float) -> Outcome:
    """What Loki's *reply* to *count* events means.

    Only 204 is success: 260, or any other status an operator chose, says that ingestion is blocked.
    """
    messages = _BETWEEN.split(reply.body)
    if (reply.status == 400 or reply.status in ANY_2XX) and any(map(_SETUP.match, messages)):
        return Misconfigured(respond(reply, "it blames labels, metadata or a block, not an event"))
    if reply.status == 260:
        return Misconfigured(respond(reply, "ingestion is blocked, nothing is stored"))
    outcome = classify(reply, now=now, success={204})
    # A 400 may also be a proxy's, about the certificate; such a one blames no entry.
    if reply.status == 400 and isinstance(outcome, Rejected):
        return _judge_refusal(reply, messages, count)
    return outcome


def _judge_refusal(reply: Reply, messages: Sequence[bytes], count: int) -> Outcome:
    """Loki stored the valid entries and does not say which these are, unless there were none."""
    if any(map(_TOO_LONG.match, messages)):
        return TooLarge(respond(reply, "a line is longer than it takes"))
    if _refused(reply.body) < count:
        return Rejected(respond(reply, "it refuses some entries and stores the others"))
    # Bisecting a chunk of which every entry is too old would cost two requests for each of them.
    detail = reply.body[:_DETAIL_LENGTH].decode(errors="replace").strip()
    refusals = tuple(Rejection(n, Reason.REJECTED, detail) for n in range(count))
    return Partial(respond(reply, "it refuses every entry"), (), refusals)


def _refused(body: bytes) -> int:
    """How many entries Loki says it refused, as far as it says so; a single error stands without a count."""
    return sum(int(number) for pattern in (_ALIKE, _IGNORED) for number in pattern.findall(body))


async def probe(url: URL, ask: Ask, now: float) -> ProbeReport:
    """Push no stream at all: proves address, credentials and tenant.

    Older versions answer 204 to that, newer ones 422 with a complaint; no gateway in front of Loki does.
    """
    reply = await ask("POST", url, _NOTHING, {"Content-Type": "application/json"})
    if not isinstance(reply, Reply):
        return ProbeReport(ok=False, detail=reply.response.detail)
    outcome = judge(reply, 0, now)
    if isinstance(outcome, Delivered) or (reply.status in {400, 422} and _NO_STREAM in reply.body):
        return ProbeReport(ok=True, detail="reachable, and a push is accepted")
    return ProbeReport(ok=False, detail=outcome.response.detail)
