"""What a command is doing at the moment, and how far it is, on standard error.

Owns the two forms: a bar on a terminal; elsewhere one line for each new thing, so that a log shows them all.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from relay.cli.output import printable

if TYPE_CHECKING:
    from rich.progress import Progress


class Watch:
    """To be entered. *quiet*: say nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task("", total=1.0)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, sentence: str) -> None:
        """What is done from now on."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=printable(sentence))
        elif sentence != self._last and not self._quiet:
            sys.stderr.write(f"{printable(sentence)}\n")
            self._last = sentence

    def reached(self, share: float) -> None:
        """So much of it is done, from 0 to 1."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=share)
