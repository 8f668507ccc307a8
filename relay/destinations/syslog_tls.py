"""TLS between two buffers in memory, so that its records go through a socket that stays ours.

Owns the handshake and the turning of bytes into records and back. Never says what an error means; those of
OpenSSL and of the system leave here as they are.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

_READ = 16 * 1024


class Tls:
    """TLS between two buffers in memory: the records go through our own socket."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._socket = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    @property
    def version(self) -> str:
        return self._tls.version() or "TLS"

    async def shake_hands(self) -> None:
        """Raises `OSError`."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                with suppress(OSError):  # tell the other side why, if it still listens
                    await loop.sock_sendall(self._socket, self._outgoing.read())
                raise
            else:
                done = True
            await loop.sock_sendall(self._socket, self._outgoing.read())
            if done:
                return
            data = await loop.sock_recv(self._socket, _READ)
            if not data:
                raise ConnectionResetError
            self._incoming.write(data)

    def sealed(self, data: memoryview) -> bytes:
        """*data* as records, after whatever TLS itself has to say."""
        self._tls.write(data)
        return self._outgoing.read()

    def heard(self, data: bytes) -> bool:
        """Take in what came; whether there was anything. Raises `ssl.SSLError` at alerts and at the end."""
        anything = bool(self._incoming.pending or data)
        self._incoming.write(data)
        try:
            while self._tls.read(_READ):
                pass
        except ssl.SSLWantReadError:
            return anything
        raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "closed")

    def goodbye(self) -> bytes:
        """close_notify, after whatever was still to be said. Raises `ssl.SSLError`."""
        with suppress(ssl.SSLWantReadError):  # their own is not here yet
            self._tls.unwrap()
        return self._outgoing.read()
