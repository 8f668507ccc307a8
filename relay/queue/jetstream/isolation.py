"""Leaving a NATS server that is cut off from the rest of its cluster.

Such a server goes on answering pings, so a connection to it lasts, and nothing can be stored there. Whether
the others have a quorum cannot be known from here: a replica tries them when its heartbeats have failed for
longer than most elections take, and then ever more rarely. Owns this decision; which server comes next is
`connect`'s.
"""

from __future__ import annotations

from typing import Final

from relay.clock import Clock
from relay.observe.logs import Log
from relay.queue.jetstream.client import Client
from relay.queue.jetstream.members import Members

_LOOK_SECONDS: Final = 1.0
# With the two until one has failed, seven seconds after the last heartbeat that was stored. Where a leader
# died, another is elected before, as a rule; and Konnect repeats for 15 s what could not be stored meanwhile.
_PATIENCE: Final = 5.0
_MOST_PATIENCE: Final = 60.0  # where no server is of use, relays must not run over them


class Isolation:
    """See the module. `dropped` is to be called whenever the connection is lost."""

    def __init__(self, client: Client, members: Members, *, clock: Clock, log: Log) -> None:
        self._client = client
        self._members = members
        self._clock = clock
        self._log = log
        self._since = clock.monotonic()  # when nothing was missed yet, on this connection
        self._patience = _PATIENCE

    def dropped(self) -> None:
        """Whichever server is next has its full time."""
        self._since = self._clock.monotonic()

    async def run(self) -> None:
        """Look every second, without end."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            now = self._clock.monotonic()
            if not self._members.failing:
                self._since = now
                self._patience = _PATIENCE
                self._client.avoided.clear()
            elif not self._client.is_connected:
                self._since = now
            elif now - self._since >= self._patience and len(self._client.server_pool) > 1:
                self._since = now
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
                server = self._client.connected_url
                self._log.warning(
                    "queue.server_left",
                    server=None if server is None else server.netloc,
                    detail="it answers, but stores nothing: it may be cut off from the others",
                )
                await self._client.leave()
