"""What changed in the state bucket, handed to whoever owns it.

Owns the one watch of this replica: accounts, presences, gaps and the stored ledger come through here, in
the order of their revisions, first as they are and then as they change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from relay.errors import QueueError
from relay.observe.logs import Log as Logger
from relay.queue.jetstream.bucket import Bucket, Entry
from relay.queue.jetstream.by_sequence import last_sequence
from relay.queue.jetstream.follow import Follow
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.pausing import pause

_AGAIN_SECONDS: Final = 0.5  # between attempts to watch

Seen = Callable[[Entry], None]


class Watch:
    """*owners* by the first token of the keys they want to see."""

    def __init__(
        self,
        link: Link,
        bucket: Bucket,
        owners: Mapping[str, Seen],
        *,
        log: Logger,
        changed: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self.complete = asyncio.Event()  # everything that was there has been handed out
        self._link = link
        self._bucket = bucket
        self._owners = owners
        self._log = log
        self._changed = changed  # called when some were handed out
        self._lost = lost  # called where the bucket ends with an earlier revision than what was seen
        self._revision = 0
        self.trouble: str | None = None  # why the bucket cannot be watched

    async def run(self) -> None:
        """Watch without end."""
        subject = self._bucket.subject
        filters = [each for owner in self._owners for each in (f"{subject}{owner}", f"{subject}{owner}.>")]
        while True:
            follow = Follow(self._link, self._bucket.stream, filters=filters, last_per_subject=True)
            try:
                await self._meet_bucket()
                async for messages in follow.run(self._revision + 1):
                    for message in messages:
                        self._hand_out(self._bucket.entry(message))
                    self.trouble = None
                    if messages:
                        self._changed()
                    else:
                        self.complete.set()
            except QueueError as error:
                if str(error) != self.trouble:
                    self.trouble = str(error)
                    self._log.warning("queue.watch_failed", detail=self.trouble)
                await pause(_AGAIN_SECONDS)

    async def _meet_bucket(self) -> None:
        """A cluster that lost power may come back with fewer changes than it had acknowledged."""
        last = await last_sequence(self._link, self._bucket.stream, known=0)
        if last < self._revision:
            self._log.error("queue.lost_changes", changes=self._revision - last)
            self._lost()
            self._revision = 0

    def _hand_out(self, entry: Entry) -> None:
        self._revision = max(self._revision, entry.revision)
        try:
            self._owners[entry.key.partition(".")[0]](entry)
        except QueueError as error:
            # One record that cannot be read, of a later version perhaps, must not hide the others.
            self._log.error("queue.record_unreadable", key=entry.key, detail=str(error))
