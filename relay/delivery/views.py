"""Events as a destination gets them: checked, and written once for all destinations that want the same.

Owns the sharing of what was written and its bound; checking is `relay.signing`'s, which shares it too. Both
run in threads: a large batch takes some ten milliseconds, in which requests of Konnect have to be answered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from relay.batch import RewrittenBatch, StoredBatch
from relay.config.destination import DestinationConfig
from relay.delivery.chunking import Stretch
from relay.formats.redaction import Redaction
from relay.formats.rewriting import Rewriting
from relay.signing.checker import Checker

_SHARED_BYTES: Final = 4 << 20  # of received lines; what was written from them is up to a few times as much
INLINE_EVENTS: Final = 20
"""So few take less time than going to another thread."""


def rewriting(config: DestinationConfig) -> Rewriting:
    """How the destination wants its events."""
    if config.redact is None:
        return Rewriting(config.format)
    key = b"" if config.redact.key is None else config.redact.key.reveal().encode()
    return Rewriting(config.format, Redaction(tuple(config.redact.fields.items()), key))


class Views:
    """One for all destinations of a process."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._kept: OrderedDict[tuple[int, Rewriting], RewrittenBatch] = OrderedDict()
        self._bytes = 0

    @property
    def slow(self) -> bool:
        """Whether showing takes so long that it is better done ahead, and of several batches together."""
        return self._checker.is_on

    async def show(self, stretch: Stretch, rewriting: Rewriting, *, redriven: bool) -> Stretch:
        """*stretch* with its events as *rewriting* has them; those that a filter left out are not written.

        *redriven* are dead letters sent again. Raises `KeysMissing` (see `Checker.check`).
        """
        if not stretch.kept:
            return stretch
        # First, since what is written may hold the result.
        await self._checker.check(stretch.batch, redriven=redriven)
        if not rewriting:
            return stretch
        view = self._view(stretch.batch, rewriting)
        if len(stretch.kept) <= INLINE_EVENTS:
            _write(view, stretch.kept)
        else:
            await asyncio.to_thread(_write, view, stretch.kept)
        return Stretch(view, stretch.start, stretch.stop, stretch.kept)

    def _view(self, batch: StoredBatch, rewriting: Rewriting) -> RewrittenBatch:
        key = (batch.sequence, rewriting)
        found = self._kept.get(key)
        if found is not None and found.batch is batch:
            return found
        if found is not None:  # the same batch read a second time, or a dead letter with the same number
            self._forget(key)
        view = self._kept[key] = RewrittenBatch(batch, rewriting)
        self._bytes += batch.nbytes
        while self._bytes > _SHARED_BYTES and len(self._kept) > 1:
            self._forget(next(iter(self._kept)))
        return view

    def _forget(self, key: tuple[int, Rewriting]) -> None:
        self._bytes -= self._kept.pop(key).batch.nbytes


def _write(view: RewrittenBatch, indices: range | tuple[int, ...]) -> None:
    for index in indices:
        view.written(index)
