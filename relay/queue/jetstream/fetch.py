"""Getting messages out of a stream through consumers: on request, or all that is there at present.

Owns temporary consumers, the inboxes of pull requests, and what servers answer to them. Knows nothing of what
the messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from relay.errors import QueueError
from relay.queue.jetstream.by_sequence import REQUEST_BYTES, Message
from relay.queue.jetstream.link import Leaderless, Link, Silent
from relay.queue.jetstream.pausing import ATTEMPTS, pause

_ANSWER_SECONDS: Final = 5.0
_LATE_SECONDS: Final = 2.0  # for a message to be agreed upon after the end of its request was told
_SCAN_BATCH: Final = 500  # messages asked for at a time
_IDLE_NS: Final = 30_000_000_000  # a temporary consumer nobody asks goes after this
PAYLOAD_BYTES: Final = "Nats-Msg-Size"  # header: size of a payload that was left out
_UNSENT: Final = "Nats-Pending-Messages"  # header of the end of a request
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Unanswered(QueueError):
    """A consumer gives nothing: it is gone, or nobody keeps it at present."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a server says to a request besides messages."""

    code: str
    text: str
    unsent: int | None  # how many fewer messages than it was asked for it gave

    @property
    def is_nobody(self) -> bool:
        """Whether nobody was there to ask.

        In a cluster a consumer is there before every server knows where: who asks at once may find nobody.
        """
        return self.code == "503"

    @property
    def is_completed(self) -> bool:
        """Whether a request ended because it gave as many messages as it was asked for, with room left."""
        return self.code == "409" and "Batch Completed" in self.text

    @property
    def is_full(self) -> bool:
        """Whether a request ended because it has no room for the next message."""
        return self.code == "409" and "MaxBytes" in self.text


class Pull:
    """Takes messages from a consumer on request. Used by one task at a time."""

    def __init__(self, link: Link, stream: str, consumer: str) -> None:
        self._link = link
        self._subject = f"{link.api_prefix}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = link.client.new_inbox()
        self._subscription: Subscription | None = None
        self._messages: asyncio.Queue[Msg | None] = asyncio.Queue()

    async def take(self, most: int) -> list[Message]:
        """What is there at present, at most *most* messages and some megabytes.

        Raises `Unanswered` or `QueueError`.
        """
        for _ in range(ATTEMPTS):
            try:
                return await self._take(most)
            except Leaderless:
                await pause()
        raise Unanswered("nobody answers for a consumer at present")

    async def _take(self, most: int) -> list[Message]:
        await self._ask({"batch": most, "no_wait": True, "max_bytes": request_bytes(self._link)})
        found: list[Message] = []
        due = most  # messages that this request gives
        seconds = _ANSWER_SECONDS
        while len(found) < due:
            try:
                answer = answer_of(await self._next(seconds))
            except Silent:
                if seconds == _ANSWER_SECONDS:
                    raise
                break  # they come another time, or are read from the stream
            if isinstance(answer, Message):
                found.append(answer)
            elif answer.is_nobody:
                raise Leaderless
            elif answer.code in ("404", "408") or answer.is_completed or answer.is_full:
                # Where a consumer is replicated each message waits for a quorum, and the end overtakes them.
                due = len(found) if answer.unsent is None else most - answer.unsent
                seconds = _LATE_SECONDS
                if not due and answer.is_full:
                    raise Unanswered(f"NATS: {answer.text}")
            else:
                raise Unanswered(f"NATS: {answer.text or 'consumer is gone'}")
        return found

    async def _ask(self, body: Mapping[str, object]) -> None:
        if self._subscription is None:
            try:
                self._subscription = await self._link.client.subscribe(self._inbox, cb=self._messages.put)
            except NatsError as error:
                raise QueueError(f"NATS: {error}") from error
            self._link.inboxes.add(self._messages)
        while not self._messages.empty():  # late answers to a request that was given up
            self._messages.get_nowait()
        await self._link.send_request(self._subject, orjson.dumps(body), self._inbox)

    async def _next(self, seconds: float) -> Msg:
        try:
            message = self._messages.get_nowait()  # a timer for each message would cost more than the rest
        except asyncio.QueueEmpty:
            message = await self._wait(seconds)
        if message is None:
            raise QueueError("the connection to NATS was lost")
        return message

    async def _wait(self, seconds: float) -> Msg | None:
        try:
            async with asyncio.timeout(seconds):
                return await self._messages.get()
        except TimeoutError:
            raise Silent(f"NATS did not answer within {seconds:g} s") from None

    async def close(self) -> None:
        self._link.inboxes.discard(self._messages)
        if self._subscription is not None:
            with suppress(NatsError):
                await self._subscription.unsubscribe()
            self._subscription = None


async def scan(
    link: Link, stream: str, *, start: int = 1, filters: Sequence[str] = (), headers_only: bool = False
) -> AsyncGenerator[Message, None]:
    """Everything that is there at present from sequence *start* on, in order. Raises `QueueError`."""
    consumer, left = await make_consumer(link, stream, start, filters=filters, headers_only=headers_only)
    pull = Pull(link, stream, consumer)
    try:
        while left > 0:
            found = await pull.take(_SCAN_BATCH)
            for message in found:
                yield message
            left -= len(found)
            if not found or found[-1].pending == 0:
                return
    finally:
        await pull.close()
        with suppress(QueueError):  # else it goes by itself
            # Waited for, so that whoever bounds scans bounds consumers.
            await link.api(f"CONSUMER.DELETE.{stream}.{consumer}")


async def make_consumer(
    link: Link,
    stream: str,
    start: int,
    *,
    filters: Sequence[str],
    headers_only: bool,
    last_per_subject: bool = False,
) -> tuple[str, int]:
    """A temporary one from sequence *start* on: its name, and how many messages wait for it."""
    config: dict[str, object] = {
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _IDLE_NS,
        "headers_only": headers_only,
    }
    if filters:
        config["filter_subjects"] = list(filters)
    if last_per_subject and start <= 1:
        config["deliver_policy"] = "last_per_subject"
    else:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, start)}
    made = await link.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    return made["name"], made["num_pending"]


def answer_of(message: Msg) -> Message | Status:
    """What came to the inbox of a request."""
    headers = message.headers or {}
    if "Status" not in headers or message.reply.startswith("$JS.ACK"):
        return _taken(message)
    unsent = headers.get(_UNSENT)
    return Status(
        str(headers["Status"]), str(headers.get("Description", "")), None if unsent is None else int(unsent)
    )


def _taken(message: Msg) -> Message:
    """A message from a consumer; its reply subject tells where it stands.

    `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>`, with domain and
    account before the stream in the newer form (ADR-15).
    """
    tokens = message.reply.split(".")
    at = 5 if len(tokens) == 9 else 7
    return Message(
        seq=int(tokens[at]),
        subject=message.subject,
        headers=message.headers or _NO_HEADERS,
        payload=message.data,
        reply=message.reply,
        pending=int(tokens[at + 3]),
    )


def request_bytes(link: Link) -> int:
    """Room for the largest message in any case."""
    return max(REQUEST_BYTES, 2 * link.max_payload)
