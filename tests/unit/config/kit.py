"""A small configuration that tests change one thing in, and the destination types they know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from relay.config.destination import DestinationConfig
from relay.config.load import Loaded, load
from relay.config.secret import OptionalSecret, Secret, SecretUrl
from relay.errors import ConfigError

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z-]+$")]


class WebConfig(DestinationConfig):
    type: Literal["web"]
    url: SecretUrl
    token: OptionalSecret = None
    headers: Mapping[HeaderName, Secret] = Field(default_factory=dict)


class DiskConfig(DestinationConfig):
    type: Literal["disk"]
    path: Path


TYPES: dict[str, type[DestinationConfig]] = {"web": WebConfig, "disk": DiskConfig}

Change = Callable[[dict[str, Any]], object]


def minimal() -> dict[str, Any]:
    """As few keys as a valid configuration can have."""
    return {
        "sources": [{"name": "konnect-us", "authorization": "Bearer s3cret"}],
        "destinations": [{"name": "siem", "type": "web", "url": "https://siem.example.com/in"}],
    }


class ConfigFile:
    """A configuration file in the test's own directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, content: dict[str, Any] | str, **environ: str) -> Loaded:
        text = content if isinstance(content, str) else json.dumps(content)  # JSON is YAML
        self.path.write_text(text, encoding="utf-8")
        return load(self.path, destination_types=TYPES, environ=environ)

    def problems(self, content: dict[str, Any] | str, **environ: str) -> list[str]:
        """What is wrong with it; fails where nothing is."""
        with pytest.raises(ConfigError) as refused:
            self.load(content, **environ)
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__  # pydantic's own error would be printed with a traceback
        return refused.value.problems
