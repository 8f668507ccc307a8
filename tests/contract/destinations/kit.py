"""The rows of the contract suite: every HTTP destination type, and how to set one up against a `Siem`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest

from relay.clock import Clock
from relay.config.destination import DestinationConfig
from relay.config.secret import SecretUrl
from relay.destinations.base import Destination
from relay.destinations.registry import CONFIG_TYPES, build
from tests.fakes import google_key
from tests.fakes.clock import FakeClock
from tests.fakes.siem import Answer, Received, Siem

TOKEN = "t0ken-of-0ne-hour"  # an access token
NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


def token_answer(token: str, lifetime: object = 3600) -> str:
    """What a token endpoint answers; *lifetime* in seconds."""
    return json.dumps({"token_type": "Bearer", "expires_in": lifetime, "access_token": token})


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: a type with the settings that make it complete."""

    label: str
    type: str
    settings: Mapping[str, object] = field(default_factory=dict)
    path: str = "/intake/collector-0123456789abcdef?key=query-0123456789"
    secrets: tuple[str, ...] = ()  # besides what the path holds
    success: bytes | Callable[[Received], bytes] = b""  # the body of a success, or what makes it
    success_status: int = 200
    healthy: Callable[[Received], Answer] | None = None  # answers a probe; None: as it takes events
    probes: tuple[bytes, ...] = (b"",)  # bodies that a probe may send, none of which holds an event

    def config(self, siem: Siem, **more: object) -> DestinationConfig:
        """Its configuration; *more* goes on top, e.g. `timeout=0.2`."""
        return CONFIG_TYPES[self.type].model_validate(
            {"name": "siem", "type": self.type, "url": siem.base + self.path, **self.settings, **more}
        )

    @property
    def has_tokens(self) -> bool:
        """Whether a 401 is answered with a second request that carries a fresh token."""
        return "token_url" in CONFIG_TYPES[self.type].model_fields

    def take(self, request: Received) -> Answer:
        """The answer of a destination that stores everything it is sent."""
        body = self.success if isinstance(self.success, bytes) else self.success(request)
        return Answer(self.success_status, body)

    def all_secrets(self) -> tuple[str, ...]:
        return (*self.secrets, self.path, "collector-0123456789abcdef", "query-0123456789")


def collector_health(request: Received) -> Answer:
    """Answer as Splunk does: health to anyone, the token before the missing event."""
    if request.path.endswith("/health"):
        return Answer(200, b'{"text":"HEC is healthy","code":17}')
    if request.headers["Authorization"] != "Splunk hec-t0ken-0123":
        return Answer(403, b'{"text":"Invalid token","code":4}')
    return Answer(400, b'{"text":"No data","code":5}')


def bulk_success(request: Received) -> bytes:
    """An item for each document of a bulk request."""
    count = request.body.count(b"\n") // 2
    return orjson.dumps({"errors": False, "items": [{"create": {"status": 201}}] * count})


def cluster_health(request: Received) -> Answer:
    """Answer as Elasticsearch does to someone who may write."""
    if request.path.endswith("/_has_privileges"):
        return Answer(200, b'{"username":"relay","has_all_requested":true}')
    return Answer(200, b'{"version":{"number":"9.1.0","build_flavor":"default"}}')


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
        healthy=collector_health,
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
    Kind(
        "elasticsearch",
        "elasticsearch",
        {"api_key": "encoded-key-0123", "index": "logs-kong.audit-default"},
        path="/collector-0123456789abcdef",
        secrets=("encoded-key-0123",),
        success=bulk_success,
        healthy=cluster_health,
        probes=(b"", b'{"index":[{"names":["logs-kong.audit-default"],"privileges":["create_doc"]}]}'),
    ),
    Kind(
        "datadog",
        "datadog",
        {"api_key": "api-key-0123", "tags": ["env:prod", "team:platform"]},
        secrets=("api-key-0123",),
        success=b"{}",
        success_status=202,
    ),
    Kind(
        "loki",
        "loki",
        {"basic": {"username": "123456", "password": "pa55word"}, "tenant": "security"},
        path="/collector-0123456789abcdef",
        secrets=("pa55word", "MTIzNDU2OnBhNTV3b3Jk"),
        success_status=204,
        probes=(b'{"streams":[]}',),
    ),
    Kind(
        "newrelic",
        "newrelic",
        {"license_key": "license-key-0123", "attributes": {"env": "prod"}},
        secrets=("license-key-0123",),
        success=b'{"requestId":"aa2cb7d3-0001-b000-0000-0173ad2ea9c8"}',
        success_status=202,
    ),
]

KINDS += [
    Kind(
        "sentinel",
        "sentinel",
        {
            "dcr": "dcr-0123456789abcdef0123456789abcdef",
            "stream": "Custom-Konnect",
            "tenant_id": "acme.onmicrosoft.com",
            "client_id": "11111111-2222-3333-4444-555555555555",
            "client_secret": "cl1ent~s3cret/0123",
        },
        path="",
        secrets=("cl1ent~s3cret/0123", TOKEN),
        success_status=204,
        probes=(b"[]",),
    ),
    Kind(
        "google_secops",
        "google_secops",
        {
            "project": "acme-secops",
            "region": "eu",
            "instance": "01234567-89ab-cdef-0123-456789abcdef",
            "log_type": "KONG_GATEWAY",
            "forwarder": "76543210-89ab-cdef-0123-456789abcdef",
            "service_account": google_key.key_file(),
        },
        path="",
        secrets=(TOKEN, google_key.private_pem()[40:80]),
        success=b"{}",
    ),
]

every_kind = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.label) for kind in KINDS])


@asynccontextmanager
async def opened(config: DestinationConfig, clock: Clock | None = None) -> AsyncIterator[Destination]:
    """The destination of *config*, opened, and closed at the end.

    Where it needs tokens and *config* does not say from where, there is an endpoint that gives them.
    """
    async with Siem(path="/oauth2/token") as tokens:
        tokens.then(200, body=token_answer(TOKEN))
        if getattr(config, "token_url", ...) is None:
            config = config.model_copy(update={"token_url": SecretUrl(tokens.url)})
        destination = build(config, clock=clock or FakeClock(NOW))
        await destination.open()
        try:
            yield destination
        finally:
            await destination.close()
