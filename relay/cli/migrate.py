"""`queue migrate`: move a stopped relay's queue into another one, and watch it go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from relay.cli import output, places
from relay.cli.options import JsonOption

if TYPE_CHECKING:
    from relay.queue.belongings import Part
    from relay.queue.moving import Moved, Step

_PLACE = "sqlite:PATH|jetstream:CONFIG.yaml"


def migrate(
    origin: Annotated[str, typer.Option("--from", metavar=_PLACE, help="The queue to move; not changed.")],
    to: Annotated[str, typer.Option("--to", metavar=_PLACE, help="Where to; must be empty.")],
    as_json: JsonOption = False,
) -> None:
    """Move the queue of a stopped relay with all its books into a new one. Called again, it goes on."""
    # The bars go to standard error, so that standard output is one JSON document or a few sentences.
    moved = asyncio.run(_move(origin, to, Console(stderr=True, quiet=as_json)))
    if as_json:
        output.print_json({"from": origin, "to": to, **_fields(moved)})
    else:
        _print(origin, to, moved)


async def _move(origin: str, to: str, screen: Console) -> Moved:
    from relay.queue.moving import move

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with AsyncExitStack() as stack:
        store = await places.open_store(origin, stack)
        target = await places.open_target(to, stack)
        with Progress(*columns, console=screen) as progress:
            return await move(store, target, _Bars(progress))


class _Bars:
    """One bar for each part that is not empty, first for copying it, then for checking it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[Step, Part], TaskID] = {}

    def __call__(self, step: Step, part: Part, done: int, total: int) -> None:
        if not total:
            return
        if (task := self._tasks.get((step, part))) is None:
            name = part.value.replace("_", " ")
            task = self._tasks[step, part] = self._progress.add_task(f"{step.value} {name}")
        self._progress.update(task, completed=done, total=total)


def _fields(moved: Moved) -> output.Document:
    return {
        "nothing_to_do": moved.nothing_to_do,
        "resumed": moved.resumed,
        "next_event": moved.inventory.head,
        "events": moved.events,
        "missing_events": moved.missing,
        **{part.value: count for part, count in moved.items.items()},
        "destinations": [each.name for each in moved.inventory.destinations],
        "sources": [each.name for each in moved.inventory.sources],
        "gaps": len(moved.inventory.gaps),
    }


def _print(origin: str, to: str, moved: Moved) -> None:
    screen = output.console()
    if not moved.nothing_to_do:
        screen.print(output.fields(_fields(moved)))
    for sentence in _sentences(origin, to, moved):
        screen.print(sentence, markup=False, soft_wrap=True)


def _sentences(origin: str, to: str, moved: Moved) -> Iterator[str]:
    if moved.nothing_to_do:
        yield f"{to} was moved from {origin} already: nothing to do."
        return
    if moved.missing:
        yield (
            f"warning: {moved.missing:,} events were not moved, because their batch is gone or fails its"
            " checksum. Destinations that are still owed them will count them as dead letters (corrupt)."
        )
    yield (
        f"Everything was read back and compared. {origin} is as it was: keep it until {to} has proved itself,"
        " and never start a relay on it again."
    )
