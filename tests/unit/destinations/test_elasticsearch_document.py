"""The documents of Elasticsearch, and that no line gets out of its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.elasticsearch import ElasticsearchConfig, action, document, documents, ecs_document
from relay.konnect.lines import format_of
from relay.model import Event, Format
from tests.fakes.chunks import RECEIVED_AT, sample

SETTINGS = {"name": "es", "type": "elasticsearch", "url": "https://es.example.com"}


def event(line: bytes, received: bytes | None = None) -> Event:
    return Event("0" * 32, line, format_of(line), "konnect-us", RECEIVED_AT, received)


def test_a_rewritten_event_keeps_its_original() -> None:
    """What was received stands in `event.original`, since a signature covers exactly those bytes."""
    cef, record = sample("cef")[0], sample("json")[0]

    written = json.loads(document(event(record, cef), labels=b""))

    assert written["event"] == {"id": "0" * 32, "original": cef.decode()}
    assert written["message"] == record.decode()
    assert written["kong"]["audit"]["name"] == "AUTHENTICATION_OUTCOME_SUCCESS"


def test_ecs_goes_in_as_it_is() -> None:
    """A line already in the common schema is the document."""
    line = b'{"@timestamp":"2025-06-18T21:01:06.889Z","event":{"kind":"event"}}'

    assert ecs_document(Event("0", line, Format.JSON, "s", 0.0, b"CEF:0|"), labels=b"") == line


@pytest.mark.parametrize("line", [b"could not be converted", b'{"name":"Ingress"}'])
def test_what_is_not_ecs_is_wrapped(line: bytes) -> None:
    """A line that could not be converted comes as received and gets our document."""
    assert ecs_document(event(line), labels=b"") == document(event(line), labels=b"")


def test_labels() -> None:
    """Labels go into every document, escaped."""
    config = ElasticsearchConfig.model_validate({**SETTINGS, "labels": {'a"b': "c\nd"}})

    assert json.loads(documents(config)(event(b"x")))["labels"] == {'a"b': "c\nd"}


@given(st.binary(min_size=1, max_size=100).filter(lambda line: b"\n" not in line), st.booleans())
def test_always_two_lines(line: bytes, own_ids: bool) -> None:
    """Any line gives one action and one document with the known fields."""
    written = action(
        event(line), document=documents(ElasticsearchConfig.model_validate(SETTINGS)), own_ids=own_ids
    )

    first, second, end = written.split(b"\n")
    assert end == b""
    assert json.loads(first) == {"create": {"_id": "0" * 32} if own_ids else {}}
    assert json.loads(second).keys() == {"@timestamp", "event", "message", "kong"}
    assert json.loads(second)["message"] == line.decode(errors="replace")


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":1},"_id":"stolen"}',
        b'{"a":1}}',
        b'{"event":{"a":1},"x":{}}',
        b'"},"labels":{"a":"b"}',
        b'{"a":1}\r{"delete":{"_id":"1"}}',
    ],
)
def test_a_line_cannot_break_out(line: bytes) -> None:
    """No line adds a field to its document or an action to the request."""
    written = document(event(line), labels=b"")

    assert b"\n" not in written
    assert json.loads(written).keys() == {"@timestamp", "event", "message", "kong"}
    assert json.loads(written)["kong"].keys() <= {"source", "audit"}
