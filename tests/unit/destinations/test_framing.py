"""How lines become one body."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.framing import as_json_array, as_ndjson, is_object, quoted
from tests.fakes.chunks import chunk_of, sample


@pytest.mark.parametrize("name", ["json", "cps"])
def test_objects_go_verbatim(name: str) -> None:
    """A line that is a JSON object keeps every byte, since its signature covers them."""
    lines = sample(name)
    chunk = chunk_of(lines[:10], lines[10:])

    assert b"".join(line + b"\n" for line in lines) == as_ndjson(chunk)
    assert b"[" + b",".join(lines) + b"]" == as_json_array(chunk)


def test_other_lines_are_wrapped() -> None:
    """CEF, free text and truncated JSON become an object with the line and its id."""
    lines = [sample("cef")[0], b"not a record at all", b'{"truncated":"by a proxy']
    chunk = chunk_of(lines)

    array = json.loads(as_json_array(chunk))

    expected = [{"message": e.line.decode(), "event_id": e.id} for e in chunk.events()]
    assert array == expected


def test_one_broken_line_spoils_nothing() -> None:
    """Whatever the lines look like, the body is valid JSON with one object for each, in order."""
    lines = [*sample("json"), *sample("edge_unproven"), b"\xff\xfe broken \x00 text", b"[1]", b"{}{}"]
    chunk = chunk_of(lines)

    array = json.loads(as_json_array(chunk))
    objects = [json.loads(text) for text in as_ndjson(chunk).splitlines()]

    assert len(array) == len(lines)
    assert objects == array
    assert all(isinstance(item, dict) for item in array)


def test_invalid_utf8_is_replaced_only_in_text() -> None:
    """JSON text cannot hold a stray byte, so the copy in it gets a replacement character."""
    assert '"a\ufffdb"'.encode() == quoted(b"a\xffb")


@given(st.binary(max_size=200))
def test_quoted_is_always_json(line: bytes) -> None:
    """Any bytes become one valid JSON string that says the same."""
    assert line.decode(errors="replace") == orjson.loads(quoted(line))


@given(st.binary(max_size=50))
def test_object_or_not(line: bytes) -> None:
    """Only what a JSON parser takes for an object passes as one."""
    try:
        parsed = json.loads(line.decode())
    except ValueError:
        parsed = None

    if is_object(line):
        assert isinstance(parsed, dict)
