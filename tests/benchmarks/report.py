"""Figures with their targets, as a table for people and as Markdown for docs/performance.md.

Owns how results look. Never measures.
"""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. *met* is None where there is no target."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        return {None: "", True: "pass", False: "MISS"}[self.met]


def at_least(name: str, value: float, target: float, note: str = "", *, unit: str = "") -> Figure:
    return Figure(name, f"{_number(value)}{unit}", f">= {_number(target)}{unit}", value >= target, note)


def at_most(name: str, value: float, target: float, note: str = "", *, unit: str = "") -> Figure:
    return Figure(name, f"{_number(value)}{unit}", f"<= {_number(target)}{unit}", value <= target, note)


def plain(name: str, value: float, note: str = "", *, unit: str = "") -> Figure:
    return Figure(name, f"{_number(value)}{unit}", note=note)


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 100 else f"{value:.2f}"


def environment() -> str:
    """What the figures were measured on, in one line."""
    return (
        f"{os.cpu_count()} CPUs shared with load generator and sinks, Linux {platform.release()}, "
        f"CPython {platform.python_version()}, aiohttp {version('aiohttp')}, uvloop {version('uvloop')}, "
        f"SQLite {sqlite3.sqlite_version}"
    )


_HEADS = ("figure", "measured", "target", "", "note")


def _cells(figure: Figure) -> tuple[str, ...]:
    return figure.name, figure.value, figure.target, figure.verdict, figure.note


def table(figures: Sequence[Figure]) -> str:
    """Columns in fixed width."""
    rows = [_HEADS, *map(_cells, figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def markdown(sections: Iterable[tuple[str, Sequence[Figure]]]) -> str:
    """One table per section, and below which machine they are from."""
    parts = [environment() + ". Rates in events per second; every ratio is of one alternating run.\n"]
    for title, figures in sections:
        lines = [f"### {title}\n", f"| {' | '.join(_HEADS)} |", "|" + "---|" * len(_HEADS)]
        lines += [f"| {' | '.join(_cells(figure))} |" for figure in figures]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
