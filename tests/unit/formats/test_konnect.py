"""Records in Konnect's own three writings."""

from __future__ import annotations

import re

import orjson
import pytest
from hypothesis import given

from relay.formats.write import Writing, write
from relay.konnect.lines import format_of
from relay.konnect.parse import parse
from relay.konnect.record import Record
from tests.fakes.chunks import sample
from tests.fakes.records import records

KONNECTS: tuple[Writing, ...] = ("cef", "json", "cps")


def written(record: Record, writing: Writing) -> bytes:
    return write(record, writing, event_id="0" * 32, received=b"", source="us")


def read(line: bytes) -> Record:
    record = parse(line)
    assert record is not None
    return record


@pytest.mark.parametrize("writing", KONNECTS)
def test_a_sample_comes_out_as_konnect_wrote_it(writing: Writing) -> None:
    """Byte for byte, but for trace ids, which are text: the orders of keys are Konnect's."""
    as_text = re.compile(rb'"trace_id":(\d+)')

    for line in sample(writing):
        assert written(read(line), writing) == as_text.sub(rb'"trace_id":"\1"', line)


@pytest.mark.parametrize("into", KONNECTS)
@pytest.mark.parametrize("out_of", KONNECTS)
def test_a_sample_in_another_writing_is_the_same_event(out_of: Writing, into: Writing) -> None:
    """Each of the three says all that the others say."""
    for line in sample(out_of):
        converted = written(read(line), into)

        assert format_of(converted) == into
        assert read(converted) == read(line)


@given(records)
def test_cef_to_json_to_cps_to_cef_keeps_every_field(record: Record) -> None:
    """Of anything that Konnect could have written."""
    there = record
    for writing in ("cef", "json", "cps", "cef"):
        there = read(written(there, writing))

        assert there == record


@given(records)
def test_json_of_json_is_the_same(record: Record) -> None:
    """What was written once is written the same again."""
    once = written(record, "json")

    assert written(read(once), "json") == once


@pytest.mark.parametrize("writing", KONNECTS)
@pytest.mark.parametrize("field", ["user_agent", "name", "event_ts", "cef_version", "new"])
def test_a_line_stays_a_line(field: str, writing: Writing) -> None:
    """Line ends in a value cannot start another event."""
    text = "a\r\nb\nc"
    known = {} if field == "new" else {field: text}
    record = Record(**known, extra=((field, text),) if field == "new" else ())  # type: ignore[arg-type]

    line = written(record, writing)

    assert b"\n" not in line
    assert b"\r" not in line


@pytest.mark.parametrize(
    ("field", "value"),
    [("rt", "3958q3097698"), ("rt", "16738287345642"), ("status", "2xx"), ("severity", "high")],
)
def test_what_could_not_be_typed_stands_in_its_place(field: str, value: str) -> None:
    """A writer gives it out as it came, in every writing."""
    line = orjson.dumps({"name": "Ingress", "org_id": "o", field: value})

    for writing in KONNECTS:
        assert read(written(read(line), writing)).extra == ((field, value),)


def test_an_odd_rt_comes_first_in_cef() -> None:
    """Where Konnect has it."""
    line = sample("documented_lines")[3]

    assert written(read(line), "cef") == line


@pytest.mark.parametrize("writing", ["json", "cps"])
def test_undocumented_fields_are_kept_exactly(writing: Writing) -> None:
    """Whatever their type or size, in alphabetical order with the signature last."""
    line = b'{"a":{"b":[1,2.5,null]},"name":"Ingress","z":%d,"sig":"S"}' % 2**80

    assert written(read(line), writing) == (line if writing == "json" else b'{"event":%s}' % line)


def test_an_undocumented_field_survives_cef() -> None:
    """Among Konnect's own values it can be told from text; what is no text becomes JSON."""
    record = Record(
        name="Authz.x",
        rt=1_750_280_481_992,
        src="::1",
        action="list",
        granted=True,
        org_id="o",
        extra=(("new", [1]),),
    )

    assert read(written(record, "cef")).extra == (("new", "[1]"),)


def test_pipes_in_a_header_are_escaped() -> None:
    """Or the fields behind would move."""
    record = Record(event_vendor="K|1", event_product="K\\", name="a|b\\", severity=1)

    line = written(record, "cef")

    assert line == rb"konghq.com CEF:0|K\|1|K\\|||a\|b\\|1|"
    found = read(line)
    assert (found.event_vendor, found.event_product, found.name, found.severity) == ("K|1", "K\\", "a|b\\", 1)


def test_a_backslash_alone_is_not_escaped() -> None:
    """Konnect does not do so either."""
    assert b"|a\\b|" in written(Record(name="a\\b"), "cef")


@pytest.mark.parametrize("writing", KONNECTS)
def test_nothing_known_is_still_an_event(writing: Writing) -> None:
    """A record without a field gives a line of its format."""
    assert format_of(written(Record(), writing)) == ("json" if writing == "json" else writing)


def test_what_konnect_started_is_believed_by_a_filter() -> None:
    """It stands in front of anything a caller chose."""
    line = written(Record(name="Ingress", kong_initiated=True, request="/x", rt=1_750_280_481_992), "cef")

    assert b" kong_initiated=true request=/x" in line


@pytest.mark.parametrize("writing", KONNECTS)
def test_a_lone_surrogate_fails_nothing(writing: Writing) -> None:
    """It cannot be written as UTF-8 and becomes a question mark."""
    assert b"a?b" in written(Record(name="x", user_agent="a\ud800b"), writing)
