"""Syslog over UDP: one datagram for each event, and no report of any kind.

Owns the socket and the meaning of its errors. What can be known is only that the system took the datagram,
and, later and not always, that a host said nobody listens (ICMP): the next chunk meets that error.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress

from relay.clock import Clock
from relay.destinations.syslog_config import SyslogConfig
from relay.destinations.syslog_connection import resolved
from relay.destinations.syslog_trouble import SyslogTrouble, system_words

_RESOLVE_EVERY = 60.0  # seconds; nothing else would tell that a name has moved


class MessageTooLong(Exception):
    """The system will not put so much into one datagram here."""


class Datagrams:
    """The one socket of one destination."""

    def __init__(self, config: SyslogConfig, *, clock: Clock) -> None:
        self._address = config.target
        self._timeout = config.timeout
        self._clock = clock
        self._socket: socket.socket | None = None
        self._resolved_at = 0.0

    async def open(self) -> None:
        """Nothing to do: the name is resolved when the first chunk goes out."""

    async def deliver(self, frames: Sequence[bytes]) -> None:
        """Hand each frame to the system as a datagram. Raises `SyslogTrouble` or `MessageTooLong`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                udp = await self._ready()
                self._hear_complaint(udp)
                for frame in frames:
                    await loop.sock_sendall(udp, frame)
                self._hear_complaint(udp)
        except TimeoutError:
            raise SyslogTrouble(f"not everything could be sent within {self._timeout:g} s") from None
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise MessageTooLong from error
            self._let_go()
            raise SyslogTrouble(f"cannot send: {system_words(error)}") from error

    async def probe(self) -> str:
        """Resolve the name and find a route; nothing is sent. Raises `SyslogTrouble`."""
        try:
            await self._ready()
        except OSError as error:
            raise SyslogTrouble(f"cannot send: {system_words(error)}") from error
        return f"there is a way to {self._address}; with UDP nobody can tell whether anyone listens"

    async def close(self) -> None:
        self._let_go()

    async def _ready(self) -> socket.socket:
        now = self._clock.monotonic()
        if self._socket is not None and now - self._resolved_at < _RESOLVE_EVERY:
            return self._socket
        (family, where), *_ = await resolved(self._address, socket.SOCK_DGRAM, patience=self._timeout)
        self._let_go()
        self._socket = udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.setblocking(False)
        await asyncio.get_running_loop().sock_connect(udp, where)  # so that ICMP errors find their way here
        self._resolved_at = now
        return udp

    def _hear_complaint(self, udp: socket.socket) -> None:
        """Raise the error that an ICMP message left on the socket; what anybody sends us is thrown away."""
        with suppress(BlockingIOError):
            while True:
                udp.recv(1)

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
