"""`http`: events to any endpoint that takes a POST, in one of four framings.

Owns the choice of body, headers and credentials. Plain lines go out as they lie in the log, without
a look at single events. What vendors ask for is `profiles`'.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from relay.batch import Chunk
from relay.clock import Clock
from relay.config.secret import OptionalSecret
from relay.config.types import refusal
from relay.destinations import framing
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    ProbeReport,
    Rejected,
    Rejection,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.classify import Reply, classify
from relay.destinations.framing import Framing
from relay.destinations.http_client import HttpClient, zipped
from relay.destinations.http_config import (
    Basic,
    HeaderName,
    HeaderSecret,
    HeaderText,
    OptionalHeaderSecret,
    UrlConfig,
)
from relay.destinations.messages import pagerduty
from relay.destinations.profiles import PROFILES, Profile, ProfileName, Writer
from relay.model import Event, Reason

_STATUS_RANGE = re.compile(r"([2-5]\d\d)(?:-([2-5]\d\d))?")


def statuses(ranges: Iterable[int | str]) -> frozenset[int]:
    """The statuses in a list such as `[200-299]` or `[200, 202]`."""
    found: set[int] = set()
    for text in ranges:
        match = _STATUS_RANGE.fullmatch(str(text))
        if match is None:
            raise refusal("expected statuses such as 202 or 200-299")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise refusal(f"expected a range that rises, got {text}")
        found.update(range(first, last + 1))
    return frozenset(found)


def _readable(ranges: tuple[int | str, ...]) -> tuple[int | str, ...]:
    statuses(ranges)
    return ranges


class HttpConfig(UrlConfig):
    """Any HTTP endpoint."""

    type: Literal["http"] = Field(description="Any HTTP endpoint.")
    profile: ProfileName | None = Field(
        default=None, description="A vendor whose framing, limits and answers stand in for what is left out."
    )
    method: Literal["POST", "PUT", "PATCH"] = Field(default="POST", description="Request method.")
    framing: Framing = Field(
        default="lines",
        description="How events share a body: lines as received, ndjson, json_array, or one_per_request.",
    )
    content_type: HeaderText | None = Field(
        default=None, description="Content-Type; by default what belongs to the framing."
    )
    headers: dict[HeaderName, HeaderSecret] = Field(
        default_factory=dict, description="Headers to add. Their values are treated as secrets."
    )
    authorization: OptionalHeaderSecret = Field(
        default=None, description="Value of the Authorization header, sent verbatim."
    )
    bearer: OptionalHeaderSecret = Field(default=None, description="Token sent as `Bearer <token>`.")
    basic: Basic | None = Field(default=None, description="User name and password.")
    routing_key: OptionalSecret = Field(
        default=None, description="Integration key, sent in the body; for the profile pagerduty."
    )
    success: Annotated[tuple[int | str, ...], AfterValidator(_readable)] = Field(
        default=("200-299",), min_length=1, description="Statuses that mean the events are stored."
    )
    passthrough_gzip: bool = Field(
        default=False,
        description="Send the stored gzip as it is, several members in a row. Much cheaper, but not every "
        "receiver reads past the first member: try it before relying on it. Only with framing lines.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """What the profile says, where the user says nothing."""
        name = given.get("profile") if isinstance(given, dict) else None
        profile = PROFILES.get(name) if isinstance(name, str) else None  # type: ignore[call-overload]  # any text
        return given if profile is None else profile.completed(given)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = [key.lower() for key in self.headers]
        credentials = [self.authorization, self.bearer, self.basic, "authorization" in named or None]
        if sum(credential is not None for credential in credentials) > 1:
            raise refusal("expected at most one of `authorization`, `bearer`, `basic` and such a header")
        if len(set(named)) < len(named):
            raise refusal("a header is named twice in `headers`")
        if self.passthrough_gzip and self.framing != "lines":
            raise refusal("`passthrough_gzip` needs `framing: lines`")
        if self.passthrough_gzip and (self.format != "source" or self.redact is not None):
            raise refusal(
                "`passthrough_gzip` sends what is stored, so it goes with neither `format` nor `redact`"
            )
        if self.routing_key is not None and self.profile != "pagerduty":
            raise refusal("`routing_key` belongs to the profile pagerduty")
        if self.profile is not None:
            self._suits(self.profile, named)
        return self

    def _suits(self, name: ProfileName, headers: list[str]) -> None:
        known = ("authorization", "bearer", "basic", "headers", "routing_key")
        keys = {key for key in known if getattr(self, key)}
        if "authorization" in headers:
            keys.add("authorization")
        own = None if self.authorization is None else self.authorization.reveal()
        if (objection := PROFILES[name].objection(keys, own)) is not None:
            raise refusal(f"the profile {name} {objection}")

    def request_headers(self) -> dict[str, str]:
        """Headers of every request, credentials included."""
        headers = {name: value.reveal() for name, value in self.headers.items()}
        if self.authorization is not None:
            headers["Authorization"] = self.authorization.reveal()
        elif self.bearer is not None:
            headers["Authorization"] = f"Bearer {self.bearer.reveal()}"
        elif self.basic is not None:
            headers["Authorization"] = self.basic.header()
        return headers


class HttpDestination:
    """Sends to one URL."""

    def __init__(self, config: HttpConfig, *, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._url = config.address()
        self._success = statuses(config.success)
        self._profile: Profile | None = None if config.profile is None else PROFILES[config.profile]
        self._write: Writer | None = None
        self._show: Writer | None = None  # the same without a credential
        if self._profile is not None and self._profile.framing == config.framing:
            self._write = self._show = self._profile.write
        # The password itself is in no header, only its encoded form; the routing key is in the body.
        secrets = [config.basic.password.reveal()] if config.basic is not None else []
        if config.routing_key is not None:
            secrets.append(config.routing_key.reveal())
            self._write = partial(pagerduty, routing_key=config.routing_key.reveal())
            self._show = partial(pagerduty, routing_key="<secret>")
        self._gzip = config.batch.compression == "gzip" or config.passthrough_gzip
        self._body_headers = {"Content-Type": config.content_type or framing.CONTENT_TYPE[config.framing]}
        if self._gzip:
            self._body_headers["Content-Encoding"] = "gzip"
        self._client = HttpClient(config, headers=config.request_headers(), secrets=secrets)

    def __repr__(self) -> str:
        return f"<HttpDestination {self._config.name}>"

    @property
    def event_overhead(self) -> int:
        if self._write is not None and self._profile is not None:
            return self._profile.overhead
        return framing.OVERHEAD[self._config.framing]

    def part(self, event: Event) -> bytes:
        if self._show is not None:
            return self._show([event])
        if self._config.framing in ("ndjson", "json_array"):
            return framing.as_object(event)
        return event.line

    async def open(self) -> None:
        await self._client.open()

    async def send(self, chunk: Chunk) -> Outcome:
        if self._config.framing == "one_per_request":
            return await self._one_by_one(chunk)
        if self._config.passthrough_gzip:
            members = chunk.gzip_members()
            if members is not None:
                return await self._post(members, len(chunk))
        # Plain lines lie there as they are; anything else reads every event, which is nothing for the event
        # loop.
        plain = self._write is None and self._config.framing == "lines"
        body = chunk.body if plain else await asyncio.to_thread(self._framed, chunk)
        return await self._post(await self._encoded(body), len(chunk))

    async def probe(self) -> ProbeReport:
        """Ask for the address with HEAD: proves connection and TLS, and credentials only if refused.

        With GET as well after a 400, which may be nginx's for our client certificate (only the page would say
        so, which HEAD does not get), and after a 500, since there are endpoints that fail at HEAD alone.
        """
        said = "HEAD was answered with"
        reply = await self._client.request("HEAD", self._url)
        if isinstance(reply, Reply) and reply.status in {400, 500}:
            said = f"{said} {reply.status}, GET with"
            reply = await self._client.request("GET", self._url)
        if not isinstance(reply, Reply):
            return ProbeReport(ok=False, detail=reply.response.detail)
        outcome = classify(reply, now=self._clock.now())
        bad_request = reply.status == 400 and isinstance(outcome, Misconfigured)
        if bad_request or reply.status in {401, 402, 403, 404, 407, 410, 495, 496} or reply.status >= 502:
            return ProbeReport(ok=False, detail=outcome.response.detail)
        if reply.status == 500:
            return ProbeReport(ok=False, detail=f"{said} 500: it is failing, or knows nothing but POST")
        return ProbeReport(ok=True, detail=f"reachable; {said} {reply.status}")

    async def close(self) -> None:
        await self._client.close()

    def _framed(self, chunk: Chunk) -> bytes:
        if self._write is not None:
            return self._write(list(chunk.events()))
        match self._config.framing:
            case "ndjson":
                return framing.as_ndjson(chunk)
            case _:
                return framing.as_json_array(chunk)

    async def _encoded(self, body: bytes) -> bytes:
        return await zipped(body) if self._gzip else body

    def _bodies(self, chunk: Chunk) -> Iterable[bytes]:
        """The body of each event, where each has one of its own."""
        if self._write is None:
            return chunk.lines()
        write = self._write
        return (write([event]) for event in chunk.events())

    async def _post(self, body: bytes, count: int) -> Outcome:
        reply = await self._client.request(self._config.method, self._url, body, self._body_headers)
        if not isinstance(reply, Reply):
            return reply
        outcome = classify(reply, now=self._clock.now(), success=self._success)
        if self._profile is not None and isinstance(outcome, Delivered):
            return self._profile.doubts(reply, count) or outcome
        return outcome

    async def _one_by_one(self, chunk: Chunk) -> Outcome:
        """One request after another until something fails or the time-out of a send has passed.

        What was sent until then is reported as delivered, so that it is not sent again.
        """
        deadline = self._clock.monotonic() + self._config.timeout
        for done, body in enumerate(self._bodies(chunk), 1):
            outcome = await self._post(await self._encoded(body), 1)
            if not isinstance(outcome, Delivered):
                return _broken_off(outcome, done - 1)
            if done == len(chunk):
                return outcome
            if self._clock.monotonic() >= deadline:
                return Partial(outcome.response, tuple(range(done)), ())
        raise ValueError("a chunk without events was to be sent")


def _broken_off(outcome: Outcome, done: int) -> Outcome:
    """What became of a chunk whose first *done* events were delivered and whose next one met *outcome*."""
    delivered = tuple(range(done))
    match outcome:
        case Rejected(response):
            return Partial(response, delivered, (Rejection(done, Reason.REJECTED, response.detail),))
        case TooLarge(response):
            return Partial(response, delivered, (Rejection(done, Reason.TOO_LARGE, response.detail),))
        case Throttled(response) | Transient(response) if done:
            return Partial(response, delivered, (), rest=outcome)
        case Misconfigured(response) if done:
            # The rest is sent at once, meets the same answer with nothing delivered before it, and holds.
            return Partial(response, delivered, ())
        case _:
            return outcome
