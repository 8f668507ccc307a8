"""JSON text for values that orjson will not take, and none of its speed lost for the others."""

from __future__ import annotations

import json
from collections.abc import Callable

import orjson


def dumps(value: object, default: Callable[[object], object] | None = None) -> bytes:
    """Compact JSON on one line. Integers of any size are exact; a lone surrogate becomes `?`."""
    try:
        return orjson.dumps(value, default, orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:  # an integer beyond 64 bits or a lone surrogate: rare, and none of Konnect's
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=default)
        return text.encode(errors="replace")
