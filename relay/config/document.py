"""From a YAML file to plain values: the only module that reads YAML or the environment.

Owns YAML's dialect (1.2's booleans, no duplicate keys) and `${NAME}`. A message never repeats a value,
because it may be a secret. Knows nothing of the schema.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from relay.errors import ConfigError

Loc = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the top."""

_REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{)")
_QUOTED = re.compile(r"""'(\W)'|'[^']*'|"[^"]*\"""")


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content with the environment filled in, and what could not be filled in."""

    content: object
    problems: tuple[tuple[Loc, str], ...]  # where, and what is wrong with the reference there


def read(path: Path, environ: Mapping[str, str] | None = None) -> Document:
    """Read the file and replace `${NAME}` and `${NAME:-default}` in every string by the environment.

    `$$` stands for `$`. Keys without a value count as not given. *environ* is the process's own where it
    is None. Raises `ConfigError` when the file cannot be read as YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: cannot be read: it is not UTF-8 text"]) from None
    environment = os.environ if environ is None else environ  # noqa: TID251 - the one place that reads it
    problems: list[tuple[Loc, str]] = []
    try:
        content = _expand(yaml.load(text, _Loader), (), environment, problems)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise ConfigError([f"{path}: {_where(error)}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError):  # control characters, endless digits or nesting
        raise ConfigError([f"{path}: not a YAML document"]) from None
    return Document(content, tuple(problems))


def dotted(loc: Loc) -> str:
    """`destinations[1].retry.max_wait`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".")


class _Loader(yaml.SafeLoader):
    """YAML with 1.2's core types: `off` is a word, `12:30` and `2026-01-01` are strings."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own shape

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here rather than where mappings are constructed: by then `<<` may have brought in more keys.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]+", "-+0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def _where(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    # Words that PyYAML quotes come from the file: `token: *abc` would print an undefined alias named abc.
    return place + _QUOTED.sub(lambda quote: quote[0] if quote[1] else "…", error.problem or "not valid")


def _expand(value: object, loc: Loc, environ: Mapping[str, str], problems: list[tuple[Loc, str]]) -> object:
    if isinstance(value, dict):
        given = {str(key): item for key, item in value.items() if item is not None}
        return {key: _expand(item, (*loc, key), environ, problems) for key, item in given.items()}
    if isinstance(value, list):
        return [_expand(item, (*loc, index), environ, problems) for index, item in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replacement(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if match[0] == "$$":
            return "$"
        if name is None:
            problems.append((loc, "expected ${NAME} or ${NAME:-default}; a plain ${ is written $${"))
        elif default is not None:
            return environ.get(name) or default  # as in a shell: an empty variable counts as unset
        elif name not in environ:
            problems.append((loc, f"the environment variable {name} is not set"))
        else:
            return environ[name]
        return match[0]

    return _REFERENCE.sub(replacement, value)
