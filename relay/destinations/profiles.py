"""What `profile:` of the `http` destination stands for: vendors that take plain HTTP, each with its habits.

Owns the table of vendors: framing, limits, which answers count, and which credential is asked for. A profile
only fills in what the configuration leaves out. Never does I/O and never sees a credential's text but
for its scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import orjson

from relay.destinations.base import Misconfigured, Outcome, Rejected, Transient
from relay.destinations.classify import Reply, respond
from relay.destinations.framing import Framing, quoted
from relay.destinations.messages import pagerduty, slack, teams
from relay.konnect.times import happened_at
from relay.model import Event

ProfileName = Literal[
    "panther",
    "cortex_xsiam",
    "exabeam",
    "rapid7",
    "qradar",
    "dynatrace",
    "elastic_agent",
    "slack",
    "teams",
    "pagerduty",
]

Writer = Callable[[Sequence[Event]], bytes]
"""The body of one request with these events; with `one_per_request` there is one."""


def _as_the_status_says(reply: Reply, count: int) -> Outcome | None:
    del reply, count
    return None


@dataclass(frozen=True, slots=True)
class Profile:
    """One vendor. Each setting stands for the key of its name where the user left that out."""

    framing: Framing
    max_events: int
    max_bytes: int  # before compression
    compression: Literal["none", "gzip"]
    linger: str = "0s"  # as in the configuration
    url: str | None = None  # where the vendor has one address for everybody
    success: tuple[int | str, ...] = ("200-299",)
    content_type: str | None = None  # None: what belongs to the framing
    # One of these is needed: `authorization`, `bearer`, `basic`, `headers`, `routing_key`. None: none is.
    needs: tuple[str, ...] = ()
    credential: str = ""  # what is needed, for the message
    schemes: tuple[str, ...] = ()  # one of which `authorization` begins with; none: anything goes
    # Looks at a reply whose status means success, for *count* events; None: the status was right.
    doubts: Callable[[Reply, int], Outcome | None] = _as_the_status_says
    write: Writer | None = (
        None  # in place of the framing's own writing, unless the user chose another framing
    )
    overhead: int = 0  # bytes that `write` adds to an event, escapes not counted

    def completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """*given*, as the user wrote it, with what is left out filled in."""
        settings: dict[str, Any] = {"framing": self.framing, "success": self.success, **given}
        if self.url is not None:
            settings.setdefault("url", self.url)
        if "framing" not in given and self.content_type is not None:
            settings.setdefault("content_type", self.content_type)
        batch = given.get("batch", {})
        if isinstance(batch, Mapping):  # what is none is refused in its place
            limits = {
                "max_events": self.max_events,
                "max_bytes": self.max_bytes,
                "compression": self.compression,
                "linger": self.linger,
            }
            settings["batch"] = {**limits, **batch}
        return settings

    def objection(self, keys: Collection[str], authorization: str | None) -> str | None:
        """What is wrong with the credentials, given the *keys* that hold some; None: nothing."""
        if self.needs and not any(key in keys for key in self.needs):
            return f"needs {' or '.join(f'`{key}`' for key in self.needs)}: {self.credential}"
        if authorization is not None and self.schemes and not authorization.startswith(self.schemes):
            return f"expects an `authorization` that begins with {' or '.join(map(repr, self.schemes))}"
        return None


def _cortex_doubts(reply: Reply, count: int) -> Outcome | None:
    """Cortex says `{"ok":"true"}`, or `{"error":"false"}`, when it has stored what was sent."""
    del count
    try:
        said = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        return Misconfigured(respond(reply, "but this is not how an HTTP collector of Cortex answers"))
    if said.get("ok") in {"true", True} or said.get("error") in {"false", False}:
        return None
    return Transient(respond(reply, "but does not say that it is ok"))


def _dynatrace_doubts(reply: Reply, count: int) -> Outcome | None:
    """204: all stored; 200: only some, and it does not say which.

    So the events are sent again in halves until those it will not take stand alone, where the answer is 400.
    A single event that is answered 200 is stored, if not in full.
    """
    if reply.status != 200 or count == 1:
        return None
    return Rejected(respond(reply, "only some of the events were taken"))


_DYNATRACE = b'{"content":%b,"timestamp":%d,"log.source":"konnect","event_id":"%b"}'


def _for_dynatrace(events: Sequence[Event]) -> bytes:
    """An array of log records: the line as text, so that Dynatrace neither flattens nor rounds it."""
    return b"[%b]" % b",".join(
        [_DYNATRACE % (quoted(event.line), happened_at(event), event.id.encode()) for event in events]
    )


def _message(write: Writer, *, success: tuple[int, ...], **more: Any) -> Profile:
    """For people: all events of ten seconds are one message, whatever their number."""
    return Profile(
        framing="json_array",
        max_events=10_000,
        max_bytes=10_000_000,
        compression="none",
        linger="10s",
        success=success,
        content_type="application/json",
        write=write,
        **more,
    )


PROFILES: Mapping[ProfileName, Profile] = MappingProxyType(
    {
        # 1 MB with headers; the kind of stream is told by the first lines (docs.panther.com, HTTP source).
        "panther": Profile(
            framing="lines",
            max_events=1000,
            max_bytes=950_000,
            compression="gzip",
            needs=("authorization", "bearer", "basic", "headers"),
            credential="the bearer token, user and password, or shared secret of the HTTP source",
        ),
        # docs-cortex.paloaltonetworks.com, HTTP log collector; it takes 25 MB.
        "cortex_xsiam": Profile(
            framing="lines",
            max_events=5000,
            max_bytes=5_000_000,
            compression="gzip",
            success=(200,),
            needs=("authorization",),
            credential="the collector's API key, without a scheme",
            doubts=_cortex_doubts,
        ),
        # docs.exabeam.com, generic webhook cloud collector, address for raw logs.
        "exabeam": Profile(
            framing="lines",
            max_events=5000,
            max_bytes=5_000_000,
            compression="gzip",
            needs=("authorization", "bearer"),
            credential="the collector's token",
        ),
        # docs.rapid7.com, webhook; compression is not documented. The token is in the URL.
        "rapid7": Profile(framing="lines", max_events=1000, max_bytes=500_000, compression="none"),
        # QRadar takes a whole body for one event unless a message pattern is set; it ignores credentials.
        "qradar": Profile(
            framing="one_per_request", max_events=100, max_bytes=1_000_000, compression="none", success=(200,)
        ),
        # docs.dynatrace.com, Log Monitoring API v2: 10 MB and 50,000 records; JSON escapes can double a line.
        "dynatrace": Profile(
            framing="json_array",
            max_events=5000,
            max_bytes=4_000_000,
            compression="gzip",
            success=(204, 200),
            content_type="application/json; charset=utf-8",
            needs=("authorization", "bearer"),
            credential="`Api-Token <token>` with the scope logs.ingest",
            schemes=("Api-Token ", "Bearer "),
            doubts=_dynatrace_doubts,
            write=_for_dynatrace,
            overhead=len(_DYNATRACE) + 48,  # digits of the time and of the id, quotes, comma
        ),
        # elastic.co, HTTP endpoint input: an object or an array of objects, nothing else.
        "elastic_agent": Profile(
            framing="json_array", max_events=1000, max_bytes=1_000_000, compression="gzip", success=(200,)
        ),
        # The URL is the credential: docs.slack.dev, incoming webhooks; learn.microsoft.com, Teams workflows.
        "slack": _message(slack, success=(200,)),
        "teams": _message(teams, success=(200, 202)),
        # developer.pagerduty.com, Events API v2; the key is part of the body, which `http` puts in.
        "pagerduty": _message(
            pagerduty,
            success=(202,),
            url="https://events.pagerduty.com/v2/enqueue",
            needs=("routing_key",),
            credential="the integration key of an Events API v2 integration",
        ),
    }
)
