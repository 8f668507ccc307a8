"""`syslog`: events as syslog messages over TLS, TCP or UDP.

Owns what becomes of a chunk: which of its events are too long, and what a failure means. The text of a
message is `syslog_message`'s, the way to the server `syslog_stream`'s and `syslog_datagrams`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from relay.batch import Chunk
from relay.clock import Clock
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    ProbeReport,
    Rejection,
    TooLarge,
    Transient,
    Unfit,
)
from relay.destinations.syslog_config import SyslogConfig
from relay.destinations.syslog_datagrams import Datagrams, MessageTooLong
from relay.destinations.syslog_message import Messages
from relay.destinations.syslog_stream import Stream
from relay.destinations.syslog_trouble import SyslogTrouble
from relay.model import Event, Reason, Response


class Link(Protocol):
    """The way to the server."""

    async def open(self) -> None: ...

    async def deliver(self, frames: Sequence[bytes]) -> None:
        """Return once all of *frames* count as delivered. Raises `SyslogTrouble` or `MessageTooLong`."""
        ...

    async def probe(self) -> str:
        """What could be proved, as a sentence. Raises `SyslogTrouble`."""
        ...

    async def close(self) -> None: ...


class SyslogDestination:
    """Sends to one syslog server."""

    def __init__(self, config: SyslogConfig, *, clock: Clock) -> None:
        self._config = config
        self._messages = Messages(config)
        self._udp = config.protocol == "udp"
        self._link: Link = Datagrams(config, clock=clock) if self._udp else Stream(config, clock=clock)

    def __repr__(self) -> str:
        return f"<SyslogDestination {self._config.name}>"

    @property
    def event_overhead(self) -> int:
        return self._messages.overhead

    def part(self, event: Event) -> bytes | Unfit:
        message = self._messages.message(event)
        if len(message) > self._config.limit:
            detail = f"the message has {len(message)} bytes, max_message is {self._config.limit}"
            return Unfit(Reason.TOO_LARGE, detail)
        return message

    async def open(self) -> None:
        await self._link.open()

    async def send(self, chunk: Chunk) -> Outcome:
        frames, rejected = self._composed(chunk)
        if frames:
            try:
                await self._link.deliver([frame for _, frame in frames])
            except SyslogTrouble as trouble:
                response = Response(trouble.detail)
                return Misconfigured(response) if trouble.misconfigured else Transient(response)
            except MessageTooLong:
                return TooLarge(Response("a message is too long for a datagram on this way"))
        response = Response(
            f"{len(frames)} datagrams sent; UDP reports nothing"
            if self._udp
            else f"{sum(len(frame) for _, frame in frames)} bytes acknowledged by its TCP"
        )
        if rejected:
            return Partial(response, tuple(index for index, _ in frames), tuple(rejected))
        return Delivered(response)

    async def probe(self) -> ProbeReport:
        """Connect and shake hands, no more: a syslog server has nothing to say about events."""
        try:
            return ProbeReport(ok=True, detail=await self._link.probe())
        except SyslogTrouble as trouble:
            return ProbeReport(ok=False, detail=trouble.detail)

    async def close(self) -> None:
        await self._link.close()

    def _composed(self, chunk: Chunk) -> tuple[list[tuple[int, bytes]], list[Rejection]]:
        """The frames to send, each with its event's index, and the events that are too long for one."""
        frames = []
        rejected = []
        for index, event in enumerate(chunk.events()):
            message = self.part(event)
            if isinstance(message, Unfit):
                rejected.append(Rejection(index, message.reason, message.detail))
            else:
                frames.append((index, message if self._udp else self._messages.framed(message)))
        return frames, rejected
