"""Which replica looks after what belongs to all of them: the stored ledger, and purging."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from relay.observe.logs import Log
from relay.queue.jetstream.bucket import Bucket, Stale
from relay.queue.jetstream.members import Members


class JanitorLease:
    """Whose turn it is to look after what belongs to all replicas. Its key holds a replica's id.

    *unable* tells why this replica cannot, or None.
    """

    KEY: Final = "janitor"

    def __init__(
        self, bucket: Bucket, members: Members, *, unable: Callable[[], str | None], log: Log
    ) -> None:
        self._bucket = bucket
        self._members = members
        self._unable = unable
        self._log = log

    async def ours(self) -> bool:
        """Whether it is this replica's, which takes it from a dead one. Raises `QueueError`.

        Not fenced: what the janitor does has to be harmless when two do it at once for a moment.
        """
        if not self._members.trusted():
            return False
        entry = await self._bucket.get(self.KEY)
        holder = "" if entry is None else entry.value.decode()
        if self._unable() is not None:
            if entry is not None and holder == self._members.id:
                with suppress(Stale):  # somebody took it already
                    await self._bucket.put(self.KEY, b"", revision=entry.revision)
                    self._log.info("janitor.released")
            return False
        if holder != self._members.id:
            if holder and entry is not None and self._members.is_alive(holder, revision=entry.revision):
                return False
            try:
                await self._bucket.put(
                    self.KEY, self._members.id.encode(), revision=0 if entry is None else entry.revision
                )
            except Stale:
                return False
            self._log.info("janitor.taken", **({"instead_of": holder} if holder else {}))
        return self._members.trusted()
