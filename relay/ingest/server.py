"""The ingest listener: the port Konnect posts to.

Owns the socket and what happens around requests: start, change of sources, renewed certificates, time
limits, and an end that drops nothing it has begun. What happens to a request is `intake`'s affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from relay.clock import Clock
from relay.config.schema import Server, Source
from relay.errors import ConfigError
from relay.ingest.answers import Answers
from relay.ingest.connection import Listener
from relay.ingest.intake import Intake
from relay.ingest.tls import TlsFiles
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.queue.base import Queue

_LOOK_SECONDS: Final = 1.0  # how often overdue connections and renewed certificates are looked for
_BACKLOG: Final = 1024  # connections the kernel keeps for us while we are busy


class IngestServer:
    """Accepts audit logs for the configured sources and puts them into the queue.

    Raises `ConfigError` where the TLS files cannot be used.
    """

    def __init__(
        self,
        server: Server,
        sources: Sequence[Source],
        queue: Queue,
        *,
        clock: Clock,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._server = server
        self._clock = clock
        self._log = log
        self._answers = Answers(clock)
        self._intake = Intake(server, sources, queue, self._answers, clock=clock, metrics=metrics, log=log)
        self._tls = None if server.tls is None else TlsFiles(server.tls)
        self._listening: _Listening | None = None

    async def start(self) -> None:
        """Listen. Raises `OSError` when the address is taken."""
        listener = Listener(
            self._intake.handle,
            self._answers,
            clock=self._clock,
            idle_timeout=self._server.keep_alive,
            head_timeout=self._server.header_timeout,
        )
        socket = await asyncio.get_running_loop().create_server(
            listener,
            self._server.host,
            self._server.port,
            backlog=_BACKLOG,
            ssl=None if self._tls is None else self._tls.context,
            ssl_handshake_timeout=None if self._tls is None else self._server.header_timeout,
        )
        watch = asyncio.create_task(self._keep_watch(listener))  # noqa: TID251 - awaited in stop()
        self._listening = _Listening(listener, socket, watch)

    async def stop(self, grace: float) -> None:
        """Accept no more, answer what is in progress for at most *grace* seconds, close the rest."""
        if self._listening is not None:
            cut_off = await self._listening.end(grace)
            if cut_off:
                self._log.warning("ingest.cut_off", requests=cut_off, grace=grace)
        self._intake.close()

    def reload(self, sources: Sequence[Source]) -> None:
        """Follow changed sources and certificate files at once; open connections stay open."""
        self._intake.set_sources(sources)
        self._refresh_tls()

    @property
    def port(self) -> int:
        """The port listened on; differs from the configured one only where that is 0."""
        return self._server.port if self._listening is None else self._listening.port

    def last_attempt(self, source: str) -> tuple[float | None, int | None]:
        """When the source last sent something, in seconds since the epoch, and what it was answered."""
        return self._intake.last_attempt(source)

    async def _keep_watch(self, listener: Listener) -> None:
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            listener.close_overdue()
            self._refresh_tls()

    def _refresh_tls(self) -> None:
        if self._tls is None:
            return
        try:
            if self._tls.refresh():
                self._log.info("ingest.certificate_renewed")
        except ConfigError as error:
            self._log.warning("ingest.certificate_refused", problem=str(error))


class _Listening:
    """What exists between start and stop."""

    def __init__(self, listener: Listener, socket: asyncio.Server, watch: asyncio.Task[None]) -> None:
        self._listener = listener
        self._socket = socket
        self._watch = watch
        self.port: int = socket.sockets[0].getsockname()[1]

    async def end(self, grace: float) -> int:
        """Close in order; how many requests were cut off."""
        self._watch.cancel()
        self._socket.close()
        cut_off = await self._listener.drain(grace)
        await asyncio.wait([self._watch])
        return cut_off
