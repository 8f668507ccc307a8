"""Times and lengths of time as people type them."""

from __future__ import annotations

import re
from typing import Final

import typer

from relay.admin.times import parse_rfc3339

_LENGTH: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)")
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def moment(text: str, now: float) -> float:
    """Seconds since the epoch for RFC 3339, `now`, or a time before now such as `-2h`.

    A time without a zone is UTC. Raises `typer.BadParameter`.
    """
    if text == "now":
        return now
    if text.startswith("-") and (ago := _length(text[1:], bare=False)) is not None:
        return max(0.0, now - ago)
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-08-22T09:30:00Z, now, or -2h for two hours ago"
        ) from error


def duration(text: str | float) -> float:
    """Seconds for a length of time as the configuration has it, `90s` or `5m`, or a plain number of seconds.

    An option's default comes here as the number it is. Raises `typer.BadParameter`.
    """
    if (seconds := _length(str(text), bare=True)) is None:
        raise typer.BadParameter(f"{text!r} is no length of time; write 90s, 5m, 2h, or a number of seconds")
    return seconds


def _length(text: str, *, bare: bool) -> float | None:
    """*bare*: a number without a unit will do."""
    found = _LENGTH.fullmatch(text)
    return float(found[1]) * _SECONDS[found[2]] if found and (found[2] or bare) else None
