"""The configuration's JSON Schema: for editors, and for checks before a deployment.

Owns the content of config/schema.json, which `make schema` writes and a test keeps fresh. It describes
the file as written, so `${NAME}` may stand wherever a scalar may; the relay's own messages come from
`relay.config.load`, never from here.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import SchemaSerializer, core_schema

from relay.config.load import DestinationTypes, config_model
from relay.config.types import Section

_FROM_ENVIRONMENT = {"type": "string", "pattern": r"\$\{"}
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema(destination_types: DestinationTypes) -> dict[str, Any]:
    """The schema of a configuration file whose destinations are of these types."""
    schema = config_model(destination_types).model_json_schema(schema_generator=_AsWritten)
    schema = _tidy(schema)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "konnect-relay configuration"}


def text(destination_types: DestinationTypes) -> str:
    """The content of config/schema.json."""
    return json.dumps(json_schema(destination_types), indent=2, ensure_ascii=False) + "\n"


class _AsWritten(GenerateJsonSchema):
    """Defaults in the units of the file (`30s`, `1MiB`); those of whole sections stand at their fields."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        if isinstance(schema.get("default"), Section):
            described.pop("default", None)
        elif "default" in described:
            serializer = SchemaSerializer(schema["schema"])
            described["default"] = serializer.to_python(schema["default"], mode="json")
        return described


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop generated titles, give limits their JSON Schema names, admit `${NAME}` beside other scalars."""
    tidied = {key: _tidied_part(key, part) for key, part in schema.items() if key != "title"}
    for limit, keyword in _LIMITS.items():
        value = tidied.pop(limit, None)
        if value is not None and tidied.get("type") == "integer":  # a duration's is written as a string
            tidied[keyword] = value
    scalar = tidied.get("type") in {"integer", "number", "boolean"} or "enum" in tidied or "pattern" in tidied
    if not scalar:
        return tidied
    about: dict[str, Any] = {key: tidied.pop(key) for key in ("description", "default") if key in tidied}
    return about | {"anyOf": [tidied, _FROM_ENVIRONMENT]}


def _tidied_part(key: str, part: Any) -> Any:
    if key in {"properties", "$defs"}:
        return {name: _tidy(schema) for name, schema in part.items()}
    if key in {"anyOf", "oneOf", "prefixItems"}:
        return [_tidy(schema) for schema in part]
    if key in {"items", "additionalProperties"} and isinstance(part, dict):
        return _tidy(part)
    return part
