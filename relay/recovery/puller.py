"""The way that needs no webhook: read the organisation's log, newest first, and append what is missing.

Owns how much is held in memory at a time (a page, and the keys of what was received) and how far a pull has
come: after each page, which may be the last before an error, everything down to a millisecond is dealt with.
Twins stay in one request, whose events are told apart by their number.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from relay import gzipped
from relay.clock import Clock
from relay.konnect.lines import count_formats
from relay.konnect.pulled import line_of, moment_of
from relay.model import Batch
from relay.queue.base import Queue
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectError
from relay.recovery.known import missing
from relay.recovery.received import MOST, Received
from relay.recovery.state import Window

_PAGES: Final = 50  # of one go; then something else may have its turn
_BATCH: Final = 1_000  # events, more where these happened in one millisecond

Entry = Mapping[str, object]
Progress = Callable[[Window, int, int], Awaitable[None]]
"""Everything of this window is dealt with; entries read since the last word, and how many were new."""


class Puller:
    """Of one organisation. What it knows of one pull stays in memory until the next one."""

    def __init__(self, api: KonnectApi, queue: Queue, *, clock: Clock, most: int = MOST) -> None:
        """*most* bounds the keys in memory."""
        self._api = api
        self._queue = queue
        self._clock = clock
        self._most = most
        self._received: Received | None = None

    async def pull(self, source: str, window: Window, done: Window | None, told: Progress) -> bool:
        """Append what *source* did not receive of *window*, but for *done*, its end; True: all of it is done.

        False after some pages: to be called again. Raises `KonnectError` or `QueueError`.
        """
        low = top = window.end if done is None else done.start
        if top > window.start:
            received = await self._known(source, Window(window.start, top))
            # What is done begins with a whole millisecond, which Konnect's filter takes for part of the rest.
            beyond = None if done is None else round(done.start * 1000)
            async with aclosing(self._parts(max(window.start, received.floor), top, beyond)) as parts:
                async for low, entries in parts:
                    accepted = await self._append(source, entries, received)
                    await told(Window(low, window.end), len(entries), accepted)
        over = low <= window.start
        if over:
            self.forget()
        return over

    def forget(self) -> None:
        """Let go of what is in memory."""
        self._received = None

    async def _parts(
        self, start: float, top: float, beyond: int | None
    ) -> AsyncGenerator[tuple[float, list[Entry]], None]:
        """Some pages between *start* and *top*, cut between milliseconds; each with the time all came from.

        Nothing from the millisecond *beyond* on. A part without entries is left out, unless it is the last.
        """
        held: list[Entry] = []
        oldest: int | None = None  # of all that came
        low = top
        number = 0
        async with aclosing(self._api.pages(start, top)) as pages:
            async for page in pages:
                if page.repeated:  # the next go asks by time, which leads out of the circle
                    break
                moments = [at for entry in page.entries if (at := moment_of(entry)) is not None]
                if not _is_newest_first(moments if oldest is None else [oldest, *moments]):
                    raise KonnectError("Konnect's log cannot be pulled: it does not come newest first.")
                held += [entry for entry in page.entries if beyond is None or not _is_from(entry, beyond)]
                if page.cursor is None:
                    yield start, held
                    return
                if page.entries and not moments:  # nothing of it could be let go of
                    raise KonnectError("Konnect's log cannot be pulled: its entries have no time.")
                if moments and moments[-1] != oldest:
                    oldest = moments[-1]
                    ready, held = _cut(held, oldest)
                    if ready:
                        low = (oldest + 1) / 1000
                        yield low, ready
                number += 1
                if number >= _PAGES and low < top:
                    return
        if low == top:
            raise KonnectError("Konnect's log cannot be pulled: its pages come in a circle.")

    async def _known(self, source: str, window: Window) -> Received:
        """What was received of the window's newest part at least."""
        received, self._received = self._received, None  # what is read in half counts double the next time
        if received is None or not received.serves(source, window):
            received = Received(source, window, most=self._most)
        await received.read(self._queue, self._clock.now())
        self._received = received
        return received

    async def _append(self, source: str, entries: Sequence[Entry], received: Received) -> int:
        """*entries* are the newest first; nothing of their oldest millisecond is still to come."""
        # Of a thousand entries that takes a twentieth of a second: the intake goes on meanwhile.
        new = await asyncio.to_thread(_new, source, self._clock.now(), entries, received)
        return sum([(await self._queue.append([batch])).accepted for batch in new])


def _new(source: str, now: float, entries: Sequence[Entry], received: Received) -> list[Batch]:
    """What was not received of *entries*, as it is appended."""
    counts = received.count(moment_of(entry) for entry in entries)
    new = []
    for lines in _batches(entries):
        if left := missing(lines, counts):
            body = b"".join([line + b"\n" for line in left])
            payload = gzipped.compress(body)
            new.append(Batch(source, now, count_formats(left), body, payload, left, pulled=True))
    return new


def _is_from(entry: Entry, millisecond: int) -> bool:
    at = moment_of(entry)
    return at is not None and at >= millisecond


def _cut(entries: list[Entry], oldest: int) -> tuple[list[Entry], list[Entry]]:
    """What is newer than the *oldest* millisecond, and the rest, to which more may belong."""
    for index, entry in enumerate(entries):
        if moment_of(entry) == oldest:
            return entries[:index], entries[index:]
    return [], entries


def _is_newest_first(moments: Sequence[int]) -> bool:
    return all(newer >= older for newer, older in itertools.pairwise(moments))


def _batches(entries: Sequence[Entry]) -> Iterator[list[bytes]]:
    """The oldest first, cut between milliseconds only: what may be alike stays together."""
    lines: list[bytes] = []
    last: int | None = None
    for entry in reversed(entries):
        at = moment_of(entry)
        if len(lines) >= _BATCH and at != last:
            yield lines
            lines = []
        lines.append(line_of(entry))
        last = at
    if lines:
        yield lines
