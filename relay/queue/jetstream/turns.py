"""Turns for work of which only a little may be done at a time: whoever waits for one shares it.

    one ──▶ a turn ─────────▶ run([one])
    two, three ──▶ wait ────────────────▶ the next turn ──▶ run([two, three])

Under load a turn serves the more the longer it was waited for, so the line gets shorter by itself. Owns the
waiting; what is done is its owner's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from relay.errors import QueueError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Turn(Generic[T, R]):
    items: list[T]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answers: Sequence[R] | None = None  # of each item
    error: QueueError | None = None


class Turns(Generic[T, R]):
    """*run* answers several items of one kind at once; it runs at most *at_once* times at the same time."""

    def __init__(self, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, at_once: int) -> None:
        self._run = run
        self._free = asyncio.Semaphore(at_once)
        self._next: dict[str, _Turn[T, R]] = {}  # by kind; those that have not begun

    async def ask(self, kind: str, item: T) -> R:
        """The answer for *item*, from a run that begins after this call. Raises what *run* does."""
        while True:
            turn = self._next.get(kind)
            if turn is None:
                return await self._lead(kind, item)
            place = len(turn.items)
            turn.items.append(item)
            await turn.over.wait()
            if turn.error is not None:
                raise turn.error
            if turn.answers is not None:
                return turn.answers[place]
            # Whoever led was cancelled, or met a bug: somebody else has to.

    async def _lead(self, kind: str, item: T) -> R:
        turn = self._next[kind] = _Turn([item])
        try:
            async with self._free:
                del self._next[kind]  # whoever comes from now on may look for what this run passed already
                turn.answers = await self._run(turn.items)
                return turn.answers[0]
        except QueueError as error:
            turn.error = error
            raise
        finally:
            if self._next.get(kind) is turn:
                del self._next[kind]
            turn.over.set()
