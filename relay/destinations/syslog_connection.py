"""One connection to a syslog server, and what can be known of the bytes that went into it.

Owns the socket and TLS on it. Syslog has no answers, so all there is to know is what TCP knows: whether the
other side's kernel has acknowledged every byte (SIOCOUTQ), and whether the connection has ended. That is why
the socket is ours and not asyncio's: a transport keeps bytes in buffers of its own where nobody can count
them. Never sends anything twice and never connects again; that is `relay.destinations.syslog_stream`'s
business.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import ssl
import struct
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from relay.clock import Clock
from relay.destinations.syslog_config import Address
from relay.destinations.syslog_tls import Tls
from relay.destinations.syslog_trouble import SyslogTrouble, system_words, trouble_of
from relay.resolving import addresses

SocketAddress = tuple[Any, ...]  # as the socket module has it, by family

KEEPALIVE = 15.0  # seconds of silence before TCP asks whether the other side is still there

_PROBE_EVERY = 5  # seconds between such questions
_PIECE = 256 * 1024  # bytes encrypted and handed over at a time
_READ = 16 * 1024
_FIRST_LOOK = 0.0005  # seconds; doubles up to the longest
_LONGEST_LOOK = 0.02
_BLIND_WAIT = 1.0  # seconds that have to do where the system cannot tell what was acknowledged
# A server that refuses our certificate under TLS 1.3 says so only after its handshake is over for us. Most
# servers send session tickets at that moment; for one that says nothing, this is how long we listen.
_FIRST_WORD = 0.5


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended that we did not end."""

    at: float  # when it was noticed, monotonic seconds
    orderly: bool  # the other side closed it having read everything, as far as TCP can tell
    trouble: SyslogTrouble


class Connection:
    """An open connection. Use `connect`; one writer at a time."""

    def __init__(self, plain: socket.socket, tls: Tls | None, *, clock: Clock) -> None:
        self.end: End | None = None
        self.ended = asyncio.Event()
        self.on_end: Callable[[], None] = _nothing
        self._socket = plain
        self._tls = tls
        self._clock = clock
        self._spoken = asyncio.Event()  # the other side has sent anything since the handshake
        # Kept, and cancelled by `drop`, which every connection comes to.
        self._watching = asyncio.create_task(self._watch())  # noqa: TID251

    @classmethod
    async def connect(
        cls, address: Address, context: ssl.SSLContext | None, *, patience: float, clock: Clock
    ) -> Self:
        """Connect to the first of the host's addresses that answers, with TLS where there is a *context*.

        Raises `SyslogTrouble`. *patience* is how long, in seconds, unacknowledged bytes may lie before the
        system gives the connection up; it also bounds the attempts here.
        """
        plain = await _connected(address, patience)
        try:
            _watch_over(plain, patience)
            tls = None
            if context is not None:
                tls = Tls(plain, context, address.host)
                async with asyncio.timeout(patience):
                    await tls.shake_hands()
        except TimeoutError:
            plain.close()
            raise SyslogTrouble(f"the TLS handshake took longer than {patience:g} s") from None
        except OSError as error:  # ssl.SSLError is one
            plain.close()
            raise trouble_of(error, "the TLS handshake failed") from error
        except BaseException:
            plain.close()
            raise
        connection = cls(plain, tls, clock=clock)
        try:
            await connection._hear_first_word()
        except BaseException:
            connection.drop()
            raise
        return connection

    @property
    def description(self) -> str:
        return "TCP" if self._tls is None else self._tls.version

    def check(self) -> None:
        """Raise `SyslogTrouble` if the connection has ended, even a moment ago."""
        if self.end is None:
            try:
                if self._socket.recv(1, socket.MSG_PEEK) == b"":
                    self._has_ended(ConnectionResetError(), orderly=True)
            except BlockingIOError:
                pass  # open, and nothing to read
            except OSError as error:
                self._has_ended(error)
        if self.end is not None:
            raise self.end.trouble

    async def write(self, data: bytes) -> None:
        """Hand *data* to the system. Raises `SyslogTrouble`; then, or when cancelled, `drop` it: the
        last frame may be torn."""
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        self.check()
        try:
            for start in range(0, len(data), _PIECE):
                piece = view[start : start + _PIECE]
                await loop.sock_sendall(self._socket, piece if self._tls is None else self._tls.sealed(piece))
        except OSError as error:
            self._has_ended(error)
            self.check()

    async def acknowledged(self) -> None:
        """Wait until the other side's kernel has acknowledged every byte. Raises `SyslogTrouble`."""
        pause = _FIRST_LOOK
        while True:
            left = _unacknowledged(self._socket)
            # In this order: of a connection that has ended, the count means nothing.
            self.check()
            if left == 0:
                return
            await self._clock.sleep(_BLIND_WAIT if left is None else pause)
            if left is None:
                self.check()
                return
            pause = min(2 * pause, _LONGEST_LOOK)

    async def finish(self) -> bool:
        """Say goodbye (close_notify, half-close) and wait until the other side has closed as well.

        True if it did so in an orderly way: its process has then read everything. The caller sets the
        limit of the wait.
        """
        try:
            if self._tls is not None:
                await asyncio.get_running_loop().sock_sendall(self._socket, self._tls.goodbye())
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._has_ended(error)
        await self.ended.wait()
        return self.end is not None and self.end.orderly

    def drop(self) -> None:
        """Let go of the socket, at the end of the watching: until then its number must not be reused."""
        self.on_end = _nothing
        self._watching.add_done_callback(lambda _: self._socket.close())
        self._watching.cancel()

    async def dropped(self) -> None:
        """`drop`, and wait until that is done."""
        self.drop()
        await asyncio.wait({self._watching})

    async def _watch(self) -> None:
        """Read, and mostly throw away, what the other side says: that is how we learn of its end."""
        loop = asyncio.get_running_loop()
        try:
            if self._tls is not None and self._tls.heard(b""):
                self._spoken.set()
            while data := await loop.sock_recv(self._socket, _READ):
                if self._tls is not None:
                    self._tls.heard(data)
                self._spoken.set()
        except ssl.SSLZeroReturnError:  # close_notify
            self._has_ended(ConnectionResetError(), orderly=True)
        except OSError as error:
            self._has_ended(error)
        else:
            self._has_ended(ConnectionResetError(), orderly=True)

    async def _hear_first_word(self) -> None:
        """Find out whether the server lets us in, where TLS leaves that open at the handshake's end."""
        if self._tls is None or self._tls.version != "TLSv1.3":
            return
        try:
            async with asyncio.timeout(_FIRST_WORD):
                await self._spoken.wait()
        except TimeoutError:
            pass
        self.check()

    def _has_ended(self, error: OSError, *, orderly: bool = False) -> None:
        """Note the first end that is noticed."""
        if self.end is not None:
            return
        self.end = End(self._clock.monotonic(), orderly, trouble_of(error, "the TLS connection broke"))
        self.ended.set()
        self._spoken.set()
        self.on_end()


async def resolved(
    address: Address, kind: socket.SocketKind, *, patience: float
) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """The socket addresses behind the name. Raises `SyslogTrouble`, at the latest after *patience*."""
    try:
        async with asyncio.timeout(patience):
            found = await addresses(address.host, address.port, kind=kind)
    except TimeoutError:
        raise SyslogTrouble(f"the name {address.host} was not resolved within {patience:g} s") from None
    except (OSError, UnicodeError) as error:
        raise SyslogTrouble(f"the name {address.host} cannot be resolved") from error
    return [(family, where) for family, _, _, _, where in found]


async def _connected(address: Address, patience: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    trouble = SyslogTrouble(f"the name {address.host} has no address")
    targets = await resolved(address, socket.SOCK_STREAM, patience=patience)
    for family, where in targets:
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.setblocking(False)
            async with asyncio.timeout(patience / len(targets)):
                await loop.sock_connect(plain, where)
        except TimeoutError:
            plain.close()
            trouble = SyslogTrouble(f"cannot connect: no answer within {patience:g} s")
        except OSError as error:
            plain.close()
            trouble = SyslogTrouble(f"cannot connect: {system_words(error)}")
        except BaseException:
            plain.close()
            raise
        else:
            return plain
    raise trouble


def _watch_over(plain: socket.socket, patience: float) -> None:
    """Have the system notice a peer that is gone, and give up on bytes nobody acknowledges."""
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", round(KEEPALIVE)),
        ("TCP_KEEPINTVL", _PROBE_EVERY),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", max(1, round(patience * 1000))),
    ):
        if (option := getattr(socket, name, None)) is not None:  # not every system has all of them
            plain.setsockopt(socket.IPPROTO_TCP, option, value)


def _unacknowledged(plain: socket.socket) -> int | None:
    """Bytes that the other side's kernel has not acknowledged; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    # SIOCOUTQ of tcp(7) is the same number as TIOCOUTQ.
    (count,) = struct.unpack("i", fcntl.ioctl(plain.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(count)


def _nothing() -> None:
    pass
