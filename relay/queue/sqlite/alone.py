"""What a cluster would need several processes for, where one has the file for itself.

The file's lock is the lease of every destination, and nobody else is there to be told anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from relay.model import Replica


class OwnLease:
    """See `relay.queue.base.Lease`. Granted at once, never lost, and wanted by nobody else."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.wanted = asyncio.Event()

    async def release(self) -> None:
        """Nothing to do: what is in memory stays with the queue, which stores it as ever."""


class OnlyReplica:
    """This process's description, for itself to read."""

    def __init__(self) -> None:
        self._own: Replica | None = None

    def announce(self, replica: Replica) -> None:
        self._own = replica

    def all(self) -> Sequence[Replica]:
        return () if self._own is None else (self._own,)
