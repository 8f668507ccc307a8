"""Which replica looks after what belongs to all of them: the stored ledger, and purging."""

from __future__ import annotations

from typing import Final

from relay.observe.logs import Log
from relay.queue.jetstream.bucket import Bucket, Stale
from relay.queue.jetstream.members import Members


class JanitorLease:
    """Whose turn it is to look after what belongs to all replicas. Its key holds a replica's id."""

    KEY: Final = "janitor"

    def __init__(self, bucket: Bucket, members: Members, log: Log) -> None:
        self._bucket = bucket
        self._members = members
        self._log = log

    async def ours(self) -> bool:
        """Whether it is this replica's, which takes it from a dead one. Raises `QueueError`.

        Not fenced: what the janitor does has to be harmless when two do it at once for a moment.
        """
        if not self._members.trusted():
            return False
        entry = await self._bucket.get(self.KEY)
        holder = "" if entry is None else entry.value.decode()
        if holder != self._members.id:
            if entry is not None and self._members.is_alive(holder, revision=entry.revision):
                return False
            try:
                await self._bucket.put(
                    self.KEY, self._members.id.encode(), revision=0 if entry is None else entry.revision
                )
            except Stale:
                return False
            self._log.info("janitor.taken", **({} if entry is None else {"instead_of": holder}))
        return self._members.trusted()
