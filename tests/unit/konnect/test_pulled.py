"""Pulled entries as lines in the webhook's names, and back."""

from __future__ import annotations

import json

import pytest

from relay.konnect.parse import parse
from relay.konnect.pulled import entry_of, is_pulled, line_of, moment_of
from tests.fakes.konnect import AuditEvent, Maker
from tests.fakes.konnect.writing import entry, line

AT = 1_750_000_000.123


def alike(event: AuditEvent) -> bytes:
    return line_of(entry(event))


@pytest.mark.parametrize("kind", ["access", "authorization", "authentication"])
def test_a_pulled_event_reads_as_the_webhooks_own(kind: str) -> None:
    """Names, types, time, name and severity are the same; only what the pull does not tell is missing."""
    maker = Maker()
    event = getattr(maker, kind)(at=AT)
    pulled, sent = parse(alike(event)), parse(line(event, "json", stamp=AT))
    assert pulled is not None
    assert sent is not None

    for field in ("name", "severity", "rt", "src", "org_id", "principal_id", "trace_id", "user_agent"):
        assert getattr(pulled, field) == getattr(sent, field), field
    for field in ("event_class_id", "event_product", "event_vendor", "act", "status", "granted", "success"):
        assert getattr(pulled, field) == getattr(sent, field), field
    assert pulled.sig is None
    assert ("relay_pulled", True) in pulled.extra


@pytest.mark.parametrize(
    ("outcome", "severity"),
    [("success", 0), ("not_found", 1), ("token_expired", 1), ("locked", 6), ("disabled", 6), ("odd", 7)],
)
def test_an_outcome_has_its_severity(outcome: str, severity: int) -> None:
    """By the table of docs/konnect.md section 3; the type may be left out."""
    found = json.loads(line_of({"outcome": outcome, "authentication_type": "pat"}))

    assert found["name"] == f"AUTHENTICATION_OUTCOME_{outcome.upper()}"
    assert found["event_class_id"] == "AUTHENTICATION_TYPE_PAT"
    assert found["severity"] == severity


def test_what_cannot_be_mapped_is_kept() -> None:
    """An unknown type, a time that is none, and names that are ours already: nothing is thrown away."""
    given = {
        "type": "quantum",
        "ts": "yesterday",
        "name": "theirs",
        "severity": 3,
        "signature": "s1",
        "sig": "s2",
        "nested": {"a": [1, 2]},
    }
    found = json.loads(line_of(given))

    assert found["type"] == "quantum"
    assert found["ts"] == "yesterday"
    assert found["pulled_name"] == "theirs"
    assert found["pulled_severity"] == 3
    assert (found["signature"], found["pulled_sig"]) == ("s1", "s2")
    assert found["nested"] == {"a": [1, 2]}
    assert moment_of(given) is None


@pytest.mark.parametrize(
    ("ts", "rt"),
    [
        ("2025-06-18T21:01:43.960Z", 1750280503960),
        ("2025-06-18T21:01:43.960999Z", 1750280503960),
        ("2025-06-18T23:01:43.96+02:00", 1750280503960),
    ],
)
def test_times_are_cut_to_milliseconds(ts: str, rt: int) -> None:
    """Rounded, half of them would not meet the webhook's."""
    assert moment_of({"ts": ts}) == rt


@pytest.mark.parametrize("kind", ["access", "authorization", "authentication"])
def test_an_entry_is_had_back(kind: str) -> None:
    """With its fields in their order, since that may be what was signed."""
    given = entry(getattr(Maker(), kind)(at=AT))
    found = entry_of(line_of(given))

    assert found is not None
    assert list(found.items()) == list(given.items())
    assert is_pulled(line_of(given))


@pytest.mark.parametrize(
    "change",
    [
        (b'"relay_pulled":true', b'"relay_pulled":1'),
        (b'"severity":1', b'"severity":6'),
        (b'"name":"Authz.', b'"name":"Authz.x'),
        (b'"rt":1', b'"rt":2'),
        (b'"ts":', b'"time":'),
        (b'"granted":true', b'"granted": true'),
        (b'"granted":true', b'"granted":true,"granted":true'),
        (b'"granted":true', b'"granted":true,"name":"Ingress"'),
        (b'"src":', b'"client_ip":'),
        (b"}", b',"sig":"x"}'),
        (b'"org_id":', b'"pulled_org_id":'),
    ],
)
def test_a_line_that_the_mapping_does_not_write_is_no_entry(change: tuple[bytes, bytes]) -> None:
    """Else something in the line would be covered by no signature of the entry."""
    text = alike(Maker().authorization(at=AT, granted=True))
    assert change[0] in text
    assert entry_of(text) is not None
    assert entry_of(text.replace(*change)) is None


@pytest.mark.parametrize("ts", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "", "Z"])
def test_times_that_are_none_in_utc(ts: str) -> None:
    """Nothing raises; the entry keeps its word for it."""
    assert moment_of({"ts": ts}) is None
    assert entry_of(line_of({"ts": ts})) == {"ts": ts}


@pytest.mark.parametrize("log_format", ["cef", "json", "cps"])
def test_what_a_webhook_sends_is_not_pulled(log_format: str) -> None:
    """Nor is an entry made of it: what Konnect signed there says something else."""
    sent = line(Maker().access(at=AT), log_format, stamp=AT)  # type: ignore[arg-type]

    assert not is_pulled(sent)
    assert entry_of(sent) is None
