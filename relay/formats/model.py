"""How the schemas' models become JSON: dataclasses whose fields are named as in the schema.

A field that is None is left out; a field's `json` metadata is its name where Python cannot spell it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

from relay.formats.text import dumps


def dump(model: object) -> bytes:
    """The model as compact JSON on one line."""
    return dumps(model, _present)


def _present(model: object) -> dict[str, object]:
    kind: Any = type(model)
    names, values = _shape(kind)
    return {name: value for name, value in zip(names, values(model), strict=True) if value is not None}


@cache
def _shape(model: type[Any]) -> tuple[tuple[str, ...], Callable[[object], tuple[object, ...]]]:
    if not hasattr(model, "__dataclass_fields__"):
        raise TypeError(f"{model.__name__} is no model")
    names = tuple(str(f.metadata.get("json", f.name)) for f in fields(model))
    getter = attrgetter(*(f.name for f in fields(model)))
    return names, getter if len(names) > 1 else lambda one: (getter(one),)
