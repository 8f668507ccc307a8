"""From a file to a checked `Config`, or to every problem in it at once.

Owns the wording of what is wrong. Messages name the path and what was expected; they repeat a value only
where the schema says it cannot be a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import AfterValidator, Discriminator, Field, SerializeAsAny, ValidationError, create_model
from pydantic_core import ErrorDetails

from relay.config import checks
from relay.config.destination import DestinationConfig
from relay.config.document import Loc, dotted, read
from relay.config.schema import Config, unique_names
from relay.config.types import FROM_FILE, shown
from relay.errors import ConfigError

DestinationTypes = Mapping[str, type[DestinationConfig]]
"""The class that reads each `type` of destination."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration, and what is allowed in it but unwise."""

    config: Config
    warnings: tuple[str, ...]  # `path: why`


def load(
    path: Path, *, destination_types: DestinationTypes, environ: Mapping[str, str] | None = None
) -> Loaded:
    """Read and check the configuration at *path*; secrets in files are read again each time.

    *environ* replaces the process's environment. Raises `ConfigError` with every problem found.
    """
    document = read(path, environ)
    unexpanded = {loc for loc, _ in document.problems}
    problems = [f"{dotted(loc)}: {message}" for loc, message in document.problems]
    try:
        config = config_model(destination_types).model_validate(document.content, context=FROM_FILE)
    except ValidationError as error:
        found = [(_loc(details, destination_types), details) for details in error.errors(include_url=False)]
        problems += [
            _problem(loc, details)
            for loc, details in found
            if loc not in unexpanded and not _of_wrong_items(details)
        ]
    else:
        problems += checks.problems(config)
        if not problems:
            return Loaded(config, tuple(checks.warnings(config)))
    raise ConfigError(problems) from None


def config_model(destination_types: DestinationTypes) -> type[Config]:
    """`Config` with `destinations` narrowed to the union of the known types, told apart by `type`."""
    item: Any = Union[tuple(destination_types.values())]  # noqa: UP007 - made at run time
    if len(destination_types) > 1:  # pydantic tells only two or more apart
        item = Annotated[item, Discriminator("type")]
    items: Any = Annotated[tuple[SerializeAsAny[item], ...], AfterValidator(unique_names)]
    description = Config.model_fields["destinations"].description
    return create_model("Config", __base__=Config, destinations=(items, Field(description=description)))


def _loc(details: ErrorDetails, destination_types: DestinationTypes) -> Loc:
    """The error's place in the file: pydantic adds the union's tag, and stops above a wrong one."""
    loc = details["loc"]
    if loc[:1] == ("queue",) and len(loc) > 1:
        loc = loc[:1] + loc[2:]
    if loc[:1] == ("destinations",) and len(loc) > 2 and len(destination_types) > 1:
        loc = loc[:2] + loc[3:]
    if loc[-1:] == ("[key]",):  # what is wrong is the key itself
        loc = loc[:-1]
    return (*loc, "type") if details["type"].startswith("union_tag") else loc


def _of_wrong_items(details: ErrorDetails) -> bool:
    """Whether a list is said to be too short only because its items, told of already, are wrong."""
    return details["type"] == "too_short" and len(details["input"]) > 0


def _problem(loc: Loc, details: ErrorDetails) -> str:
    context: dict[str, Any] = details.get("ctx", {})
    if template := _MESSAGES.get(details["type"]):
        message = template.format(**context, got=shown(details["input"]))
    else:
        message = details["msg"]
    return f"{dotted(loc)}: {message}" if loc else message


_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "unknown key",
    "union_tag_not_found": "is required",
    "union_tag_invalid": "expected one of {expected_tags}, got {tag}",
    "literal_error": "expected {expected}, got {got}",
    "int_parsing": "expected a whole number, got {got}",
    "int_type": "expected a whole number, got {got}",
    "int_from_float": "expected a whole number, got {got}",
    "float_parsing": "expected a number, got {got}",
    "float_type": "expected a number, got {got}",
    "bool_parsing": "expected true or false, got {got}",
    "bool_type": "expected true or false, got {got}",
    "greater_than": "expected more than {gt}, got {got}",
    "greater_than_equal": "expected {ge} or more, got {got}",
    "less_than": "expected less than {lt}, got {got}",
    "less_than_equal": "expected {le} or less, got {got}",
    "too_short": "expected at least {min_length}",
    "string_pattern_mismatch": "expected text that matches {pattern}",
    # These may stand where a secret was meant to be: they say nothing of what was found.
    "string_type": "expected a string (in quotes where it is a number)",
    "path_type": "expected a path",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "value_error": "{error}",
}
