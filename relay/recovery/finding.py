"""What a line of `konnect doctor` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # works, or could not be seen
    PROBLEM = "problem"  # events are lost, or will be


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str  # what was asked, from a closed set
    level: Level
    text: str
    next: str | None = None  # what to do
