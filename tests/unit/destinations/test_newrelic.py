"""What New Relic's answers mean, and what becomes of an event's fields."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.classify import Reply
from relay.destinations.newrelic import judge, payload, write
from relay.konnect.lines import format_of
from relay.model import Event
from tests.fakes.chunks import RECEIVED_AT


def event(line: bytes) -> Event:
    return Event("0" * 32, line, format_of(line), "konnect-us", RECEIVED_AT)


def attributes(line: bytes) -> dict[str, object]:
    """The attributes of the log that *line* becomes, but for those it always has."""
    found = json.loads(write(event(line)))["attributes"]
    return {key: value for key, value in found.items() if key not in {"kong.event_id", "kong.source"}}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (202, Delivered),
        (200, Misconfigured),
        (204, Misconfigured),
        (400, Rejected),
        (401, Misconfigured),
        (403, Misconfigured),
        (404, Misconfigured),
        (408, Transient),
        (413, TooLarge),
        (415, Misconfigured),
        (429, Throttled),
        (500, Transient),
        (503, Transient),
    ],
)
def test_table(status: int, expected: type[Outcome]) -> None:
    """Each documented status, and successes that are none of New Relic's."""
    assert type(judge(Reply(status, body=b"{}"), 3, 0.0)) is expected


def test_plain_fields() -> None:
    """Text, numbers and truth values are attributes; what is null is none."""
    line = b'{"a":"x","b":1,"c":1.5,"d":true,"e":null,"trace_id":18446744073709551616}'

    assert attributes(line) == {
        "kong.audit.a": "x",
        "kong.audit.b": 1,
        "kong.audit.c": 1.5,
        "kong.audit.d": True,
        "kong.audit.trace_id": "18446744073709551616",
    }


@pytest.mark.parametrize("nested", [b'{"b":[1]}', b"[]", b"[" * 500 + b"]" * 500])
def test_nested_fields(nested: bytes) -> None:
    """What cannot be an attribute is not lost: the whole object stands beside the others as text."""
    line = b'{"a":"x","n":%b}' % nested

    assert attributes(line) == {"kong.audit.a": "x", "kong.audit": line.decode()}


def test_too_many_fields() -> None:
    """New Relic drops what exceeds 255 attributes, so the rest is kept as text."""
    content = {f"k{n}": n for n in range(300)}

    found = attributes(json.dumps(content).encode())

    assert len(found) == 201
    assert json.loads(str(found["kong.audit"])) == content


def test_no_fields() -> None:
    """An empty object is one, and has no attributes."""
    assert attributes(b"{}") == {}


@given(
    st.lists(
        st.binary(min_size=1, max_size=80).filter(lambda line: b"\n" not in line), min_size=1, max_size=4
    )
)
def test_always_one_group(lines: list[bytes]) -> None:
    """Any lines give one group with a log for each."""
    (group,) = json.loads(payload([write(event(line)) for line in lines], common={"a": "b"}))

    assert group["common"] == {"attributes": {"a": "b"}}
    assert len(group["logs"]) == len(lines)
    for log, line in zip(group["logs"], lines, strict=True):
        if not line.startswith(b"{"):
            assert log["message"] == line.decode(errors="replace")
    assert all(log.keys() == {"timestamp", "message", "attributes"} for log in group["logs"])


@given(
    st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**63 - 1) | st.none() | st.lists(st.text()))
)
def test_any_object(content: dict[str, object]) -> None:
    """Whatever an object holds, it adds attributes below `kong.audit` and nothing else."""
    log = json.loads(write(event(json.dumps(content).encode())))

    assert log.keys() == {"timestamp", "message", "attributes"}
    assert all(key.startswith("kong.") for key in log["attributes"])
    assert not any(isinstance(value, dict | list) for value in log["attributes"].values())


@pytest.mark.parametrize("line", [b'{"a":1}},{"message":"x"}', b'"}},{"message":"x', b'{"event":{"a":1}}]}]'])
def test_a_line_cannot_break_out(line: bytes) -> None:
    """No line adds a log or a group."""
    (group,) = json.loads(payload([write(event(line))], common={}))

    (log,) = group["logs"]
    assert log["message"] == line.decode()
