"""Syslog over TCP and TLS: frames that count as delivered once the other side's TCP has acknowledged them.

An acknowledgement is the kernel's; the process behind it may die with bytes unread. So what was sent in the
last seconds is kept (`Tail`), and when a connection ends that we did not end, it is sent again on the next
one, before anything else. Duplicates are possible, and meant. Owns connecting, the order of frames, and the
one task that brings a lost connection back by itself while there is something to send again: the next event
may be hours away. What fails for a chunk is never sent again here; that is the relay's own retry.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress

from relay.clock import Clock
from relay.destinations.syslog_config import SyslogConfig
from relay.destinations.syslog_connection import KEEPALIVE, Connection
from relay.destinations.syslog_tail import Tail
from relay.destinations.syslog_trouble import SyslogTrouble
from relay.tls import client_context

_FIRST_WAIT = 1.0  # seconds before a lost connection is tried again for the tail's sake; doubles
_LONGEST_WAIT = 30.0
_FAREWELL = 5.0  # seconds for the other side to close as well


class Stream:
    """The one connection of one destination, as long as it lasts, and then the next one."""

    def __init__(self, config: SyslogConfig, *, clock: Clock) -> None:
        self._address = config.target
        self._tls = config.tls if config.protocol == "tls" else None
        self._timeout = config.timeout
        self._clock = clock
        self._tail = Tail(config.resend_last, config.resend_max_bytes)
        self._context: ssl.SSLContext | None = None
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()  # one chunk after another
        self._lost = asyncio.Event()
        self._mending: asyncio.Task[Connection] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read the certificates. Raises `ConfigError`; contacts nobody."""
        if self._tls is not None:
            self._context = await asyncio.to_thread(client_context, self._tls)
        self._keeping = asyncio.create_task(self._keep())  # noqa: TID251 - awaited in close()

    async def deliver(self, frames: Sequence[bytes]) -> None:
        """Send *frames* and return once they are acknowledged. Raises `SyslogTrouble`."""
        data = b"".join(frames)
        connected = False
        try:
            async with asyncio.timeout(self._timeout), self._turn:
                connection = await self._ready()
                connected = True
                await self._send(connection, data)
        except TimeoutError:
            what = "not every byte was acknowledged" if connected else "no working connection"
            raise SyslogTrouble(f"{what} within {self._timeout:g} s") from None

    async def probe(self) -> str:
        """Connect and shake hands, on a connection of its own. Raises `SyslogTrouble`."""
        connection = await self._connect()
        description = connection.description
        try:
            await self._take_leave(connection)
        finally:
            await connection.dropped()
        return f"connected to {self._address} with {description}; syslog has no answer that proves more"

    async def close(self) -> None:
        """Take leave in an orderly way; what is still owed to a lost connection gets one more attempt."""
        if self._keeping is not None:
            self._keeping.cancel()
        try:
            async with asyncio.timeout(self._timeout):
                if self._connection is not None or self._tail:
                    await self._close_well()
        except (SyslogTrouble, TimeoutError):
            pass  # the attempt that was left failed as well
        finally:
            await self._let_go()

    # -- sending

    async def _send(self, connection: Connection, data: bytes) -> None:
        began = self._clock.monotonic()
        try:
            await connection.write(data)
            await connection.acknowledged()
        except BaseException:
            # A frame may be torn, so nothing may follow it on this connection.
            self._lose(connection, began)
            raise
        self._tail.add(began, data)

    # -- connecting, and sending again

    async def _ready(self) -> Connection:
        """A connection on which nothing is owed any more. Raises `SyslogTrouble`.

        Whoever waits here may give up; the work goes on for the next one. Otherwise a slow line and a
        full tail would begin from the start for ever.
        """
        if self._connection is not None:
            with suppress(SyslogTrouble):
                self._connection.check()
                return self._connection
            self._lose(self._connection)
        if self._mending is None or self._mending.done():
            self._mending = asyncio.create_task(self._mend())  # noqa: TID251 - awaited in close()
            self._mending.add_done_callback(_look_at_error)
        return await asyncio.shield(self._mending)

    async def _mend(self) -> Connection:
        """Connect, and send the tail again. Each piece of it may take as long as a chunk."""
        connection = await self._connect()
        try:
            for piece in self._tail.pieces():
                async with asyncio.timeout(self._timeout):
                    await connection.write(piece)
                    await connection.acknowledged()
        except TimeoutError:
            connection.drop()
            raise SyslogTrouble(f"what was to be sent again hung for {self._timeout:g} s") from None
        except BaseException:
            connection.drop()
            raise
        self._tail.was_sent_again(self._clock.monotonic())
        connection.on_end = self._lost.set
        self._connection = connection
        if connection.end is not None:
            self._lost.set()
        return connection

    async def _connect(self) -> Connection:
        return await Connection.connect(
            self._address, self._context, patience=self._timeout, clock=self._clock
        )

    def _lose(self, connection: Connection, stalled_since: float | None = None) -> None:
        """What was sent within the window before the other side was last known to be there is now owed."""
        if connection is not self._connection:
            return
        end = connection.end
        moment = self._clock.monotonic() if end is None else end.at
        if stalled_since is not None:
            moment = min(moment, stalled_since)
        # A host that lost power is noticed only when TCP asks it and hears nothing.
        unnoticed = 0.0 if end is not None and end.orderly else KEEPALIVE + self._timeout
        self._tail.expire(moment, unnoticed)
        connection.drop()
        self._connection = None
        self._lost.set()

    def _is_connected(self) -> bool:
        if self._connection is not None and self._connection.end is not None:
            self._lose(self._connection)
        return self._connection is not None

    async def _keep(self) -> None:
        """Bring a lost connection back while something is owed on it.

        The wait comes after each attempt, good or bad: there are servers, and balancers without one, that
        take a connection only to close it.
        """
        pause = _FIRST_WAIT
        while True:
            await self._lost.wait()
            self._lost.clear()
            async with self._turn:  # never take a connection away from a send that is using it
                if self._is_connected() or not self._tail:
                    continue
                with suppress(SyslogTrouble):
                    await self._ready()
            await self._clock.sleep(pause)
            if self._connection is not None and self._connection.end is None:
                pause = _FIRST_WAIT
            else:
                pause = min(2 * pause, _LONGEST_WAIT)
                self._lost.set()

    # -- leaving

    async def _close_well(self) -> None:
        connection = await self._ready()
        if await self._take_leave(connection) or not self._tail:
            return
        if connection.end is not None:  # it broke while we were leaving
            self._lose(connection)
            await self._take_leave(await self._ready())

    async def _take_leave(self, connection: Connection) -> bool:
        connection.on_end = _nothing
        with suppress(TimeoutError):  # not every server closes because we did
            async with asyncio.timeout(_FAREWELL):
                return await connection.finish()
        return False

    async def _let_go(self) -> None:
        tasks = {task for task in (self._keeping, self._mending) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.dropped()
        self._tail.clear()


def _look_at_error(task: asyncio.Task[Connection]) -> None:
    """Nobody may be waiting any more; asyncio would complain about an error that no one saw."""
    if not task.cancelled():
        task.exception()


def _nothing() -> None:
    pass
