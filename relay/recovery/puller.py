"""The way that needs no webhook: read the organisation's log and append what is missing.

Owns how much is held in memory at a time: a slice of the window, which is halved while it is too much. Within
a slice, twins stay in one request, whose events are told apart by their number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from relay import gzipped
from relay.clock import Clock
from relay.konnect.lines import count_formats
from relay.konnect.pulled import line_of, moment_of
from relay.model import Batch
from relay.queue.base import Queue
from relay.recovery.api import KonnectApi
from relay.recovery.known import Key, keys_of, missing
from relay.recovery.plan import Window

_SLICE: Final = 6 * 3600.0  # seconds; the log since then is read once for each
_MOST: Final = 50_000  # entries of a slice
_SHORTEST: Final = 1.0  # seconds; below, a slice is taken whatever it holds
_EARLIER: Final = 900.0  # seconds by which Konnect's clock may be ahead of ours
_BATCH: Final = 1_000  # events, more where these happened in one millisecond

Entry = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought."""

    entries: int
    accepted: int
    complete: bool  # False: some entries could not be reached


class Puller:
    """Of one organisation."""

    def __init__(self, api: KonnectApi, queue: Queue, *, clock: Clock) -> None:
        self._api = api
        self._queue = queue
        self._clock = clock

    async def pull(self, source: str, window: Window) -> Pulled:
        """Append what *source* did not receive of *window*. Raises `KonnectError` or `QueueError`.

        What was appended before an error is recognised the next time.
        """
        entries = accepted = 0
        complete = True
        start, length = window.start, _SLICE
        while True:
            part = Window(start, min(start + length, window.end))
            found, whole = await self._entries(part)
            if len(found) >= _MOST and length > _SHORTEST:
                length /= 2
                continue
            entries += len(found)
            complete = complete and whole
            accepted += await self._append(source, found, part)
            if part.end == window.end:
                break
            # Both ends of a window are part of it, to the millisecond. What comes twice by this has one id.
            start = part.end
        return Pulled(entries, accepted, complete)

    async def _entries(self, part: Window) -> tuple[list[Entry], bool]:
        """Oldest first, `_MOST` at least where there are more; and whether these are all."""
        found: list[Entry] = []
        whole = True
        async with aclosing(self._api.pages(part.start, part.end)) as pages:
            async for page in pages:
                found += page.entries
                whole = whole and not page.repeated
                if len(found) >= _MOST and part.end - part.start > _SHORTEST:
                    break
        found.reverse()
        return found, whole

    async def _append(self, source: str, entries: Sequence[Entry], part: Window) -> int:
        if not entries:
            return 0
        received: Counter[Key] = Counter()
        async with aclosing(self._queue.received(part.start - _EARLIER, self._clock.now() + 1.0)) as batches:
            async for batch in batches:
                if batch.source == source:
                    # Reading lines takes long: the intake goes on meanwhile.
                    received.update(await asyncio.to_thread(keys_of, batch.lines, part))
        accepted = 0
        for lines in _batches(entries):
            if left := missing(lines, received):
                body = b"".join([line + b"\n" for line in left])
                payload = gzipped.compress(body)
                batch_ = Batch(
                    source, self._clock.now(), count_formats(left), body, payload, left, pulled=True
                )
                accepted += (await self._queue.append([batch_])).accepted
        return accepted


def _batches(entries: Sequence[Entry]) -> Iterator[list[bytes]]:
    """Cut between milliseconds only: what may be alike stays together."""
    lines: list[bytes] = []
    last: int | None = None
    for entry in entries:
        at = moment_of(entry)
        if len(lines) >= _BATCH and at != last:
            yield lines
            lines = []
        lines.append(line_of(entry))
        last = at
    if lines:
        yield lines
