"""The rows of the contract suite: every HTTP destination type, and how to set one up against a `Siem`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from relay.clock import Clock
from relay.config.destination import DestinationConfig
from relay.destinations.base import Destination
from relay.destinations.registry import CONFIG_TYPES, build
from tests.fakes.clock import FakeClock
from tests.fakes.siem import Siem

NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: a type with the settings that make it complete."""

    label: str
    type: str
    settings: Mapping[str, object] = field(default_factory=dict)
    path: str = "/intake/collector-0123456789abcdef?key=query-0123456789"
    secrets: tuple[str, ...] = ()  # besides what the path holds
    success: bytes = b""  # the body of a success

    def config(self, siem: Siem, **more: object) -> DestinationConfig:
        """Its configuration; *more* goes on top, e.g. `timeout=0.2`."""
        return CONFIG_TYPES[self.type].model_validate(
            {"name": "siem", "type": self.type, "url": siem.base + self.path, **self.settings, **more}
        )

    def all_secrets(self) -> tuple[str, ...]:
        return (*self.secrets, self.path, "collector-0123456789abcdef", "query-0123456789")


KINDS = [
    Kind(
        "http-lines",
        "http",
        {"authorization": "Custom s3cr3t-value", "headers": {"X-Api-Key": "api-key-0123"}},
        secrets=("s3cr3t-value", "api-key-0123"),
    ),
    Kind(
        "http-gzip",
        "http",
        {"bearer": "bearer-t0ken", "batch": {"compression": "gzip"}},
        secrets=("bearer-t0ken",),
    ),
    Kind(
        "http-passthrough",
        "http",
        {"basic": {"username": "relay", "password": "pa55word"}, "passthrough_gzip": True},
        secrets=("pa55word", "cmVsYXk6cGE1NXdvcmQ="),
    ),
    Kind("http-ndjson", "http", {"bearer": "bearer-t0ken", "framing": "ndjson"}, secrets=("bearer-t0ken",)),
    Kind(
        "http-array", "http", {"bearer": "bearer-t0ken", "framing": "json_array"}, secrets=("bearer-t0ken",)
    ),
    Kind(
        "http-cortex",
        "http",
        {"profile": "cortex_xsiam", "authorization": "cortex-k3y"},
        secrets=("cortex-k3y",),
        success=b'{"ok":"true"}',
    ),
    Kind("sumologic", "sumologic", {"category": "kong/audit"}),
    Kind(
        "splunk_hec",
        "splunk_hec",
        {"token": "hec-t0ken-0123", "index": "audit"},
        path="",
        secrets=("hec-t0ken-0123",),
        success=b'{"text":"Success","code":0}',
    ),
    Kind(
        "splunk_hec-raw",
        "splunk_hec",
        {"token": "hec-t0ken-0123", "endpoint": "raw"},
        path="",
        secrets=("hec-t0ken-0123",),
        success=b'{"text":"Success","code":0}',
    ),
    Kind(
        "logscale",
        "logscale",
        {"token": "ingest-t0ken-0123"},
        path="/api/ingest/hec/connector-0123456789abcdef/v1/services/collector",
        secrets=("ingest-t0ken-0123", "connector-0123456789abcdef"),
        success=b'{"text":"Success","code":0}',
    ),
]

every_kind = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.label) for kind in KINDS])


@asynccontextmanager
async def opened(config: DestinationConfig, clock: Clock | None = None) -> AsyncIterator[Destination]:
    """The destination of *config*, opened, and closed at the end."""
    destination = build(config, clock=clock or FakeClock(NOW))
    await destination.open()
    try:
        yield destination
    finally:
        await destination.close()
