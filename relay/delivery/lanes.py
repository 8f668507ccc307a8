"""A destination's readers as lanes into one road, and whose turn it is.

Owns what was read and not yet sent, the pace of rate-limited readers, and the order of turns: the live
lane first, back-fill, replays and redrives with what it leaves free. Never sends and never settles.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

from relay.batch import StoredBatch
from relay.clock import Clock
from relay.delivery.chunking import Cutter, Stretch, Work
from relay.errors import QueueError
from relay.model import ReaderKind, RetryState
from relay.queue.base import Reader

_REST = 1.0  # seconds until a lane is tried again whose reader failed

# A live lane under steady load always has something new when a request ends. Without a share for the
# others a back-fill would then never begin; with this one it delays a live event by one request at most.
_LIVE_TURNS = 4  # live chunks in a row while another lane waits


_KEYS_AGAIN = 1.0  # seconds until batches are shown again that must not go out without keys

Show = Callable[[Sequence[tuple[StoredBatch, int]], ReaderKind], Awaitable[Sequence[Stretch]]]
"""Takes batches, each with the first event that matters, and what reads them; gives what the destination
wants of each, as it wants it. Of fewer than there are where the next one must not go out yet without keys."""


class Lane:
    """One reader with what was read ahead. Starts at the reader's watermark."""

    def __init__(self, reader: Reader, cutter: Cutter, *, show: Show, clock: Clock) -> None:
        self.reader = reader
        self.flights = 0  # requests in the air
        self.stale = False  # forget what was read ahead as soon as nothing is in the air
        self._cutter = cutter
        self._show = show
        self._clock = clock
        self._not_before = 0.0  # monotonic; where the reader has a rate
        self._rests_until = 0.0  # monotonic; while its reader fails
        self._not_shown: deque[tuple[StoredBatch, int]] = deque()  # read, and not at hand yet
        self._show_again_at = 0.0  # monotonic
        reader.rewind()

    def __repr__(self) -> str:
        return f"<Lane {self.reader.kind} {self._cutter.events} at hand, {self.flights} in the air>"

    @property
    def is_live(self) -> bool:
        return self.reader.kind is ReaderKind.LIVE

    @property
    def attempts(self) -> int:
        """Attempts already spent on the head."""
        return self.reader.retry.attempts

    def has_work(self) -> bool:
        return bool(self._cutter) or self._has_more()

    def _has_more(self) -> bool:
        return bool(self._not_shown) or self.reader.unread()

    def rest(self) -> None:
        """Its reader failed: leave the turns to others for a moment."""
        self._rests_until = self._clock.monotonic() + _REST

    @property
    def is_resting(self) -> bool:
        return self._clock.monotonic() < self._rests_until

    def wait(self, limit: int, linger: float) -> float:
        """Seconds until the next chunk may go.

        Its pace and its reader then allow it, and a live one has lingered enough.
        """
        pace = max(self._not_before, self._rests_until) - self._clock.monotonic()
        if not self._cutter and self._not_shown:
            return max(pace, self._show_again_at - self._clock.monotonic())
        if not linger or not self.is_live or not self._cutter or self.lacks(limit) or self.is_full(limit):
            return pace
        # At most `linger`, since the wall clock may have been set back since the event came.
        waited = max(0.0, self._clock.now() - self._cutter.oldest_received_at)
        return max(pace, linger - waited)

    def lacks(self, limit: int) -> bool:
        """Whether a chunk of *limit* events is not complete and the log has more."""
        if self.is_full(limit) or not self._has_more():
            return False
        return not self._not_shown or self._clock.monotonic() >= self._show_again_at

    def is_full(self, limit: int) -> bool:
        """Whether a whole chunk is at hand."""
        return self._cutter.is_full(limit)

    async def fill(self, limit: int) -> None:
        """Read until about *limit* events more are at hand."""
        if not self._not_shown:
            self._not_shown.extend(await self.reader.read(limit))
        for stretch in await self._show(tuple(self._not_shown), self.reader.kind):
            self._not_shown.popleft()
            self._cutter.add(stretch)
        if self._not_shown:  # the log is delivered in order
            self._show_again_at = self._clock.monotonic() + _KEYS_AGAIN

    def passed_over(self) -> Work | None:
        """What the filter left out before the first event to send."""
        return self._cutter.passed_over()

    def cut(self, limit: int) -> Work:
        """The next work, of at most *limit* events; perhaps of filtered ones only."""
        rate = self.reader.rate
        if rate is None:
            return self._cutter.cut(limit)
        # Never more than a second's worth at once, so that a slow replay does not come in bursts.
        work = self._cutter.cut(min(limit, max(1, int(rate))))
        self._not_before = max(self._not_before, self._clock.monotonic()) + work.events / rate
        return work

    def give_back(self, work: Work) -> None:
        """Take back what has to be sent again, in its old place."""
        self._cutter.give_back(work)

    async def note_retry(self, state: RetryState) -> None:
        """Store the schedule of the head.

        A full disk must not stop delivery: the reader follows the schedule all the same, and only
        a crash before the disk takes it would start it over.
        """
        with suppress(QueueError):
            await self.reader.retry_later(state)

    def release(self) -> None:
        """Let go of everything read ahead; it is read again from the log when its time comes."""
        self._cutter.clear()
        self._not_shown.clear()
        self.reader.rewind()
        self.stale = False


class Lanes:
    """The lanes of one destination."""

    def __init__(self, list_readers: Callable[[], Sequence[Reader]], build: Callable[[Reader], Lane]) -> None:
        self._list_readers = list_readers
        self._build = build
        self._lanes: dict[int, Lane] = {}  # in the order of turns, the live one aside
        self._live_turns = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def refresh(self) -> list[Lane]:
        """Follow the queue's readers, which come and go with replays and redrives; the new lanes."""
        readers = self._list_readers()
        new = [self._build(reader) for reader in readers if reader.id not in self._lanes]
        if new or len(readers) != len(self._lanes):
            known = {reader.id for reader in readers}
            gone = [key for key, lane in self._lanes.items() if key not in known and not lane.flights]
            for key in gone:
                del self._lanes[key]
            self._lanes |= {lane.reader.id: lane for lane in new}
        return new

    def finished(self) -> list[Lane]:
        """Lanes of bounded readers that have nothing left."""
        return [lane for lane in self if lane.reader.finished and not lane.flights and not lane.is_resting]

    async def finish(self, lane: Lane) -> None:
        """Remove its reader. Raises `QueueError`."""
        await lane.reader.finish()
        self._lanes.pop(lane.reader.id, None)

    def next(self, limit: int, linger: float) -> tuple[Lane | None, float]:
        """The lane whose turn it is, or the seconds until one may go (infinite: none has work)."""
        soonest = math.inf
        for lane in self._turns():
            if not lane.has_work() and not lane.is_resting:
                continue
            wait = lane.wait(limit, linger)
            if wait <= 0:
                return lane, 0.0
            soonest = min(soonest, wait)
        return None, soonest

    def served(self, lane: Lane) -> None:
        """*lane* had its turn."""
        if lane.is_live:
            self._live_turns += 1
            return
        self._live_turns = 0
        # To the end of the line, so that two bounded lanes take turns.
        self._lanes[lane.reader.id] = self._lanes.pop(lane.reader.id, lane)

    def _turns(self) -> list[Lane]:
        live_first = self._live_turns < _LIVE_TURNS
        return sorted(self, key=lambda lane: lane.is_live is not live_first)

    @property
    def attempts(self) -> int:
        """The most attempts any lane's head has cost."""
        return max([lane.attempts for lane in self], default=0)
