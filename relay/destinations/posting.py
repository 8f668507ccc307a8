"""Posting events to a vendor's intake: what every vendor that takes wrapped events over HTTP has in common.

Owns the order of things: write the events, put them into one body, send it, have the answer judged. What
an event looks like and what an answer means is the vendor's, told by an `Intake`. Plain lines do not
come through here: `http` and `sumologic` send them as they lie in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from yarl import URL

from relay.batch import Chunk
from relay.clock import Clock
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    ProbeReport,
    Rejection,
    Throttled,
    Transient,
    Unfit,
)
from relay.destinations.classify import Reply
from relay.destinations.http_client import BODY_LIMIT, HttpClient, zipped
from relay.destinations.http_config import HttpConfigBase
from relay.model import Event, Reason, Response

NoReply = Throttled | Transient | Misconfigured
"""Why there is no answer to judge."""


class Ask(Protocol):
    """Sends one request with the destination's credentials; what `Intake.probe` is given."""

    async def __call__(
        self, method: str, url: URL, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply | NoReply: ...


class Credentials(Protocol):
    """Credentials that change while the relay runs, e.g. OAuth tokens."""

    async def headers(self) -> Mapping[str, str] | NoReply:
        """What proves who we are at present; fetched where there is none or it is about to expire."""
        ...

    def refused(self, headers: Mapping[str, str]) -> None:
        """The destination answered 401 to *headers*: do not offer these again.

        By then another send may have fetched newer ones; those stay.
        """
        ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...


class Proof(Protocol):
    """Proof that events are stored where the answer to a request is none yet."""

    async def of(
        self, post: Callable[[], Awaitable[Reply | NoReply]], judge: Callable[[Reply], Outcome], ask: Ask
    ) -> Outcome:
        """Send with *post*, have *judge* read the answer, and return when it is certain what became of it."""
        ...


@dataclass(frozen=True, slots=True)
class Intake:
    """Where a vendor takes events, in which writing, and how to read what it answers."""

    url: URL
    content_type: str
    part: Callable[[Event], bytes | Unfit]  # one event in the vendor's writing
    body: Callable[[Sequence[bytes]], bytes]  # the parts of a request put together
    judge: Callable[[Reply, int, float], Outcome]  # the answer, how many events were sent, now
    probe: Callable[[Ask, float], Awaitable[ProbeReport]]  # now, to read a `Retry-After` by
    overhead: int  # bytes that `part` and `body` add to an event's line, escapes not counted
    headers: Mapping[str, str] = field(default_factory=dict)
    max_body: int | None = None  # bytes the vendor takes before compression; None: `batch.max_bytes` will do
    max_part: int | None = None  # bytes of one event the vendor would cut short behind a success
    max_answer: int = BODY_LIMIT  # bytes of an answer that are needed to judge it
    secrets: Sequence[str] = ()  # to blot out of answers, besides the headers and the URL


class PostingDestination:
    """Sends to one intake."""

    def __init__(
        self,
        config: HttpConfigBase,
        intake: Intake,
        *,
        clock: Clock,
        credentials: Credentials | None = None,
        proof: Proof | None = None,
    ) -> None:
        self._name = config.name
        self._intake = intake
        self._clock = clock
        self._credentials = credentials
        self._proof = proof
        self._gzip = config.batch.compression == "gzip"
        self._body_headers = {"Content-Type": intake.content_type}
        if self._gzip:
            self._body_headers["Content-Encoding"] = "gzip"
        self._client = HttpClient(config, headers=intake.headers, secrets=intake.secrets)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def event_overhead(self) -> int:
        return self._intake.overhead

    async def open(self) -> None:
        await self._client.open()
        if self._credentials is not None:
            await self._credentials.open()

    async def send(self, chunk: Chunk) -> Outcome:
        # In a thread: a thousand events take ten milliseconds, in which Konnect's requests have to be
        # answered.
        written = await asyncio.to_thread(self._written, chunk)
        # A part's place in the list is the event's in the request, its number the event's in the chunk.
        good = [(n, part) for n, part in enumerate(written) if not isinstance(part, Unfit)]
        parts = self._fitting([part for _, part in good])
        numbers = [n for n, _ in good[: len(parts)]]
        seen = good[len(parts)][0] if len(parts) < len(good) else len(written)
        unfit = tuple(
            Rejection(n, part.reason, part.detail)
            for n, part in enumerate(written[:seen])
            if isinstance(part, Unfit)
        )
        if not parts:
            return Partial(Response(f"not sent: {unfit[0].detail}"), (), unfit)
        outcome = await self._send(parts)
        return outcome if len(parts) == len(chunk) else _in_chunk(outcome, numbers, unfit)

    def _written(self, chunk: Chunk) -> list[bytes | Unfit]:
        return [self.part(event) for event in chunk.events()]

    async def _send(self, parts: list[bytes]) -> Outcome:
        body = self._intake.body(parts)
        if self._gzip:
            body = await zipped(body)
        return await self._outcome(body, len(parts))

    def part(self, event: Event) -> bytes | Unfit:
        part = self._intake.part(event)
        most = self._intake.max_part
        if most is not None and not isinstance(part, Unfit) and len(part) > most:
            return Unfit(Reason.TOO_LARGE, f"{len(part)} bytes, of which the destination keeps {most}")
        return part

    async def _outcome(self, body: bytes, count: int) -> Outcome:
        async def post() -> Reply | NoReply:
            return await self._ask("POST", self._intake.url, body, self._body_headers)

        def judge(reply: Reply) -> Outcome:
            return self._intake.judge(reply, count, self._clock.now())

        if self._proof is not None:
            return await self._proof.of(post, judge, self._ask)
        reply = await post()
        return judge(reply) if isinstance(reply, Reply) else reply

    async def probe(self) -> ProbeReport:
        return await self._intake.probe(self._ask, self._clock.now())

    async def close(self) -> None:
        await self._client.close()
        if self._credentials is not None:
            await self._credentials.close()

    def _fitting(self, parts: list[bytes]) -> list[bytes]:
        """As many of the first parts as the vendor takes in one request, at least one.

        Chunks are cut by the length of lines, and wrapping may add more than `overhead` tells: escapes,
        base64. The rest is sent in a request of its own right after this one.
        """
        limit = self._intake.max_body
        if limit is None:
            return parts
        size = 0
        for n, part in enumerate(parts):
            size += len(part) + 1
            if n and size > limit:
                return parts[:n]
        return parts

    async def _ask(
        self, method: str, url: URL, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply | NoReply:
        """One request; a second one with fresh credentials where the first ones were refused."""
        reply, ours = await self._ask_once(method, url, body, headers)
        if self._credentials is not None and isinstance(reply, Reply) and reply.status == 401:
            self._credentials.refused(ours)
            reply, _ = await self._ask_once(method, url, body, headers)
        return reply

    async def _ask_once(
        self, method: str, url: URL, body: bytes, headers: Mapping[str, str] | None
    ) -> tuple[Reply | NoReply, Mapping[str, str]]:
        """The reply, and the credentials that it is an answer to."""
        ours = {} if self._credentials is None else await self._credentials.headers()
        if not isinstance(ours, Mapping):
            return ours, {}
        for value in ours.values():
            self._client.keep_secret(value)
        reply = await self._client.request(
            method, url, body, {**(headers or {}), **ours}, max_answer=self._intake.max_answer
        )
        return reply, ours


def _in_chunk(outcome: Outcome, numbers: list[int], unfit: tuple[Rejection, ...]) -> Outcome:
    """*outcome* of a request that held only the events *numbers* of a chunk.

    A failure of the request as a whole is one of the chunk; what is unfit is told with the next success.
    """
    match outcome:
        case Delivered(response):
            return Partial(response, tuple(numbers), unfit)
        case Partial(response, delivered, rejected, rest):
            ours = (Rejection(numbers[one.index], one.reason, one.detail) for one in rejected)
            everyone = sorted((*ours, *unfit), key=lambda one: one.index)
            return Partial(response, tuple(numbers[n] for n in delivered), tuple(everyone), rest)
        case _:
            return outcome
