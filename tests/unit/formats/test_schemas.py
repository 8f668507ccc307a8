"""ECS and OCSF as published, and the relay's documents against them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given

from relay.formats.write import Writing, write
from relay.konnect.parse import parse
from relay.konnect.record import Record
from tests.fakes.chunks import sample
from tests.fakes.records import records
from tests.unit.formats.schemas import against_ecs, against_ocsf

EVENT_ID = "0123456789abcdef0123456789abcdef-1"
RECEIVED_AT = 1_750_280_500.25
SAMPLES = [
    line
    for name in ("cef", "json", "cps", "json_docstyle_types", "documented_lines", "edge_unproven")
    for line in sample(name)
    if parse(line) is not None
]
AGAINST = {"ecs": against_ecs, "ocsf": against_ocsf}
BOTH: tuple[Writing, ...] = ("ecs", "ocsf")


def document(record: Record, writing: Writing, received: bytes = b"{}") -> dict[str, Any]:
    line = write(
        record, writing, event_id=EVENT_ID, received=received, source="konnect-us", received_at=RECEIVED_AT
    )
    assert b"\n" not in line
    assert b"\r" not in line
    found = orjson.loads(line)
    assert isinstance(found, dict)
    return found


def leaves(value: object) -> Iterator[object]:
    """Everything in a document that is no object and no array."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


@pytest.mark.parametrize("writing", BOTH)
@pytest.mark.parametrize("line", SAMPLES)
def test_every_sample_is_a_document_of_the_schema(line: bytes, writing: Writing) -> None:
    """No unknown name, nothing required left out, every value of its type and allowed."""
    record = parse(line)
    assert record is not None

    assert AGAINST[writing](document(record, writing, line)) == []


@pytest.mark.parametrize("writing", BOTH)
@given(record=records)
def test_anything_konnect_could_write_is_a_document_of_the_schema(writing: Writing, record: Record) -> None:
    """Whatever the values."""
    assert AGAINST[writing](document(record, writing)) == []


@pytest.mark.parametrize("writing", BOTH)
@pytest.mark.parametrize("name", [None, "", "Egress", "Ingress", "Authz.", "AUTHENTICATION_OUTCOME_"])
def test_nothing_known_is_still_a_document_of_the_schema(name: str | None, writing: Writing) -> None:
    """A name alone, or not even that."""
    assert AGAINST[writing](document(Record(name=name), writing)) == []


@pytest.mark.parametrize("writing", BOTH)
@given(record=records)
def test_no_value_is_lost(writing: Writing, record: Record) -> None:
    """Every field of Konnect's is somewhere in the document, if only as what it says."""
    line = write(record, "json", event_id=EVENT_ID, received=b"", source="us")
    said = {"rt", "success", "granted"}  # as time and outcome, whose own tests are below
    wanted = {v for n, v in orjson.loads(line).items() if n not in said}

    found = set(leaves(document(record, writing)))

    # An empty value is the same as none where the schema wants an id or an address, and an OCSF URL has its
    # query apart.
    missing = {v for v in wanted - found if v != "" and not (isinstance(v, str) and "?" in v)}
    assert missing == set()


@pytest.mark.parametrize("writing", BOTH)
def test_the_line_is_kept_as_it_came(writing: Writing) -> None:
    """The signature covers exactly these bytes."""
    line = sample("json")[20]
    record = parse(line)
    assert record is not None

    found = document(record, writing, line)

    assert (found["event"]["original"] if writing == "ecs" else found["raw_data"]) == line.decode()


@pytest.mark.parametrize("writing", BOTH)
def test_the_events_id_is_ours(writing: Writing) -> None:
    """The one that stays the same however often the event is sent."""
    found = document(Record(name="Ingress"), writing)

    assert (found["event"] if writing == "ecs" else found["metadata"])[
        "id" if writing == "ecs" else "uid"
    ] == EVENT_ID


@pytest.mark.parametrize("writing", BOTH)
def test_a_trace_id_is_text(writing: Writing) -> None:
    """A number of 64 bits would lose its last digits in most readers."""
    found = document(Record(name="Ingress", trace_id="18446744073709551615"), writing)

    assert "18446744073709551615" in list(leaves(found))


@pytest.mark.parametrize("writing", BOTH)
def test_a_doubt_is_told(writing: Writing) -> None:
    """And only where there is one."""
    found = document(Record(name="Ingress", doubtful=True), writing)

    assert (found["kong"] if writing == "ecs" else found["unmapped"])["doubtful"] is True
    assert b"doubtful" not in orjson.dumps(document(Record(name="Ingress"), writing))


@pytest.mark.parametrize("src", ["konnect.internal", "127.0.0.6:80", "fe80::1%eth0", "1.2.3", "9" * 5000])
def test_an_address_that_is_no_ip_address(src: str) -> None:
    """It is kept, but not where only an IP address may stand."""
    record = Record(name="Ingress", src=src)

    assert document(record, "ecs")["source"] == {"address": src}
    assert "related" not in document(record, "ecs")
    assert document(record, "ocsf")["src_endpoint"] == {"name": src}


@pytest.mark.parametrize(
    ("ms", "stamp", "record"),
    [
        (
            1_750_280_495_722,
            "2025-06-18T21:01:35.722Z",
            Record(rt=1_750_280_495_722, event_ts="2020-01-01T00:00:00Z"),
        ),
        (1_750_280_496_000, "2025-06-18T21:01:36.000Z", Record(event_ts="2025-06-18T21:01:36Z")),
        (1_750_280_500_250, "2025-06-18T21:01:40.250Z", Record(event_ts="Apr 14 05:39:08")),
        (1_750_280_500_250, "2025-06-18T21:01:40.250Z", Record(event_ts="2025-02-31T21:01:36Z")),
        (1_750_280_500_250, "2025-06-18T21:01:40.250Z", Record(extra=(("rt", "16738287345642"),))),
    ],
)
def test_when_it_happened(ms: int, stamp: str, record: Record) -> None:
    """By `rt`, else by the header's stamp, else by its arrival."""
    assert document(record, "ecs")["@timestamp"] == stamp
    assert document(record, "ocsf")["time"] == ms


def test_without_any_time_it_is_the_epoch() -> None:
    """Both schemas demand one."""
    line = write(Record(), "ecs", event_id=EVENT_ID, received=b"", source="us")

    assert orjson.loads(line)["@timestamp"] == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("name", "full_name", "email"),
    [
        ("Jane Doe (jane@example.com)", "Jane Doe", "jane@example.com"),
        ("Jane (JD) Doe (jane@example.com)", "Jane (JD) Doe", "jane@example.com"),
        ("jane@example.com", None, "jane@example.com"),
        ("Jane Doe", "Jane Doe", None),
        ("Jane (Doe)", "Jane (Doe)", None),
        ("Jane (a b@c)", "Jane (a b@c)", None),
    ],
)
def test_a_name_and_an_address(name: str, full_name: str | None, email: str | None) -> None:
    """Told apart where both are there; the whole stays the user's name."""
    record = Record(name="Ingress", principal_id="p", principal_name=name)
    known = {"full_name": full_name} if full_name else {}

    assert document(record, "ecs")["user"] == {
        "id": "p",
        "name": name,
        **known,
        **({"email": email} if email else {}),
    }
    assert document(record, "ocsf")["actor"]["user"] == {
        "uid": "p",
        "name": name,
        **known,
        **({"email_addr": email} if email else {}),
    }


@pytest.mark.parametrize(
    ("request_", "query", "path", "expected"),
    [
        ("/x", '{"end":"2","start":"1 & 2"}', "/x", "end=2&start=1+%26+2"),
        ("/x", '{"a":["1","2"]}', "/x", "a=1&a=2"),
        ("/x", "{}", "/x", None),
        ("/x", "", "/x", None),
        ("/x", "filter=active", "/x", "filter=active"),
        ("/x", "[1]", "/x", "[1]"),
        ("/x?a=b", "{}", "/x", "a=b"),
        ("/x?a=b", '{"a":"c"}', "/x", "a=b"),
    ],
)
def test_a_path_and_its_query(request_: str, query: str, path: str, expected: str | None) -> None:
    """Konnect's JSON becomes a query string again; its own writing is kept as well."""
    record = Record(name="Ingress", request=request_, query=query)

    url = document(record, "ecs")["url"]

    assert (url["original"], url["path"], url.get("query")) == (request_, path, expected)
    assert document(record, "ecs")["kong"]["query"] == query
    assert document(record, "ocsf")["http_request"]["url"].get("query_string") == expected
    assert document(record, "ocsf")["unmapped"]["query"] == query


def test_what_nobody_documented() -> None:
    """In ECS as text, so that no unforeseen name makes a field of an index; in OCSF as it came."""
    record = Record(name="Ingress", extra=(("new", {"a": [1, 2**70]}), ("rt", "16738287345642")))

    extra = f'{{"new":{{"a":[1,{2**70}]}},"rt":"16738287345642"}}'
    assert document(record, "ecs")["kong"]["extra"] == extra
    line = write(record, "ocsf", event_id=EVENT_ID, received=b"", source="us")
    assert f'"unmapped":{extra}'.encode() in line


@pytest.mark.parametrize("writing", ["json", "cps", "cef", "ecs", "ocsf"])
def test_whatever_was_read_can_be_written(writing: Writing) -> None:
    """However deep Konnect's fields may become nested: what is read at all is no trouble to a writer."""
    for depth in (1, 30):
        record = parse(b'{"name":"Ingress","x":' + b"[" * depth + b"1" + b"]" * depth + b"}")
        assert record is not None

        line = write(record, writing, event_id=EVENT_ID, received=b"", source="us")

        assert b"[" * depth + b"1" + b"]" * depth in line


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    """The field for the line takes text only."""
    assert document(Record(), "ecs", b"\xff\n")["event"]["original"] == "�\n"


@pytest.mark.parametrize(
    ("expected", "record"),
    [
        (("authentication", "start", "success"), Record(name="AUTHENTICATION_OUTCOME_SUCCESS", success=True)),
        (("authentication", "start", "failure"), Record(name="AUTHENTICATION_OUTCOME_LOCKED", success=False)),
        (("authentication", "start", "unknown"), Record(name="AUTHENTICATION_OUTCOME_LOCKED")),
        (("api", "allowed", "success"), Record(name="Authz.portals", granted=True)),
        (("api", "denied", "failure"), Record(name="Authz.portals", granted=False)),
        (("api", "info", "unknown"), Record(name="Authz.portals")),
        (("web", "access", "success"), Record(name="Ingress", status=399)),
        (("web", "access", "failure"), Record(name="Ingress", status=400)),
        (("web", "access", "unknown"), Record(name="Ingress")),
        ((None, "info", "unknown"), Record(name="Egress")),
    ],
)
def test_ecs_categories(expected: tuple[str | None, str, str], record: Record) -> None:
    """Told by the name, the outcome by what the event says."""
    event = document(record, "ecs")["event"]
    category, *_ = event.get("category", [None])

    assert (category, event["type"][0], event["outcome"]) == expected


def test_a_server_error_is_an_error_in_ecs() -> None:
    """Besides an access."""
    assert document(Record(name="Ingress", status=500), "ecs")["event"]["type"] == ["access", "error"]


@pytest.mark.parametrize(
    ("type_uid", "status_id", "record"),
    [
        (300201, 1, Record(name="AUTHENTICATION_OUTCOME_SUCCESS", success=True)),
        (300201, 2, Record(name="AUTHENTICATION_OUTCOME_LOCKED", success=False)),
        (300399, 1, Record(name="Authz.portals", granted=True, action="list")),
        (300399, 2, Record(name="Authz.portals", granted=False, action="list")),
        (300300, 0, Record(name="Authz.portals")),
        (600301, 1, Record(name="Ingress", status=201, act="POST")),
        (600302, 2, Record(name="Ingress", status=404, act="GET")),
        (600303, 1, Record(name="Ingress", status=200, act="PATCH")),
        (600304, 1, Record(name="Ingress", status=204, act="DELETE")),
        (600399, 1, Record(name="Ingress", status=200, act="QUERY")),
        (600300, 0, Record(name="Ingress")),
        (0, 0, Record(name="Egress")),
    ],
)
def test_ocsf_classes(type_uid: int, status_id: int, record: Record) -> None:
    """Class by the name, activity by the method, status by what the event says."""
    event = document(record, "ocsf")

    assert (event["type_uid"], event["status_id"]) == (type_uid, status_id)


@pytest.mark.parametrize(
    ("severity", "severity_id"),
    [(None, 0), (0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (6, 3), (7, 4), (9, 5), (10, 5), (11, 99), (99, 99)],
)
def test_ocsf_severities(severity: int | None, severity_id: int) -> None:
    """Konnect's numbers are CEF's; the number itself is kept."""
    event = document(Record(name="Ingress", severity=severity), "ocsf")

    assert event["severity_id"] == severity_id
    assert event.get("unmapped", {}).get("severity") == severity
    assert against_ocsf(event) == []


def test_an_authorization_says_what_was_asked_for() -> None:
    """As the one privilege in question."""
    event = document(Record(name="Authz.control-planes/*", action="list", granted=True), "ocsf")

    assert event["privileges"] == ["control-planes/*:list"]
    assert event["activity_name"] == "list"
    assert event["message"] == "list control-planes/* granted"


def test_an_unknown_type_keeps_everything_unmapped() -> None:
    """A Base Event has hardly a field of its own."""
    record = replace(Record(name="Egress"), src="::1", principal_id="p", act="GET", granted=False)

    event = document(record, "ocsf")

    assert event["unmapped"] == {"src": "::1", "principal_id": "p", "granted": False, "act": "GET"}
    assert event["status_id"] == 2


@pytest.mark.parametrize(
    ("complaint", "document_"),
    [
        ("event.new is no field of ECS", {"event": {"kind": "event", "new": 1}}),
        ("event.kind: 'x' is not allowed", {"event": {"kind": "x"}}),
        ("event.type is no array", {"event": {"type": "info"}}),
        ("source.ip: 5 is no ip", {"source": {"ip": 5}}),
        ("@timestamp is missing", {}),
    ],
)
def test_the_check_of_ecs_itself(complaint: str, document_: dict[str, Any]) -> None:
    """A check that never complains would prove nothing."""
    assert complaint in against_ecs(document_)


def test_the_check_of_ocsf_itself() -> None:
    """Here too."""
    good = document(Record(name="Ingress", src="::1", act="GET"), "ocsf")

    assert against_ocsf({**good, "new": 1}) == ["new is no attribute"]
    assert against_ocsf({k: v for k, v in good.items() if k != "api"}) == ["api is missing"]
    assert against_ocsf({**good, "status_id": 3, "status": "x"})[0] == "status_id: 3 is not allowed"
    assert against_ocsf({**good, "src_endpoint": {}}) != []
    assert against_ocsf({**good, "time": "now"}) == ["time: 'now' is no timestamp_t"]
