"""Konnect's JSON and CPS lines as records.

Strings are quoted there, so nothing a caller chooses can look like a field: what is read is exact. Values of
another type than documented (docs/konnect.md section 2.2) are taken as that type if they say the same,
otherwise they are kept as they came.
"""

from __future__ import annotations

import json
from typing import NoReturn

import orjson

from relay.konnect.record import FIELDS, FLAGS, TYPED, Record, record_of, typed

_FIELDS = frozenset(FIELDS)
# Numbers in the samples, text by the documentation: a reader that makes doubles of numbers loses digits.
_TEXT_FROM_NUMBER = frozenset({"trace_id", "cef_version"})
_LEVELS = 32  # Konnect's objects have one, in CPS two
_INEXACT = frozenset({float, dict, list})  # types that are or may hold a double


def parse_object(line: bytes) -> Record | None:
    """The record a JSON or CPS line holds, or None if it is no object, or `event` in it is none."""
    value = _load(line)
    if not isinstance(value, dict):
        return None
    if "event" in value:
        inner = value.pop("event")
        if isinstance(inner, dict):
            # Whether `sig` stands inside or beside is not known (docs/konnect.md section 2.3). Nothing
            # beside may replace what is inside.
            return _record(value | inner if value else inner)
        if "name" not in value:
            return None
        value["event"] = inner
    return _record(value)


def _record(found: dict[str, object]) -> Record:
    extra: list[tuple[str, object]] = []
    for name, value in list(found.items()) if _FIELDS.issuperset(found) else _documented(found, extra):
        kind = type(value)
        if (kind is str and name not in TYPED) or (kind is bool and name in FLAGS):
            continue  # as nearly all of them are
        known = _known(name, value)
        if known is None:
            extra.append((name, found.pop(name)))
        else:
            found[name] = known
    return record_of(found, extra)


def _documented(found: dict[str, object], extra: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Move what Konnect does not document to *extra*; the rest."""
    extra += [(name, found.pop(name)) for name in found.keys() - _FIELDS]
    return list(found.items())


def _known(name: str, value: object) -> object:
    """The value of a documented field that has another type than text or did not come as text."""
    if name in TYPED:
        return typed(name, value)
    return str(value) if type(value) is int and name in _TEXT_FROM_NUMBER else None


def _load(line: bytes) -> object:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _load_exactly(line)
    # orjson makes a double of an integer beyond 64 bits. Konnect writes neither doubles nor anything nested,
    # so looking again costs nothing in practice.
    if type(value) is dict and not _is_flat(value):
        inner = value.get("event")
        if len(value) > 1 or type(inner) is not dict or not _is_flat(inner):
            return _load_exactly(line)
    return value


def _load_exactly(line: bytes) -> object:
    """By the standard library, which takes integers of any size, bytes that are no UTF-8, lone surrogates."""
    try:
        text = line.decode(errors="replace")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        # A lone surrogate can be written as an escape but not as UTF-8: one way back makes it `?`.
        again = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return again if _is_shallow(again, _LEVELS) else None


def _is_shallow(value: object, levels: int) -> bool:
    """Whether whoever writes the value again can follow it down without running into a limit."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(v, levels - 1) for v in inner)


def _is_flat(value: dict[str, object]) -> bool:
    return _INEXACT.isdisjoint(map(type, value.values()))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError("a number beyond any double")
    return value
