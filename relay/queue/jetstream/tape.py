"""The messages a reader has taken: in order, complete, and acknowledged once they are settled.

    consumer ──pull──▶ new messages ─┐
    stream ──direct get──▶ again ────┴─▶ in order of the stream ─▶ reader        acks ◀─ stored watermark

The consumer on the server says what is new and keeps the acknowledgements; this side knows what it wants.
What a hold made the reader forget, or another replica took and never settled, is read again from the stream
itself, so nothing has to be delivered twice to be read twice. Where there is no consumer everything is: for a
range of the log none is made, and a live one that somebody deleted must not stop delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from relay.errors import QueueError
from relay.observe.logs import Log
from relay.queue.jetstream.by_sequence import Message, get_next, get_range, last_sequence
from relay.queue.jetstream.fetch import Pull, Unanswered
from relay.queue.jetstream.link import NOT_FOUND, ApiError, Link

ACK_WAIT: Final = 60.0  # seconds until the server thinks of delivering again what is not acknowledged
MAX_ACK_PENDING: Final = 4_096
_ACK: Final = b"+ACK"
_STILL_AT_IT: Final = b"+WPI"
_SWEEP: Final = 256


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """The durable consumer of a live reader."""

    name: str
    start: int  # sequence it begins with, where it has to be made
    manage: bool  # make it if it is missing

    def config(self, settled: int) -> Mapping[str, object]:
        """For the server; everything before the sequence *settled* need not be given."""
        return {
            "durable_name": self.name,
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT * 1e9),
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, self.start, settled),
        }


class Tape:
    """Of the stream with this name. Used by one task at a time, `keep`, `sweep` and `settled` aside.

    *consumer* is None for a range of the log.
    """

    def __init__(self, link: Link, stream: str, consumer: ConsumerSpec | None, *, log: Log) -> None:
        self._link = link
        self._stream = stream
        self._spec = consumer
        self._log = log
        self._pull: Pull | None = None  # while there is a consumer
        self._due = True  # look for it, or make it
        self._trouble: str | None = None  # why there is none
        self._delivered = 0  # the consumer will not give this sequence, nor any before it, as a new one
        self._replies: dict[int, str] = {}  # where to acknowledge what was delivered
        self._settled = 0  # everything before this sequence may be acknowledged
        self._busy = asyncio.Lock()

    async def open(self) -> None:
        """Find or make the consumer, unless that is done. Where there is none, say so and go on without."""
        if self._spec is None or not self._due:
            return
        self._due = False
        try:
            info = await self._found_or_made(self._spec)
        except QueueError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._log.warning("queue.no_consumer", consumer=self._spec.name, detail=self._trouble)
            return
        if self._trouble is not None:
            self._trouble = None
            self._log.info("queue.consumer_found", consumer=self._spec.name)
        self._delivered = info["delivered"]["stream_seq"]
        self._pull = Pull(self._link, self._stream, self._spec.name)

    async def _found_or_made(self, spec: ConsumerSpec) -> dict[str, Any]:
        info = await self._info(spec)
        if info is not None and spec.manage and info["num_ack_pending"] > MAX_ACK_PENDING // 2:
            # What a replica that is gone left unacknowledged would leave us no room for a minute.
            await self._link.api(f"CONSUMER.DELETE.{self._stream}.{spec.name}")
            info = None
        if info is not None:
            return info
        if not spec.manage:
            raise QueueError(
                f"the stream {self._stream} has no consumer {spec.name}, and `queue.manage` is false; "
                "events are read without, until somebody makes it"
            )
        self._replies.clear()
        return await self._link.api(
            f"CONSUMER.CREATE.{self._stream}.{spec.name}",
            {"stream_name": self._stream, "config": spec.config(self._settled)},
        )

    async def _info(self, spec: ConsumerSpec) -> dict[str, Any] | None:
        """What the server says of the consumer; None where there is none."""
        try:
            return await self._link.api(f"CONSUMER.INFO.{self._stream}.{spec.name}")
        except ApiError as error:
            if error.err_code in NOT_FOUND:
                return None
            raise

    async def close(self) -> None:
        if (pull := self._pull) is not None:
            self._pull = None
            await pull.close()

    async def _reopen(self) -> None:
        """The consumer gives nothing any more: somebody may have deleted it."""
        await self.close()
        self._due = True
        await self.open()

    async def read(self, start: int, most: int) -> tuple[list[Message], int]:
        """The messages from sequence *start* on, in order, about *most* of them, and where to go on.

        *start* is known to have been stored. Where one goes on there, it is not to be had at present. Raises
        `QueueError`.
        """
        async with self._busy:
            await self.open()
            if (pull := self._pull) is None:
                return await self._straight(start, most)
            if start > self._delivered:
                return await self._new(pull, start, most)
            last = min(self._delivered, start + most - 1)
            return await self._again(start, last), last + 1

    async def _new(self, pull: Pull, start: int, most: int) -> tuple[list[Message], int]:
        found: list[Message] = []
        expected = start
        # The server does not even answer where more than this would be unacknowledged.
        room = MAX_ACK_PENDING - len(self._replies)
        try:
            messages = await pull.take(min(most, room)) if room > 0 else []
        except Unanswered:
            await self._reopen()
            return await self._straight(start, most)
        for message in messages:
            self._delivered = max(self._delivered, message.seq)
            if message.seq < self._settled:
                await self._link.send(message.reply, _ACK)
                continue
            self._replies[message.seq] = message.reply
            if message.seq < expected:
                continue  # delivered again; it was read already
            if message.seq > expected:
                # Purged, or taken by a replica that had the lease before us.
                found += await self._again(expected, message.seq - 1)
            found.append(message)
            expected = message.seq + 1
        if found:
            return found, expected
        # The consumer has nothing although the log goes on: it lags behind the stream's leader, or it waits
        # for acknowledgements.
        return await self._straight(start, most)

    async def _straight(self, start: int, most: int) -> tuple[list[Message], int]:
        """As `read`, whatever a consumer has to say."""
        # How far the leader has come is asked first: only up to there its word that there is nothing tells
        # that messages are gone.
        last = await last_sequence(self._link, self._stream, known=start)
        if found := await self._again(start, min(last, start + most - 1)):
            return found, found[-1].seq + 1
        following = await get_next(self._link, self._stream, start)
        if following is None:
            return [], max(start, last + 1)
        return [following], following.seq + 1

    async def _again(self, first: int, last: int) -> list[Message]:
        """What is left of the sequences *first* to *last*, from the stream itself."""
        found: list[Message] = []
        at = first
        while at <= last:
            some = await get_range(self._link, self._stream, at, last - at + 1)
            if not some:
                return [*found, *await self._leaders(at, last)]
            for message in some:
                if message.seq > at:
                    found += await self._leaders(at, min(message.seq - 1, last))
                if message.seq <= last:
                    found.append(message)
                at = message.seq + 1
        return found

    async def _leaders(self, first: int, last: int) -> list[Message]:
        """What the leader has where another server had nothing: any may answer a direct get, also one that
        lacks the newest, so only the leader's word tells that a message is gone.
        """
        found: list[Message] = []
        await last_sequence(self._link, self._stream, known=last)
        while first <= last:
            message = await get_next(self._link, self._stream, first)
            if message is None or message.seq > last:
                break
            found.append(message)
            first = message.seq + 1
        return found

    def cut(self, last: int) -> None:
        """The stream lost everything behind *last*; its sequences are given to other messages."""
        self._delivered = min(self._delivered, last)
        self._settled = min(self._settled, last + 1)
        self._replies = {seq: reply for seq, reply in self._replies.items() if seq <= last}

    async def settled(self, seq: int) -> None:
        """Everything before *seq* is settled and stored: acknowledge it."""
        self._settled = max(self._settled, seq)
        with suppress(QueueError):  # delivered again later, and acknowledged then
            for each in [each for each in self._replies if each < self._settled]:
                await self._link.send(self._replies.pop(each), _ACK)

    async def keep(self) -> None:
        """Tell the server that what is not acknowledged yet is still being worked on.

        A consumer that is missing is looked for with the next read.
        """
        self._due = self._pull is None
        with suppress(QueueError):
            for reply in list(self._replies.values()):
                await self._link.send(reply, _STILL_AT_IT)

    async def sweep(self) -> None:
        """Acknowledge what was not read from the consumer, while nothing new is to be read.

        A replica that is gone left it there, or it was read from the stream itself.
        """
        if self._busy.locked() or self._spec is None:
            return
        async with self._busy:
            with suppress(QueueError):
                await self.open()
                if (pull := self._pull) is None:
                    return
                info = await self._info(self._spec)
                if info is None:
                    await self._reopen()
                    return
                if info["num_ack_pending"] <= len(self._replies) and not info["num_pending"]:
                    return
                for message in await pull.take(_SWEEP):
                    self._delivered = max(self._delivered, message.seq)
                    if message.seq < self._settled:
                        await self._link.send(message.reply, _ACK)
                    else:
                        self._replies[message.seq] = message.reply
