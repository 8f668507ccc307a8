"""Objects, names and times taken from lines."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.records import headline, iso_time, record
from relay.konnect.lines import format_of
from relay.model import Event
from tests.fakes.chunks import RECEIVED_AT, sample

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["trace_id", 'x"trace_id', "a"]) | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


def event(line: bytes) -> Event:
    return Event("0" * 32, line, format_of(line), "konnect-us", RECEIVED_AT)


@pytest.mark.parametrize("name", ["json", "cps"])
def test_only_the_trace_id_changes(name: str) -> None:
    """Every byte of Konnect's object stays but for two quotes around the number."""
    for line, inner in zip(sample(name), sample("json"), strict=True):
        found = record(line)

        assert found is not None
        assert json.loads(found)["trace_id"] == str(json.loads(inner)["trace_id"])
        digits = str(json.loads(inner)["trace_id"]).encode()
        assert found == inner.replace(b'"trace_id":%b,' % digits, b'"trace_id":"%b",' % digits)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"trace_id":18446744073709551616}', b'{"trace_id":"18446744073709551616"}'),
        (b'{"trace_id" : -7 , "a":1}', b'{"trace_id" : "-7" , "a":1}'),
        (b'{"trace_id":"7"}', b'{"trace_id":"7"}'),
        (b'{"trace_id":1.5}', b'{"trace_id":1.5}'),
        (b'{"user_agent":"\\"trace_id\\":1,"}', b'{"user_agent":"\\"trace_id\\":1,"}'),
        (b'{"a":"trace_id:1,"}', b'{"a":"trace_id:1,"}'),
        (b'{"event":{"trace_id":7},"sig":"x"}', b'{"event":{"trace_id":"7"},"sig":"x"}'),
        (b'{"trace_id":7', None),
        (b'{"a":1}{"b":2}', None),
        (b"[1]", None),
        (b"CEF:0|", None),
        (b"", None),
    ],
)
def test_objects(line: bytes, expected: bytes | None) -> None:
    """A number becomes its digits, whatever its size; values that look like one stay as they are."""
    assert record(line) == expected


def with_text(value: object) -> object:
    """The same, with numbers called trace_id as text."""
    if isinstance(value, list):
        return [with_text(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: str(inner) if key == "trace_id" and type(inner) is int else with_text(inner)
        for key, inner in value.items()
    }


@given(st.dictionaries(st.sampled_from(["trace_id", "name"]) | st.text(), JSON, max_size=5))
def test_any_object(content: dict[str, object]) -> None:
    """Whatever an object holds, only numbers called trace_id become text, and all else stays as it was."""
    found = record(json.dumps(content, separators=(",", ":")).encode())

    assert found is not None
    assert json.loads(found) == with_text(json.loads(json.dumps(content)))


def test_headline() -> None:
    """An event is called by its name, however it is written; one without a name is called something."""
    assert headline(event(sample("json")[0])) == b'"AUTHENTICATION_OUTCOME_SUCCESS"'
    assert headline(event(sample("cef")[0])) == b'"AUTHENTICATION_OUTCOME_SUCCESS"'
    assert headline(event(b'{"name":"a\\"b"}')) == b'"a\\"b"'
    assert headline(event(b"?")) == b'"Konnect audit event"'


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (1750280466889, b"2025-06-18T21:01:06.889Z"),
        (0, b"1970-01-01T00:00:00.000Z"),
        (-1, b"1969-12-31T23:59:59.999Z"),
        (9999999999999, b"2286-11-20T17:46:39.999Z"),
        (253402300800000, b"9999-12-31T23:59:59.999Z"),
    ],
)
def test_time(ms: int, expected: bytes) -> None:
    """Milliseconds are kept to the digit, and no year has five of them."""
    assert iso_time(ms) == expected
