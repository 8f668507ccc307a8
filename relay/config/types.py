"""The small types of the configuration: durations, sizes, names, and the base of every section.

Owns how a value is written in YAML, how it is printed again, and the words of the message when it is
wrong. Knows nothing of what the settings mean.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, TypeGuard

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

FROM_FILE = {"from_file": True}
"""Validation context of values that were read from a file: a bare number is no duration there."""

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(rf"{_NUMBER}\s*({'|'.join(_DURATION_UNITS)})")
_SIZE = re.compile(rf"{_NUMBER}\s*({'|'.join(filter(None, _SIZE_UNITS))}|)")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change, errors do not echo input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def refusal(message: str) -> PydanticCustomError:
    """A validation error that is shown as it stands, after the path of the value."""
    return PydanticCustomError("refused", "{message}", {"message": message})


def parse_duration(value: object, info: ValidationInfo) -> float:
    """Seconds from `500ms`, `30s`, `5m`, `2h` or `7d`; in code also from a number of seconds."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _DURATION_UNITS[match[2]]
    if info.context is None and _is_number(value) and math.isfinite(value) and value >= 0:
        return float(value)
    raise refusal(f"expected a duration such as 30s, got {shown(value)}")


def parse_size(value: object) -> int:
    """Bytes from `64KiB`, `10MiB`, `10GB` or a whole number."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(Decimal(match[1]) * _SIZE_UNITS[match[2]])  # a float would lose bytes above 8 PiB
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise refusal(f"expected a size such as 10MiB, got {shown(value)}")


def format_duration(seconds: float) -> str:
    """The shortest way to write it without a fraction, where there is one: 604800.0 is `7d`."""
    if seconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms"):
        count = seconds / _DURATION_UNITS[unit]
        if count == int(count):
            return f"{int(count)}{unit}"
    return f"{seconds:f}".rstrip("0") + "s"


def format_size(size: int) -> str:
    """The largest unit that divides it, binary ones first: 1048576 is `1MiB`, 1000000 `1MB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "kB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return str(size)


def shown(value: object) -> str:
    """A wrong value as an error message may show it. Never call it for what may be a secret."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}…"


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise refusal(
            "expected a name of lower-case letters, digits, '.', '_' and '-' "
            f"that starts with a letter or digit, got {shown(value)}"
        )
    return value


def _not_a_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise refusal(f"expected a whole number, got {shown(value)}")
    return value


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$"}),
]
"""Seconds."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^{_SIZE.pattern}$"}, {"type": "integer", "minimum": 0}]}
    ),
]
"""Bytes."""

Whole = Annotated[int, BeforeValidator(_not_a_boolean)]
"""A whole number; `true` is not taken for 1."""

Port = Annotated[Whole, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose one."""

Name = Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"})]
"""What sources and destinations are called: goes into URLs, metric labels and file names as it is."""
