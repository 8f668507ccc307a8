"""The NATS client, where ours has to behave unlike the library's when a connection breaks.

Owns eight differences from `nats.aio.client.Client`, each at its method. Knows nothing of JetStream.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client as LibraryClient
from nats.aio.client import Srv
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

from relay.queue.jetstream.identity import Identity

_CLOSE_SECONDS: Final = 2.0
_PERMISSIONS: Final = "permissions violation"
_FORBIDDEN: Final = re.compile(r'permissions violation for (\S+) .*?"([^"]*)"')
_SAID: Final = 1_024  # subjects of which one may be refused; the refusal comes a round trip later


class Client(LibraryClient):
    """See the module."""

    def __init__(self, *, encrypted: bool, identity: Identity | None) -> None:
        super().__init__()
        self._encrypted = encrypted
        self.when_dropped: list[Callable[[], None]] = []  # called when the connection is lost
        self.when_forbidden: list[Callable[[str], None]] = []  # called with a subject we may not publish to
        self.avoided: list[str] = []  # servers that were left, the last one at the end; they are tried last
        self._said: deque[str] = deque(maxlen=_SAID)
        # The library tells an nkey's public half only where its own package made it.
        if identity is not None and identity.jwt is None:
            self._public_nkey = identity.public_key()

    def forget_unsent(self) -> None:
        """Drop what waits to be sent.

        The library would send it with the next connection: a request by which this replica changed what
        it held when it was asked, long after somebody else has taken that over. Whoever sent it was told,
        or is about to be, that no answer came. Subscriptions are made anew by themselves.
        """
        self._pending = []
        self._pending_data_size = 0

    async def leave(self) -> None:
        """Look for another server although this one answers. What it was asked is lost, as with any loss."""
        server = self.connected_url
        if server is None or not self.is_connected:
            return
        self.avoided[:] = [*(each for each in self.avoided if each != server.netloc), server.netloc]
        await self._process_op_err(NatsError("nats: left"))

    async def close(self) -> None:
        """As the library's, but it waits for nobody who does not read."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await super().close()
        except TimeoutError:
            self._abort()

    async def _process_err(self, err_msg: str) -> None:
        """Connect again whatever the server closes the connection for.

        The library gives up for good, for example when credentials expire or are replaced on the server.
        """
        if _PERMISSIONS in err_msg:  # which closes nothing
            await self._refused(err_msg)
            return
        error = NatsError(f"nats: {err_msg}")
        await self._error_cb(error)
        await self._process_op_err(error)

    async def _refused(self, err_msg: str) -> None:
        """Tell what we may not do, and on which subject.

        The library hands everything over in lower case, with which nobody finds a subject in a configuration.
        """
        found = _FORBIDDEN.search(err_msg)
        if found is not None:
            subject = self._spelled(found[2])
            err_msg = f"{err_msg[: found.start(2)]}{subject}{err_msg[found.end(2) :]}"
            if found[1] == "publish":
                for tell in self.when_forbidden:
                    tell(subject)
        await self._error_cb(NatsError(f"nats: {err_msg}"))

    def _spelled(self, lowered: str) -> str:
        """A subject of ours as we wrote it."""
        for subject in (*reversed(self._said), *[sub.subject for sub in self._subs.values()]):
            if subject.lower() == lowered:
                return subject
        return lowered

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As the library's; remembers what may be refused in a moment."""
        self._said.append(subject)
        await super().publish(subject, payload, reply, headers)

    async def _process_op_err(self, e: Exception) -> None:
        """Let go of a broken connection at once.

        The library waits until everything is written, which takes the kernel a quarter of an hour where the
        network swallows packets; only then would it look for another server.
        """
        if not self.is_closed and not self.is_reconnecting:
            self._abort()
        await super()._process_op_err(e)

    async def _connect_to_server(self, s: Srv) -> None:
        """Let go of the attempt before, which the library leaves open when the server turned it down."""
        self._abort()
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        """Say who we are only on an encrypted connection, where one is demanded.

        The library is content with a `tls://` server that offers no TLS.
        """
        if self._encrypted and not self._server_info.get("tls_required"):
            raise NatsError("nats: it does not offer TLS")
        return super()._connect_command()

    def _abort(self) -> None:
        transport = self._transport
        if isinstance(transport, TcpTransport) and (writer := transport._io_writer) is not None:  # noqa: SLF001 - it has no way to abort
            writer.transport.abort()
