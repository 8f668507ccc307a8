"""The result of a signature check as each vendor gets it; without one, nothing is different."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from relay.destinations import google_secops, sentinel
from relay.destinations.hec_envelope import Envelope
from relay.formats.rewriting import FormatName, Rewriting
from relay.model import Event, Format
from tests.fakes.chunks import sample

EVENT = Event("0" * 32, sample("json")[0], Format.JSON, "eu", 1_750_280_500.25)
VERIFIED = replace(EVENT, signature="verified")


def test_hec() -> None:
    """Among the indexed fields."""
    envelope = Envelope(host=None, source=None, sourcetype=None, index=None)
    assert json.loads(envelope.wrap(EVENT))["fields"] == {"event_id": EVENT.id}
    assert json.loads(envelope.wrap(VERIFIED))["fields"] == {"event_id": EVENT.id, "signature": "verified"}


def test_sentinel() -> None:
    """A column of its own."""
    plain, tagged = sentinel.row(EVENT, dynamic=False), sentinel.row(VERIFIED, dynamic=False)
    assert isinstance(plain, bytes)
    assert isinstance(tagged, bytes)
    assert json.loads(tagged) == {**json.loads(plain), "Signature": "verified"}


def test_google_secops() -> None:
    """An ingestion label beside those of the configuration."""
    assert "labels" not in json.loads(google_secops.entry(EVENT))
    assert json.loads(google_secops.entry(VERIFIED))["labels"] == {"signature": {"value": "verified"}}
    assert json.loads(b'{"x":1' + google_secops.labels({"a": "b"}, "failed") + b"}")["labels"] == {
        "a": {"value": "b"},
        "signature": {"value": "failed"},
    }


@pytest.mark.parametrize(("format_", "place"), [("ecs", "kong"), ("ocsf", "unmapped")])
@pytest.mark.parametrize("line", [EVENT.line, b"no record at all"])
def test_schemas(format_: FormatName, place: str, line: bytes) -> None:
    """Where each schema has room for what it does not know."""
    plain = json.loads(Rewriting(format_).write(replace(EVENT, line=line)).line)
    tagged = json.loads(Rewriting(format_).write(replace(VERIFIED, line=line)).line)
    assert tagged == {**plain, place: {**plain.get(place, {}), "signature": "verified"}}


@pytest.mark.parametrize("format_", ["source", "cef", "json", "cps"])
def test_konnects_own_formats(format_: FormatName) -> None:
    """They have no place for it."""
    assert Rewriting(format_).write(VERIFIED) == Rewriting(format_).write(EVENT)
