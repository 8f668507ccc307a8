"""Getting messages out of a stream as they are stored, one request open all the time.

Owns how an end is told from a silence. Knows nothing of what the messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Final

import orjson
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from relay.errors import QueueError
from relay.queue.jetstream.by_sequence import Message, last_sequence
from relay.queue.jetstream.fetch import Status, answer_of, make_consumer, request_bytes
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.pausing import ATTEMPTS, pause


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
        self._filters = filters
        self._headers_only = headers_only
        self._last_per_subject = last_per_subject

    async def run(self, start: int) -> AsyncGenerator[list[Message], None]:
        """Lists of messages from sequence *start* on; an empty one says that there is nothing more now.

        Ends with `QueueError` when the consumer is lost: call again from behind the last message.
        """
        consumer, waiting = await make_consumer(
            self._link,
            self._stream,
            start,
            filters=self._filters,
            headers_only=self._headers_only,
            last_per_subject=self._last_per_subject,
        )
        if not waiting:
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
                "max_bytes": request_bytes(self._link),
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
                for answer in map(answer_of, await _gather(messages, 3 * self.HEARTBEAT)):
                    if isinstance(answer, Message):
                        left -= 1
                        found.append(answer)
                        seen = answer.seq
                    elif answer.code == "408" or answer.is_full:  # the request is over
                        left = 0
                    elif answer.is_nobody and unheard < ATTEMPTS:
                        unheard += 1
                        left = 0
                        await pause()
                        continue
                    elif not answer.is_completed:  # which says what we counted; the next one is under way
                        await self._check(answer, seen)
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

    async def _check(self, status: Status, seen: int) -> None:
        """Raises `QueueError` unless *status* is a heartbeat, and rightly there is nothing behind *seen*.

        A server that was cut off may need minutes to catch up, and so does a consumer that it keeps; the next
        one may be kept by another server. With filters nobody can tell whether something is missing.
        """
        if status.code != "100":
            why = status.text or status.code
            raise QueueError(f"NATS: the consumer that follows the stream is gone ({why})")
        if self._filters:
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
