"""The settings of each type: what is refused, and that no refusal repeats a secret."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from relay.clock import SystemClock
from relay.config.destination import DestinationConfig
from relay.destinations.http import HttpConfig, statuses
from relay.destinations.registry import CONFIG_TYPES, DESTINATIONS, build
from relay.destinations.splunk_hec import SplunkHecConfig
from relay.destinations.sumologic import SumoLogicConfig
from tests.fakes import google_key

URL = "https://siem.example.com/s3cret"
HTTP: dict[str, object] = {"name": "siem", "type": "http", "url": URL}
BUCKET: dict[str, object] = {"name": "siem", "bucket": "audit"}
AZURE: dict[str, object] = {
    "name": "siem",
    "type": "azure_blob",
    "account": "acmeaudit",
    "container": "audit",
}
SPLUNK: dict[str, object] = {"name": "siem", "type": "splunk_hec", "url": URL, "token": "s3cret"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "ftp://siem.example.com/s3cret"}, "expected a URL such as"),
        ({"url": "https://relay:s3cret@siem.example.com/"}, "credentials do not belong into the URL"),
        ({"url": "https://siem.example.com/#s3cret"}, "expected a URL without a #fragment"),
        ({"url": "https://siem.example.com/s3crét"}, "expected a URL in ASCII"),
        ({"authorization": "s3cret\r\nX-Evil: 1"}, "one line of Latin-1"),
        ({"bearer": "s3cret\n"}, "one line of Latin-1"),
        ({"headers": {"X-Key": "s3cret\x00"}}, "one line of Latin-1"),
        ({"headers": {"X Key": "s3cret"}}, "expected the name of an HTTP header"),
        ({"headers": {"Content-Length": "s3cret"}}, "cannot be set"),
        ({"headers": {"X-Key": "s3cret", "x-key": "s3cret"}}, "named twice"),
        ({"bearer": "s3cret", "authorization": "s3cret"}, "at most one of"),
        ({"bearer": "s3cret", "headers": {"authorization": "s3cret"}}, "at most one of"),
        ({"basic": {"username": "a:b", "password": "s3cret"}}, "String should match"),
        ({"content_type": "text/plain\n"}, "one line of Latin-1"),
        ({"success": []}, "at least 1 item"),
        ({"success": ["2xx"]}, "expected statuses such as 202 or 200-299"),
        ({"success": [99]}, "expected statuses such as 202 or 200-299"),
        ({"success": ["299-200"]}, "expected a range that rises"),
        ({"passthrough_gzip": True, "framing": "ndjson"}, "needs `framing: lines`"),
        ({"framing": "xml"}, "'lines', 'ndjson', 'json_array' or 'one_per_request'"),
        ({"token": "s3cret"}, "Extra inputs are not permitted"),
    ],
)
def test_http_refuses(settings: dict[str, object], message: str) -> None:
    """A request that could not be made well is refused when the configuration is read."""
    with pytest.raises(ValidationError) as caught:
        HttpConfig.model_validate({**HTTP, **settings})

    assert message in str(caught.value)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token": ""}, "expected either `token` or `authorization`"),
        ({"authorization": "Splunk s3cret"}, "expected either `token` or `authorization`"),
        ({"endpoint": "metrics"}, "Input should be 'event' or 'raw'"),
        ({"ack_timeout": "0s"}, "greater than 0"),
    ],
)
def test_splunk_refuses(settings: dict[str, object], message: str) -> None:
    """One credential is needed, and what Splunk has no use for is refused."""
    with pytest.raises(ValidationError) as caught:
        SplunkHecConfig.model_validate({**SPLUNK, **settings})

    assert message in str(caught.value)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    ("type_name", "settings", "field"),
    [
        ("sentinel", {"dcr": "my rule"}, "dcr"),
        ("sentinel", {"stream": "Konnect/x"}, "stream"),
        ("sentinel", {"tenant_id": "../s3cret"}, "tenant_id"),
        ("sentinel", {"client_secret": ""}, "client_secret"),
        ("sentinel", {"cloud": "germany"}, "cloud"),
        ("google_secops", {"region": "eu/s3cret"}, "region"),
        ("google_secops", {"log_type": "kong"}, "log_type"),
        ("google_secops", {"forwarder": "projects/x/forwarders/y"}, "forwarder"),
        ("google_secops", {"service_account": "s3cret"}, "service_account"),
        ("google_secops", {"url": "https://relay:s3cret@proxy.example.com/"}, "url"),
    ],
)
def test_clouds_refuse(type_name: str, settings: dict[str, object], field: str) -> None:
    """What would lead elsewhere, or to no token at all, is refused when the configuration is read."""
    with pytest.raises(ValidationError) as caught:
        CONFIG_TYPES[type_name].model_validate(SETTINGS[type_name] | settings)

    assert [error["loc"] for error in caught.value.errors()] == [(field,)]
    assert "s3cr" not in str(caught.value)


def test_statuses() -> None:
    """Single statuses and ranges mix, whether YAML made them numbers or text."""
    assert statuses([200, "202", "210-212"]) == {200, 202, 210, 211, 212}


@pytest.mark.parametrize("settings", [{"success": ["200-299"]}, {"success": [202]}, {"authorization": ""}])
def test_http_accepts(settings: dict[str, object]) -> None:
    """The forms of the documentation are good, and an empty credential is none."""
    config = HttpConfig.model_validate({**HTTP, **settings})

    assert "Authorization" not in config.request_headers()


def test_vendor_limits_are_the_defaults() -> None:
    """Setting one limit of a batch keeps the vendor's for the others."""
    config = SumoLogicConfig.model_validate(
        {"name": "sumo", "type": "sumologic", "url": URL, "batch": {"max_events": 5}}
    )

    assert config.batch.max_events == 5
    assert config.batch.max_bytes == 1_000_000
    assert config.batch.compression == "gzip"


SETTINGS: dict[str, dict[str, object]] = {
    "http": HTTP,
    "sumologic": HTTP | {"type": "sumologic"},
    "splunk_hec": SPLUNK,
    "logscale": SPLUNK | {"type": "logscale"},
    "sentinel": HTTP
    | {
        "type": "sentinel",
        "dcr": "dcr-0",
        "stream": "Custom-Konnect",
        "tenant_id": "acme",
        "client_id": "relay",
        "client_secret": "s3cret",
    },
    "google_secops": {
        "name": "siem",
        "type": "google_secops",
        "project": "acme",
        "region": "eu",
        "instance": "0123",
        "log_type": "KONG_GATEWAY",
        "service_account": google_key.key_file(client_id="s3cret"),
    },
    "elasticsearch": HTTP | {"type": "elasticsearch", "api_key": "s3cret"},
    "datadog": {"name": "siem", "type": "datadog", "api_key": "s3cret"},
    "loki": HTTP | {"type": "loki", "tenant": "security", "bearer": "s3cret"},
    "newrelic": {"name": "siem", "type": "newrelic", "license_key": "s3cret"},
    "file": {"name": "siem", "type": "file", "path": "/var/log/konnect/audit.ndjson"},
    "s3": BUCKET | {"type": "s3", "access_key_id": "s3cret", "secret_access_key": "s3cret"},
    "gcs": BUCKET | {"type": "gcs"},
    "azure_blob": AZURE | {"account_key": "s3cretAA"},
    "syslog": {"name": "siem", "type": "syslog", "address": "siem.example.com"},
}


@pytest.mark.parametrize("type_name", list(DESTINATIONS))
async def test_every_type_is_built(type_name: str) -> None:
    """Each registered name makes its configuration, and that makes its destination."""
    config = CONFIG_TYPES[type_name].model_validate(SETTINGS[type_name])

    destination = build(config, clock=SystemClock())
    await destination.open()
    await destination.close()

    assert config.type == type_name
    assert destination.event_overhead >= 0
    assert "s3cr" not in f"{config!r} {config.model_dump()} {config.model_dump_json()} {destination!r}"


def test_base_has_no_type_of_its_own() -> None:
    """The base class is none of the types."""
    assert DestinationConfig not in CONFIG_TYPES.values()
