"""What recovery remembers over a restart or a change of the replica, as a note in the queue.

Owns its form, and that it is only a help: what cannot be read or written is as if it had never been, and at
worst something is fetched once more. When a failed attempt may be repeated is not remembered: whoever
restarts the relay has changed something.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pydantic import TypeAdapter, ValidationError

from relay.errors import QueueError
from relay.recovery.answers import Scope
from relay.recovery.hook import Hook
from relay.recovery.state import State, Target, Work

_NAME: Final = "recovery"


@dataclass(frozen=True, slots=True)
class _Note:
    hooks: tuple[tuple[Target, Hook], ...]
    work: tuple[tuple[int, Scope, Work], ...]


_NOTE: Final = TypeAdapter(_Note)


class Notes(Protocol):
    """Where it is kept. `relay.queue.base.Queue` is one."""

    async def note(self, name: str, text: str) -> None: ...
    async def last_note(self, name: str) -> str | None: ...


class Memory:
    """Of one process, which writes while it is the one to recover."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._written: str | None = None

    async def recall(self, targets: tuple[Target, ...]) -> State:
        """The state to begin with; webhooks are looked at anew. Raises `QueueError`."""
        self._written = await self._notes.last_note(_NAME)
        try:
            note = _NOTE.validate_json(self._written or "")
        except ValidationError:  # none, or that of another version
            return State(targets)
        return State(
            targets,
            hooks={each.scope: replace(hook, outdated=True) for each, hook in note.hooks if each in targets},
            work={(gap, scope): work for gap, scope, work in note.work},
        )

    async def keep(self, state: State) -> None:
        """Write down what has changed since."""
        text = _NOTE.dump_json(_note(state)).decode()
        if text != self._written:
            with suppress(QueueError):
                await self._notes.note(_NAME, text)
                self._written = text


def _note(state: State) -> _Note:
    hooks = tuple([(each, state.hooks[each.scope]) for each in state.targets if each.scope in state.hooks])
    work = [(*key, replace(each, retry_at=0.0, busy_since=None)) for key, each in state.work.items()]
    return _Note(hooks, tuple([each for each in work if each[2] != Work()]))
