"""One connection to NATS as the queue uses it: questions to JetStream, publishing with an acknowledgement.

Owns the inbox that answers come back to and the meaning of every kind of failure. Never sends a second time
what may already be stored, unless the server recognises it by its `Nats-Msg-Id`; questions to JetStream may
all be asked twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from relay.errors import QueueError, QueueFull
from relay.queue.jetstream.pausing import pause

API_PREFIX: Final = "$JS.API"
_ANSWER_SECONDS: Final = 5.0  # an election of a leader takes one to four
_PUBLISH_SECONDS: Final = 8.0  # within it a sender is told that its events were stored, or that they were not
_ATTEMPT_SECONDS: Final = 2.0  # until a message the server would recognise is sent again
MESSAGE_ID: Final = "Nats-Msg-Id"
_STATUS: Final = "Status"  # header of answers without a body, see ADR-13 and ADR-31 of NATS
_NO_RESPONDERS: Final = "503"

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
NOT_FOUND: Final = frozenset((10014, 10037, 10059))  # consumer, message, stream
WRONG_LAST_SEQUENCE: Final = frozenset((10071, 10164))
DUPLICATE_IN_BATCH: Final = 10201
_DUPLICATE_IN_PROCESS: Final = 10158  # the same message is on its way to the quorum by another hand
_INCOMPLETE_BATCH: Final = 10176  # its beginning went to a leader that is none any more
_BATCHES_BUSY: Final = 10210  # too many are under way, as after an election; nothing of this one was taken
_STREAM_FULL: Final = frozenset((10002, 10023, 10047, 10077))


class ApiError(QueueError):
    """JetStream refused a request."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"NATS: {description} ({err_code})")
        self.code = code  # after HTTP
        self.err_code = err_code
        self.description = description


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be stored in a stream."""

    subject: str
    payload: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ack:
    """The server's word that a message is stored by a quorum."""

    seq: int  # of the stream; of the original where it is a duplicate
    duplicate: bool  # the server has seen its `Nats-Msg-Id` within the duplicate window


class Link:
    """See the module. Made by `open`."""

    def __init__(self, client: Client, *, api_prefix: str = API_PREFIX) -> None:
        self.client = client
        self.api_prefix = api_prefix
        self._inbox = client.new_inbox()
        self._subjects: dict[str, str] = {}  # of what is asked, by the inbox of the answer
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._collecting: dict[str, tuple[list[Msg], asyncio.Future[str]]] = {}
        self._number = 0
        # Inboxes of pull requests; None tells them that the connection was lost, and the request with it.
        self.inboxes: set[asyncio.Queue[Msg | None]] = set()

    @classmethod
    async def open(cls, client: Client, *, api_prefix: str = API_PREFIX) -> Link:
        """Use a *client* that is connected. Raises `QueueError`."""
        link = cls(client, api_prefix=api_prefix)
        await client.subscribe(f"{link._inbox}.*", cb=link._answered)
        return link

    async def close(self) -> None:
        """Send what is still buffered and let go of the connection."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                if self.client.is_connected:
                    await self.client.flush()
        except (NatsError, OSError, TimeoutError):
            pass  # there is nobody to send it to
        await self.client.close()

    def dropped(self) -> None:
        """The connection was lost: what was asked on it is not going to be answered."""
        asked: list[asyncio.Future[Any]] = list(self._waiting.values())
        asked += [ended for _, ended in self._collecting.values()]
        for waiting in asked:
            if not waiting.done():
                waiting.set_exception(Silent("the connection to NATS was lost"))
        for inbox in self.inboxes:
            inbox.put_nowait(None)

    def forbidden(self, subject: str) -> None:
        """We may not publish to *subject*: what was asked there is not going to be answered either."""
        for token in [token for token, asked in self._subjects.items() if asked == subject]:
            waiting: asyncio.Future[Any] | None = self._waiting.get(token)
            if waiting is None and (entry := self._collecting.get(token)) is not None:
                waiting = entry[1]
            if waiting is not None and not waiting.done():
                waiting.set_exception(Forbidden(f'NATS: the relay may not publish to "{subject}"'))

    @property
    def max_payload(self) -> int:
        """Most bytes of a message, headers included."""
        return self.client.max_payload

    # -- questions ---------------------------------------------------------------------------

    async def api(self, subject: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Ask JetStream, e.g. `STREAM.INFO.name`. Raises `ApiError` (refused) or `QueueError` (silence).

        A question is lost with the server that had it, and where a stream was just made or changes its leader
        nobody may feel responsible; so it is asked again while there is time.
        """
        answer = await self._ask_again(f"{self.api_prefix}.{subject}", orjson.dumps(body) if body else b"")
        found: dict[str, Any] = orjson.loads(answer.data)
        _raise_refusal(found)
        return found

    async def _ask_again(self, subject: str, payload: bytes) -> Msg:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ANSWER_SECONDS
        while (left := deadline - loop.time()) > 0:
            with suppress(Silent):
                return await self.ask(subject, payload, seconds=min(_ATTEMPT_SECONDS, left))
        raise Silent(f"NATS did not answer within {_ANSWER_SECONDS:g} s")

    async def ask(
        self,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None = None,
        *,
        seconds: float = _ANSWER_SECONDS,
    ) -> Msg:
        """One question, one answer. Raises `Silent`, `Leaderless` or `QueueError`."""
        token = self._token()
        waiting: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = waiting
        self._subjects[token] = subject
        try:
            async with asyncio.timeout(seconds):
                await self._send(subject, payload, token, headers)
                answer = await waiting
        except TimeoutError:
            raise Silent(f"NATS did not answer within {seconds:g} s") from None
        finally:
            del self._waiting[token], self._subjects[token]
        if not answer.data and (answer.headers or {}).get(_STATUS) == _NO_RESPONDERS:
            raise Leaderless("nobody answers for the NATS stream at present")
        return answer

    async def collect(self, subject: str, payload: bytes) -> list[Msg]:
        """One question, several answers up to one with a status, which is the last. Raises `QueueError`."""
        token = self._token()
        found: list[Msg] = []
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._collecting[token] = (found, ended)
        self._subjects[token] = subject
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._send(subject, payload, token)
                status = await ended
        except TimeoutError:
            raise QueueError(f"NATS did not answer within {_ANSWER_SECONDS:g} s") from None
        finally:
            del self._collecting[token], self._subjects[token]
        if status == _NO_RESPONDERS:
            raise Leaderless("nobody answers for the NATS stream at present")
        return found

    # -- publishing --------------------------------------------------------------------------

    async def publish(self, message: Outgoing) -> Ack:
        """Store one message.

        Waits through the election of a leader, and sends again what the server would recognise. Raises
        `QueueFull`, `ApiError`, or `QueueError` when no acknowledgement came: then it may be stored all the
        same.
        """
        recognised = MESSAGE_ID in message.headers
        attempt = _ATTEMPT_SECONDS if recognised else _ANSWER_SECONDS
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PUBLISH_SECONDS
        while (left := deadline - loop.time()) > 0:
            try:
                answer = await self.ask(
                    message.subject, message.payload, message.headers, seconds=min(attempt, left)
                )
                return _ack(answer.data)
            except Leaderless:
                pass
            except (Silent, Disconnected):
                if not recognised:
                    raise
            await pause()
        raise QueueError(f"NATS did not store a message within {_PUBLISH_SECONDS:g} s")

    async def publish_together(self, messages: Sequence[Outgoing]) -> Ack:
        """Store all of the messages in a row or none of them (ADR-50); the acknowledgement of the last.

        Raises as `publish` does. At most 1,000 messages.
        """
        name = f"{self._inbox.rpartition('.')[2]}-{self._number}"
        attempts = count()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                while True:
                    with suppress(Leaderless):
                        # Numbered, not lengthened: a server takes a name of 64 characters at most.
                        return await self._publish_batch(messages, f"{name}-{next(attempts)}")
                    await pause()
        except TimeoutError:
            raise QueueError(f"NATS did not store a batch within {_ANSWER_SECONDS:g} s") from None

    async def _publish_batch(self, messages: Sequence[Outgoing], batch: str) -> Ack:
        *some, last = messages
        for number, message in enumerate(some, 1):
            headers = {**message.headers, **_batch_headers(batch, number)}
            if number == 1:  # its empty answer tells that the stream takes batches
                answer = await self.ask(message.subject, message.payload, headers)
                if answer.data:
                    _raise_refusal(orjson.loads(answer.data))
            else:
                await self._send(message.subject, message.payload, None, headers)
        headers = {**last.headers, **_batch_headers(batch, len(messages)), "Nats-Batch-Commit": "1"}
        return _ack((await self.ask(last.subject, last.payload, headers)).data)

    async def send(self, subject: str, payload: bytes) -> None:
        """Send without an answer, an acknowledgement for example. Raises `QueueError`."""
        await self._send(subject, payload, None)

    async def send_request(self, subject: str, payload: bytes, inbox: str) -> None:
        """Send, with answers to an inbox of the caller's own. Raises `QueueError`."""
        await self._send(subject, payload, inbox)

    # -- parts -------------------------------------------------------------------------------

    def _token(self) -> str:
        self._number += 1
        return f"{self._inbox}.{self._number}"

    async def _send(
        self, subject: str, payload: bytes, reply: str | None, headers: dict[str, str] | None = None
    ) -> None:
        # What the client would buffer now would be stored long after the sender was told that it failed.
        if not self.client.is_connected:
            raise Disconnected("the connection to NATS is down")
        try:
            await self.client.publish(subject, payload, reply or "", headers)
        except (NatsError, OSError) as error:
            raise QueueError(f"NATS: {error}") from error

    async def _answered(self, message: Msg) -> None:
        if (waiting := self._waiting.get(message.subject)) is not None:
            if not waiting.done():
                waiting.set_result(message)
        elif (entry := self._collecting.get(message.subject)) is not None:
            status = (message.headers or {}).get(_STATUS)
            if status is None:
                entry[0].append(message)
            elif not entry[1].done():
                entry[1].set_result(status)


class Silent(QueueError):
    """No answer came; what was sent may have been stored."""


class Disconnected(QueueError):
    """Nothing was sent."""


class Forbidden(QueueError):
    """The account or user lacks a right; certainly nothing was stored."""


class Leaderless(QueueError):
    """The stream cannot store anything at this moment; certainly nothing was stored."""


def _batch_headers(batch: str, number: int) -> dict[str, str]:
    return {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}


def _ack(data: bytes) -> Ack:
    found = orjson.loads(data)
    _raise_refusal(found)
    return Ack(found["seq"], bool(found.get("duplicate")))


def _raise_refusal(found: Mapping[str, Any]) -> None:
    error = found.get("error")
    if not error:
        return
    code, number = error.get("code", 500), error.get("err_code", 0)
    description = error.get("description", "refused without a reason")
    if number in _STREAM_FULL:
        raise QueueFull(f"NATS: {description}")
    if code == 503 or number in (_DUPLICATE_IN_PROCESS, _INCOMPLETE_BATCH, _BATCHES_BUSY):
        raise Leaderless(f"NATS: {description}")
    raise ApiError(code, number, description)
