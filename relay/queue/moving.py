"""Moving house: everything a stopped relay's queue holds, carried over into another queue.

Owns the order of a move and the proof that everything arrived. Never knows an engine: each brings a `Store`
that gives out what it holds, and a `Target` that takes it in.

    begin(inventory) ──▶ add(items), part by part ──▶ finish ──▶ read back and compare ──▶ seal

The store moved from is not changed. A target is of no use to a relay before `seal`, so a move that was
killed leaves either nothing that could be taken for a queue, or a whole one. Begun again, it goes on
where the target ends.

Events keep their numbers. So watermarks and the places of dead letters are carried as they are, and
numbers that no batch holds any more stay without one: whoever still owes them books them as `corrupt`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, assert_never

from relay.errors import QueueError
from relay.queue.base import StoredDeadLetter
from relay.queue.belongings import Inventory, Item, MovedBatch, Part, Quarantined, Remembered

_GROUP_ITEMS: Final = 500
_GROUP_BYTES: Final = 4 << 20  # so that a group costs one commit and little memory
_ID_BYTES: Final = 33


class MoveFailed(QueueError):
    """What arrived is not what was sent. Delete the target and begin anew."""


class Step(StrEnum):
    """What is being done to a part."""

    COPY = "copy"
    CHECK = "check"


class Store(Protocol):
    """A queue that no relay has open, for reading."""

    async def inventory(self) -> Inventory:
        """Raises `QueueError`, as everything here does."""
        ...

    def items(self, part: Part) -> AsyncGenerator[Item, None]:
        """All items of a part, in the same order every time; without batches that fail their checksum."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """What a target holds of a move that was cut short."""

    log_end: int  # the number behind the last event of its log; 0: it has none
    dead_letters: int
    quarantined: int

    @property
    def resumed(self) -> bool:
        return bool(self.log_end or self.dead_letters or self.quarantined)

    def holds(self, item: Item, before: int) -> bool:
        """Whether an item is there, with so many of its part *before* it."""
        match item:
            case MovedBatch():
                return item.number < self.log_end
            case Remembered():
                return False  # its store may have forgotten some since: all are moved anew
            case StoredDeadLetter():
                return before < self.dead_letters
            case Quarantined():
                return before < self.quarantined
        assert_never(item)


class Target(Store, Protocol):
    """A queue that comes into being. Read back, it gives what was put in; batches perhaps cut into more."""

    async def begin(self, inventory: Inventory) -> Begun | None:
        """What is there from a move of the same inventory; without what is remembered, which is deleted.

        None when such a move is through. Raises `Conflict` when something else is there.
        """
        ...

    async def add(self, items: Sequence[Item]) -> None:
        """Store items of one part behind those that are there, durably; of each batch all or nothing."""
        ...

    async def finish(self) -> None:
        """Everything is added: store what is left of the inventory."""
        ...

    async def seal(self) -> None:
        """From here on it is a queue like any other."""
        ...


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move came to."""

    inventory: Inventory
    items: Mapping[Part, int]  # what the target holds
    events: int  # of the log
    missing: int  # events between the first and the head whose batch is gone or broken
    resumed: bool  # part of it was there from a move that was cut short
    nothing_to_do: bool = False  # it was all there, sealed


Watch = Callable[[Step, Part, int, int], None]
"""Told after each group how many items of a part are done with, and of how many in about."""


async def move(store: Store, target: Target, watch: Watch) -> Moved:
    """Move everything. Raises `Conflict`, `MoveFailed` or `QueueError`; called again, it goes on."""
    inventory = await store.inventory()
    begun = await target.begin(inventory)
    if begun is None:
        return Moved(inventory, {}, 0, 0, resumed=False, nothing_to_do=True)
    mover = _Mover(store, target, inventory, watch)
    for part in Part:
        await mover.copy(part, begun)
    await target.finish()
    # Only what is read back counts, and all of it: who knows what happened to the target since a kill.
    if await target.inventory() != inventory:
        raise MoveFailed("the books that arrived differ from those that were sent; delete the target")
    items = {part: await mover.compare(part) for part in Part}
    if await store.inventory() != inventory:
        raise MoveFailed("a relay was started on the old queue while it was moved; delete the target")
    await target.seal()
    missing = inventory.head - inventory.first - mover.events
    return Moved(inventory, items, mover.events, missing, resumed=begun.resumed)


class _Mover:
    """Carries parts over, and reads them back."""

    def __init__(self, store: Store, target: Target, inventory: Inventory, watch: Watch) -> None:
        self._store = store
        self._target = target
        self._sizes = inventory.sizes
        self._watch = watch
        self.events = 0  # of the log, read back

    async def copy(self, part: Part, begun: Begun) -> None:
        """Add a part's items, without those that are there."""
        done = 0
        group: list[Item] = []
        nbytes = 0
        async with aclosing(self._store.items(part)) as items:
            async for item in items:
                done += 1
                if begun.holds(item, done - 1):
                    continue
                group.append(item)
                nbytes += _nbytes(item)
                if len(group) >= _GROUP_ITEMS or nbytes >= _GROUP_BYTES:
                    await self._target.add(group)
                    self._watch(Step.COPY, part, done, self._sizes[part])
                    group, nbytes = [], 0
        if group:
            await self._target.add(group)
        self._watch(Step.COPY, part, done, done)

    async def compare(self, part: Part) -> int:
        """Read a part back and compare every item; how many there are. Raises `MoveFailed`."""
        done = 0
        async with aclosing(self._store.items(part)) as sent, aclosing(self._target.items(part)) as arrived:
            async for item in sent:
                done += 1
                if not await _is_next(item, arrived):
                    raise MoveFailed(
                        f"{part.value}: item {done} differs from what was sent; delete the target"
                    )
                if isinstance(item, MovedBatch):
                    self.events += item.count
                if done % _GROUP_ITEMS == 0:
                    self._watch(Step.CHECK, part, done, self._sizes[part])
            if part is not Part.REMEMBERED and await anext(arrived, None) is not None:
                raise MoveFailed(f"{part.value}: more arrived than was sent; delete the target")
        self._watch(Step.CHECK, part, done, done)
        return done


async def _is_next(item: Item, arrived: AsyncIterator[Item]) -> bool:
    """Take from *arrived* what *item* has become, and compare the two."""
    there = await anext(arrived, None)
    match item:
        case MovedBatch() if there != item:
            pieces = []
            while isinstance(there, MovedBatch):
                pieces.append(there)
                if there.end >= item.end:
                    return item.is_made_of(pieces)
                there = await anext(arrived, None)
        case Remembered():
            while there not in (item, None):  # the store forgot it meanwhile, because its time was over
                there = await anext(arrived, None)
    return there == item


def _nbytes(item: Item) -> int:
    """About what it takes to store it."""
    match item:
        case MovedBatch():
            return len(item.payload)
        case Remembered():
            return len(item.ids) * _ID_BYTES
        case StoredDeadLetter():
            return len(item.event.line) if item.event else 0
        case Quarantined():
            return len(item.body)
    assert_never(item)
