"""What archived objects are called, and what their settings may be."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relay.destinations.object_key import content_type, object_key, partition_time
from relay.destinations.objects import _packed
from relay.destinations.registry import CONFIG_TYPES
from relay.konnect.lines import format_of
from relay.model import Event
from tests.fakes.chunks import RECEIVED_AT, chunk_of

ARRIVAL = datetime.fromtimestamp(RECEIVED_AT, UTC)
SAFE = re.compile(r"[A-Za-z0-9_.=/-]+")
LINES = st.lists(st.binary(max_size=60).map(lambda line: line.replace(b"\n", b" ")), min_size=1, max_size=20)


def event(line: bytes) -> Event:
    return Event("0", line, format_of(line), "konnect-us", RECEIVED_AT)


def key_of(lines: list[bytes], prefix: str = "kong/audit") -> str:
    chunk = chunk_of(lines)
    return object_key(prefix, partition_time(next(chunk.events())), _packed(chunk.body)[0])


@given(LINES)
def test_same_events_same_key(lines: list[bytes]) -> None:
    """A chunk that is sent again has its old name and its old bytes, whatever is in it."""
    again = list(lines)

    assert key_of(lines) == key_of(again)
    assert _packed(chunk_of(lines).body) == _packed(chunk_of(again).body)


@given(LINES)
def test_same_lines_in_other_batches(lines: list[bytes]) -> None:
    """How the queue cut the events into batches does not show."""
    half = len(lines) // 2
    whole, parts = chunk_of(lines), chunk_of(*filter(None, (lines[:half], lines[half:])))

    assert _packed(whole.body) == _packed(parts.body)


@given(LINES)
def test_order_matters(lines: list[bytes]) -> None:
    """Other events, or another order of them, have another name."""
    assert key_of(lines) != key_of([*lines, b"one more"])
    turned = lines[::-1]
    assert (key_of(turned) == key_of(lines)) is (turned == lines)


@given(LINES, st.sampled_from(["", "a", "kong/audit", "env=prod/konnect-audit_1.0"]))
def test_safe_characters(lines: list[bytes], prefix: str) -> None:
    """No event gets a character into a key that a URL, a shell or Hive would read in its own way."""
    key = key_of(lines, prefix)

    assert SAFE.fullmatch(key)
    assert len(key) < 512
    assert not {"", ".", ".."}.intersection(key.split("/"))


@pytest.mark.parametrize(
    ("line", "stamp"),
    [
        (
            b'{"rt":1750366866889}',
            "2025-06-19T21:01:06.889000+00:00",
        ),  # a day too late
        (b'{"rt":"1700000000000","event_ts":"2025-06-18T21:01:06Z"}', "2023-11-14T22:13:20+00:00"),
        (b"2024-02-29T23:59:59Z konghq.com CEF:0|KongInc|Konnect|1.0|X|X|0|", "2024-02-29T23:59:59+00:00"),
    ],
)
def test_event_time(line: bytes, stamp: str) -> None:
    """The partition is the event's own time, however much later it was delivered."""
    assert partition_time(event(line)).isoformat() == stamp


@pytest.mark.parametrize(
    "line",
    [
        b"neither CEF nor JSON",
        b'{"rt":9999999999999}',  # the year 2286
        b'{"rt":1750453267000}',  # more than a day after it arrived
        b'{"event_ts":"0001-01-01T00:00:00Z"}',
        b'{"event_ts":"9999-12-31T23:59:59Z"}',
        b'{"event_ts":"1999-12-31T23:59:59Z"}',
        b'{"event_ts":"2025-02-31T00:00:00Z"}',
    ],
)
def test_impossible_time(line: bytes) -> None:
    """An event that cannot have happened then, or does not say, stands where it arrived."""
    assert partition_time(event(line)) == ARRIVAL


def test_key() -> None:
    """The shape that the pages promise, with and without a prefix."""
    at = datetime(2025, 6, 8, 3, 4, 5, 6_999, UTC)

    assert object_key("a/b", at, "00ff") == "a/b/dt=2025-06-08/hh=03/20250608T030405006Z-00ff.ndjson.gz"
    assert object_key("", at, "00ff") == "dt=2025-06-08/hh=03/20250608T030405006Z-00ff.ndjson.gz"


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([b'{"a":1}', b'{"b":2}'], "application/x-ndjson"),
        ([b'{"a":1}', b"CEF:0|"], "text/plain"),
        ([b"CEF:0|", b'{"a":1}'], "text/plain"),
        ([b'x{"a":1}'], "text/plain"),
        ([b'{"a":"{"}', b"{"], "application/x-ndjson"),
    ],
)
def test_content_type(lines: list[bytes], kind: str) -> None:
    """NDJSON is what consists of objects only, told by how lines begin."""
    chunk = chunk_of(lines)

    assert content_type(chunk, chunk.body) == kind


S3 = {"name": "archive", "type": "s3", "bucket": "audit"}
GCS = {"name": "archive", "type": "gcs", "bucket": "audit"}
AZURE = {"name": "archive", "type": "azure_blob", "account": "acmeaudit", "container": "audit"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (S3 | {"access_key_id": "s3cret"}, "go together"),
        (S3 | {"secret_access_key": "s3cret"}, "go together"),
        (S3 | {"session_token": "s3cret"}, "needs the access_key_id"),
        (S3 | {"access_key_id": "s3cret\n", "secret_access_key": "x"}, "without spaces"),
        (S3 | {"prefix": "/audit"}, "such as kong/audit"),
        (S3 | {"prefix": "audit/"}, "such as kong/audit"),
        (S3 | {"prefix": "a//b"}, "such as kong/audit"),
        (S3 | {"prefix": "a/../b"}, "such as kong/audit"),
        (S3 | {"prefix": "a b"}, "such as kong/audit"),
        (S3 | {"prefix": "a" * 513}, "at most 512"),
        (S3 | {"bucket": "s3://audit"}, "String should match"),
        (S3 | {"region": "EU (Ireland)"}, "String should match"),
        (S3 | {"endpoint": "minio:9000"}, "expected a URL"),
        (S3 | {"endpoint": "https://relay:s3cret@minio:9000"}, "credentials do not belong into the URL"),
        (S3 | {"tls": {"cert": "a.pem", "key": "b.pem"}}, "cannot be shown a client certificate"),
        (S3 | {"batch": {"compression": "none"}}, "Input should be 'gzip'"),
        (S3 | {"batch": {"linger": "16m"}}, "less than or equal to 900"),
        (GCS | {"service_account_key": "s3cret"}, "JSON key of a service account"),
        (GCS | {"service_account_key": '{"client_email": "s3cret"}'}, "JSON key of a service account"),
        (AZURE | {"account_key": "s3cret!"}, "in base64"),
        (AZURE | {"account_key": "s3cretä"}, "in base64"),
        (AZURE | {"sas_token": "s3cret"}, "shared access signature"),
        (AZURE | {"sas_token": "sig=&sv=s3cret"}, "shared access signature"),
        (AZURE | {"sas_token": "sig=s3cret", "account_key": "s3cretAA"}, "at most one of"),
        (AZURE | {"account": "https://acmeaudit.blob.core.windows.net"}, "String should match"),
        (AZURE | {"container": "Audit_Logs"}, "String should match"),
    ],
)
def test_refused(settings: dict[str, object], message: str) -> None:
    """What no store would take is refused when the configuration is read, and no secret is repeated."""
    with pytest.raises(ValidationError) as caught:
        CONFIG_TYPES[str(settings["type"])].model_validate(settings)

    assert message in str(caught.value)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("settings", [S3, GCS, AZURE])
def test_large_and_rare(settings: dict[str, object]) -> None:
    """By default objects are large, also the first after a hold; setting one limit keeps the others."""
    config = CONFIG_TYPES[str(settings["type"])].model_validate(settings | {"batch": {"linger": "15m"}})

    assert (config.batch.max_events, config.batch.max_bytes) == (50_000, 16 * 1024**2)
    assert config.batch.linger == 900
    assert config.retry.probe_max_events == 50_000
