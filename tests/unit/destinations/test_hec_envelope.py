"""The text of Splunk's envelope."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.hec_envelope import Envelope, payload
from relay.konnect.lines import format_of
from relay.model import Event
from tests.fakes.chunks import RECEIVED_AT, sample


def event(line: bytes) -> Event:
    return Event("0" * 32, line, format_of(line), "konnect-us", RECEIVED_AT)


def test_cef_line() -> None:
    """A CEF line stands as a string beside its metadata, with the time from `rt`."""
    envelope = Envelope(host="konghq.com", source="konnect", sourcetype="kong:cef", index="audit")
    line = sample("cef")[0]

    wrapped = envelope.wrap(event(line))

    assert wrapped.startswith(b'{"time":1750280466.889,"host":"konghq.com",')
    expected = {
        "time": 1750280466.889,
        "host": "konghq.com",
        "source": "konnect",
        "sourcetype": "kong:cef",
        "index": "audit",
        "event": line.decode(),
        "fields": {"event_id": "0" * 32},
    }
    assert json.loads(wrapped) == expected


def test_nothing_set() -> None:
    """Keys without a value are left out, so that the token's defaults apply."""
    envelope = Envelope(host=None, source=None, sourcetype=None, index=None)

    assert {"time", "event", "fields"} == json.loads(envelope.wrap(event(b"x"))).keys()


def test_metadata_is_escaped() -> None:
    """A quote in a setting stays inside its string."""
    envelope = Envelope(host='a","index":"b', source=None, sourcetype=None, index=None)

    assert json.loads(envelope.wrap(event(b"x")))["host"] == 'a","index":"b'


@pytest.mark.parametrize("name", ["json", "cps"])
def test_object_bytes_are_kept(name: str) -> None:
    """JSON goes in byte for byte; of CPS the inner object."""
    for line in sample(name):
        inner = line if name == "json" else line.removeprefix(b'{"event":')[:-1]
        assert payload(line) == inner


def test_cps_with_something_beside_the_event() -> None:
    """A signature beside `event` must not get lost: the whole object goes in."""
    line = b'{"event":{"name":"Ingress"},"sig":"abc"}'

    assert payload(line) == line


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":{"a":1},"index":"stolen"}',
        b'{"event":{"a":1},"event":{"b":2}}',
        b'{"event":{"a":1}}{"event":{"b":2}}',
        b'{"event":"a string"}',
        b'{"event":}',
        b'{"a":1}}',
        b"{",
        b'"',
        b"\xff",
    ],
)
def test_a_line_cannot_break_out(line: bytes) -> None:
    """No line adds a key to the envelope or an object behind it, which would lose events behind a 200."""
    envelope = Envelope(host=None, source=None, sourcetype=None, index=None)

    parsed = json.loads(envelope.wrap(event(line)))

    assert {"time", "event", "fields"} == parsed.keys()
    assert parsed["fields"] == {"event_id": "0" * 32}


def test_time_has_three_decimals() -> None:
    """Splunk 10 refuses exponents and our own rounding must not move an event."""
    envelope = Envelope(host=None, source=None, sourcetype=None, index=None)

    wrapped = envelope.wrap(event(b"CEF:0|K|K|1.0|a|b|0|rt=1750280466007 "))

    assert wrapped.startswith(b'{"time":1750280466.007,')


@given(st.binary(min_size=1, max_size=100).filter(lambda line: b"\n" not in line))
def test_always_one_object(line: bytes) -> None:
    """Any line gives exactly one JSON object with the known keys."""
    envelope = Envelope(host="h", source="s", sourcetype="t", index="i")

    parsed = json.loads(envelope.wrap(event(line)))

    assert {"time", "host", "source", "sourcetype", "index", "event", "fields"} == parsed.keys()


def test_overhead_is_what_wrapping_adds() -> None:
    """Chunks are cut by it, so it must not be too small."""
    envelope = Envelope(host="konghq.com", source="konnect", sourcetype=None, index="audit")
    line = b"plain text without escapes"

    added = len(envelope.wrap(event(line))) - len(line)

    assert added <= envelope.overhead <= added + 8
