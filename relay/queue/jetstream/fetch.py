"""Getting messages out of a stream: by sequence, as a scan of what is there, or as it comes.

Owns temporary consumers and the inboxes of pull requests. Knows nothing of what the messages mean.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from relay.errors import QueueError
from relay.queue.jetstream.link import NOT_FOUND, ApiError, Leaderless, Link, Silent
from relay.queue.jetstream.pausing import pause

_ANSWER_SECONDS: Final = 5.0
_LATE_SECONDS: Final = 2.0  # for a message to be agreed upon after the end of its request was told
_SCAN_BATCH: Final = 500  # messages asked for at a time
# Bytes asked for at a time. A server cuts off whoever has 64 MiB of answers unread, and with the connection
# go heartbeats and leases: all that is asked for at once has to stay well below.
_REQUEST_BYTES: Final = 4 << 20
_IDLE_NS: Final = 30_000_000_000  # a temporary consumer nobody asks goes after this
PAYLOAD_BYTES: Final = "Nats-Msg-Size"  # header: size of a payload that was left out
_TOO_BIG: Final = "MaxBytes"  # in what a request says that ends before a message it has no room for
_COMPLETED: Final = "Batch Completed"  # in what one says that gave all that was asked for, with room left
_UNSENT: Final = "Nats-Pending-Messages"  # header of the end of a request: how many fewer it gave
# In a cluster a consumer is there before every server knows where: who asks at once may find nobody.
_NO_RESPONDERS: Final = "503"
_ATTEMPTS: Final = 50  # a tenth of a second apart
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Unanswered(QueueError):
    """A consumer gives nothing: it is gone, or nobody keeps it at present."""


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message."""

    seq: int  # of the stream
    subject: str
    headers: Mapping[str, str]
    payload: bytes  # empty where only headers were asked for
    reply: str = ""  # where to acknowledge it
    pending: int = 0  # messages of its consumer behind it


async def get(link: Link, stream: str, seq: int) -> Message | None:
    """The message with exactly this sequence, asked of the stream's leader; None if it is gone."""
    return await _stored(link, stream, {"seq": seq})


async def get_last(link: Link, stream: str, subject: str) -> Message | None:
    """The last message of a subject, asked of the stream's leader."""
    return await _stored(link, stream, {"last_by_subj": subject})


async def get_next(link: Link, stream: str, seq: int, subject: str = ">") -> Message | None:
    """The first message at or after *seq*, asked of the stream's leader."""
    return await _stored(link, stream, {"seq": seq, "next_by_subj": subject})


async def last_sequence(link: Link, stream: str, *, known: int) -> int:
    """The stream's last sequence, as its leader has it. Raises `QueueError`.

    A message is acknowledged, and given out by followers, once most servers have it in their logs; its leader
    may store it a moment later, above all one that was just elected. So a leader that does not have what is
    *known* to exist is asked again for some seconds; one that still has not got it never will.
    """
    attempts = _ATTEMPTS
    while True:
        last: int = (await link.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
        attempts -= 1
        if last >= known or not attempts:
            return last
        await pause()


async def _stored(link: Link, stream: str, which: Mapping[str, object]) -> Message | None:
    try:
        answer = await link.api(f"STREAM.MSG.GET.{stream}", which)
    except ApiError as error:
        if error.err_code in NOT_FOUND:
            return None
        raise
    found = answer["message"]
    return Message(
        seq=found["seq"],
        subject=found["subject"],
        headers=_parse_headers(b64decode(found.get("hdrs", ""))),
        payload=b64decode(found.get("data", "")),
    )


async def get_range(link: Link, stream: str, start: int, limit: int) -> list[Message]:
    """At most *limit* messages from sequence *start* on, in order, as some server of the cluster has them.

    A follower may lack the newest: whoever misses one asks `get`.
    """
    body = orjson.dumps({"seq": start, "batch": limit, "max_bytes": _REQUEST_BYTES})
    answers = await link.collect(f"{link.api_prefix}.DIRECT.GET.{stream}", body)
    found = []
    for answer in answers:
        headers = answer.headers or {}
        found.append(Message(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, answer.data))
    return found


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
        for _ in range(_ATTEMPTS):
            try:
                return await self._take(most)
            except Leaderless:
                await pause()
        raise Unanswered("nobody answers for a consumer at present")

    async def _take(self, most: int) -> list[Message]:
        await self._ask({"batch": most, "no_wait": True, "max_bytes": _request_bytes(self._link)})
        found: list[Message] = []
        due = most  # messages that this request gives
        seconds = _ANSWER_SECONDS
        while len(found) < due:
            try:
                message = await self._next(seconds)
            except Silent:
                if seconds == _ANSWER_SECONDS:
                    raise
                break  # they come another time, or are read from the stream
            if not _is_status(message):
                found.append(taken(message))
            elif _status(message) == _NO_RESPONDERS:
                raise Leaderless
            elif _status(message) in ("404", "408") or _is_completed(message) or _is_full(message):
                # Where a consumer is replicated each message waits for a quorum, and the end overtakes them.
                unsent = (message.headers or {}).get(_UNSENT)
                due = len(found) if unsent is None else most - int(unsent)
                seconds = _LATE_SECONDS
                if not due and _is_full(message):
                    raise Unanswered(f"NATS: {_description(message)}")
            else:
                raise Unanswered(f"NATS: {_description(message) or 'consumer is gone'}")
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


class Follow:
    """Gives every message of a stream as it is stored, without end; begins anew where it broke off."""

    BATCH: Final = 1_000
    EXPIRES: Final = 20.0  # seconds a request stays open
    HEARTBEAT: Final = 1.0  # seconds; three missed ones are the end, e.g. when the consumer's server died

    def __init__(
        self,
        link: Link,
        stream: str,
        *,
        filters: Sequence[str] = (),
        headers_only: bool = False,
        last_per_subject: bool = False,
    ) -> None:
        self._link = link
        self._stream = stream
        self._config: dict[str, object] = {
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _IDLE_NS,
            "headers_only": headers_only,
        }
        if filters:
            self._config["filter_subjects"] = list(filters)
        self._last_per_subject = last_per_subject
        self.behind = 0  # messages that were waiting when the consumer was made

    async def run(self, start: int) -> AsyncGenerator[list[Message], None]:
        """Lists of messages from sequence *start* on; an empty one says that there is nothing more now.

        Ends with `QueueError` when the consumer is lost: call again from behind the last message.
        """
        config = dict(self._config)
        if self._last_per_subject and start <= 1:
            config["deliver_policy"] = "last_per_subject"
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, start)}
        made = await self._link.api(
            f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config}
        )
        consumer = made["name"]
        if not made["num_pending"]:
            yield []
        messages: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._link.inboxes.add(messages)
        inbox = self._link.client.new_inbox()
        subscription = await self._link.client.subscribe(inbox, cb=messages.put)
        subject = f"{self._link.api_prefix}.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
        body = orjson.dumps(
            {
                "batch": self.BATCH,
                "expires": int(self.EXPIRES * 1e9),
                "idle_heartbeat": int(self.HEARTBEAT * 1e9),
                "max_bytes": _request_bytes(self._link),
            }
        )
        try:
            seen = start - 1
            left = unheard = 0
            while True:
                if left <= 0:
                    await self._link.send_request(subject, body, inbox)
                    left = self.BATCH
                found = []
                for message in await _gather(messages, 3 * self.HEARTBEAT):
                    if not _is_status(message):
                        left -= 1
                        found.append(taken(message))
                        seen = found[-1].seq
                    elif _status(message) == "408" or _is_full(message):  # the request is over
                        left = 0
                    elif _status(message) == _NO_RESPONDERS and unheard < _ATTEMPTS:
                        unheard += 1
                        left = 0
                        await pause()
                        continue
                    elif not _is_completed(message):  # which says what we counted; the next one is under way
                        await self._check(message, seen)
                    unheard = 0
                if found:
                    yield found
                    if found[-1].pending == 0:
                        yield []
        finally:
            self._link.inboxes.discard(messages)
            with suppress(NatsError):
                await subscription.unsubscribe()
            with suppress(QueueError):
                await self._link.send(
                    f"{self._link.api_prefix}.CONSUMER.DELETE.{self._stream}.{consumer}", b""
                )

    async def _check(self, message: Msg, seen: int) -> None:
        """Raises `QueueError` unless *message* is a heartbeat, and rightly there is nothing behind *seen*.

        A server that was cut off may need minutes to catch up, and so does a consumer that it keeps; the next
        one may be kept by another server. With filters nobody can tell whether something is missing.
        """
        if _status(message) != "100":
            why = _description(message) or _status(message)
            raise QueueError(f"NATS: the consumer that follows the stream is gone ({why})")
        if "filter_subjects" in self._config:
            return
        if await last_sequence(self._link, self._stream, known=0) > seen:
            raise QueueError("NATS: the server that keeps our consumer lags behind the stream's leader")


async def _gather(messages: asyncio.Queue[Msg | None], seconds: float) -> list[Msg]:
    """What has come, at least one."""
    try:
        async with asyncio.timeout(seconds):
            came = [await messages.get()]
    except TimeoutError:
        raise QueueError("NATS went silent: not even heartbeats come") from None
    while not messages.empty() and len(came) < Follow.BATCH:
        came.append(messages.get_nowait())
    found = [message for message in came if message is not None]
    if len(found) < len(came):
        raise QueueError("the connection to NATS was lost")
    return found


async def scan(
    link: Link, stream: str, *, start: int = 1, filters: Sequence[str] = (), headers_only: bool = False
) -> AsyncGenerator[Message, None]:
    """Everything that is there at present from sequence *start* on, in order. Raises `QueueError`."""
    config: dict[str, Any] = {
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _IDLE_NS,
        "headers_only": headers_only,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": max(1, start),
    }
    if filters:
        config["filter_subjects"] = list(filters)
    made = await link.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    pull = Pull(link, stream, made["name"])
    try:
        left = made["num_pending"]
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
            await link.api(f"CONSUMER.DELETE.{stream}.{made['name']}")


def taken(message: Msg) -> Message:
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


def _is_status(message: Msg) -> bool:
    return not message.reply.startswith("$JS.ACK") and "Status" in (message.headers or {})


def _status(message: Msg) -> str:
    return str((message.headers or {})["Status"])


def _description(message: Msg) -> str:
    return str((message.headers or {}).get("Description", ""))


def _is_completed(message: Msg) -> bool:
    """Whether a request ended because it gave as many messages as it was asked for."""
    return _status(message) == "409" and _COMPLETED in _description(message)


def _is_full(message: Msg) -> bool:
    """Whether a request ended because it has no room for the next message."""
    return _status(message) == "409" and _TOO_BIG in _description(message)


def _request_bytes(link: Link) -> int:
    """Room for the largest message in any case."""
    return max(_REQUEST_BYTES, 2 * link.max_payload)


def _parse_headers(raw: bytes) -> dict[str, str]:
    """`NATS/1.0\\r\\nName: value\\r\\n…`; a stored message has no status line."""
    headers = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode()] = value.strip().decode()
    return headers
