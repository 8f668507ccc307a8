"""Values that must never be printed.

Owns how a secret is written in the configuration (a string, or `{file: /path}`) and makes sure that it
leaves only through `reveal()`: not by repr, str, format, error message, `model_dump` or JSON.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from relay.config.types import refusal

_LOOPBACK_NAMES = ("localhost", "::1")


class Secret:
    """A string that shows itself only to those who ask for it by `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself. Do not keep it longer than the call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def parse(cls, value: object) -> Self:
        """Make one of what the configuration says; messages never repeat it."""
        if isinstance(value, cls):
            return value
        if isinstance(value, dict) and set(value) == {"file"} and isinstance(value["file"], str | Path):
            return cls.parse(_file_content(Path(value["file"])))
        if not isinstance(value, str):
            raise refusal("expected a string (in quotes where it is a number) or {file: /path}")
        if not value:
            raise refusal("must not be empty")
        return cls(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        file = {"type": "string", "description": "The secret is this file's content; read again on reload."}
        return {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"file": file},
                    "required": ["file"],
                    "additionalProperties": False,
                },
            ]
        }


class SecretUrl(Secret):
    """An http(s) URL of which only scheme, host and port may be seen.

    For several vendors the path or the query is the credential.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        port = f":{self._parts.port}" if self._parts.port else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{port}/…"

    @property
    def scheme(self) -> str:
        return self._parts.scheme

    @property
    def host(self) -> str:
        return self._parts.hostname or ""

    @property
    def exposed(self) -> bool:
        """Whether what is sent there crosses a network unencrypted."""
        return self.scheme == "http" and not is_loopback(self.host)

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self._value)

    @classmethod
    def parse(cls, value: object) -> Self:
        url = super().parse(value)
        try:
            parts = urlsplit(url.reveal())
            valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port or an IPv6 address that is none
            valid = False
        if not valid or any(character.isspace() for character in url.reveal()):
            raise refusal("expected a URL such as https://siem.example.com/path")
        return url


def is_loopback(host: str) -> bool:
    """Whether *host*, as written in a configuration, can only be this machine."""
    return host in _LOOPBACK_NAMES or host.startswith("127.")


def _file_content(path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise refusal(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise refusal(f"cannot read {path}: it is not UTF-8 text") from None
    if not content:
        raise refusal(f"{path} is empty")
    return content


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


OptionalSecret = Annotated[Secret | None, BeforeValidator(_empty_is_none)]
"""A secret that may be left out; an empty string, as from `${NAME:-}`, counts as left out."""


def _several(value: object) -> tuple[object, ...]:
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(item for item in values if item != "")


Secrets = Annotated[
    tuple[Secret, ...], BeforeValidator(_several, json_schema_input_type=Secret | tuple[Secret, ...])
]
"""One secret or a list of them; empty strings, as from `${OLD_TOKEN:-}`, are left out."""
