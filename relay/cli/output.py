"""How commands print: tables for people, one JSON document for scripts, never both."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

import orjson
from rich.console import Console
from rich.table import Table

# A pipe has no width; a table folded at 80 columns would be no use to grep.
_PIPE_WIDTH = 250

Document = dict[str, object]


def console() -> Console:
    """Standard output for people."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def print_json(document: object) -> None:
    """The one JSON document of a command."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())


def print_line(text: str) -> None:
    """*text* as it is, but for control characters: neither folded, however long, nor taken for markup."""
    sys.stdout.write(f"{printable(text)}\n")


def table(*columns: str, rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A plain table; columns whose name starts with `#` hold numbers. None prints as a dash."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        grid.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left")
    for row in rows:
        grid.add_row(*map(_text, row))
    return grid


def fields(document: Mapping[str, object]) -> Table:
    """One object as two columns; lists are counted out line by line."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    for name, value in document.items():
        text = "\n".join(map(_text, value)) or "–" if isinstance(value, list | tuple) else _text(value)
        grid.add_row(name, text)
    return grid


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    # Square brackets are markup to rich, and a SIEM's answer may be full of them.
    return printable(str(value)).replace("[", r"\[")


def printable(text: str) -> str:
    """Without control characters: what senders and SIEMs say must not steer the operator's terminal."""
    return "".join([c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text])


def size(count: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """A length of time for people, in its largest unit."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"
