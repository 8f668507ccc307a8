"""Times as people type them."""

from __future__ import annotations

import re
from typing import Final

import typer

from relay.admin.times import parse_rfc3339

_RELATIVE: Final = re.compile(r"-(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def moment(text: str, now: float) -> float:
    """Seconds since the epoch for RFC 3339, `now`, or a time before now such as `-2h`.

    A time without a zone is UTC. Raises `typer.BadParameter`.
    """
    if text == "now":
        return now
    if relative := _RELATIVE.fullmatch(text):
        return max(0.0, now - float(relative[1]) * _SECONDS[relative[2]])
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-08-22T09:30:00Z, now, or -2h for two hours ago"
        ) from error
