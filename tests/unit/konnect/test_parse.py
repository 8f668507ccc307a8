"""One line as a record."""

from __future__ import annotations

import re
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.konnect.parse import parse
from relay.konnect.record import Record
from tests.fakes.chunks import sample

ORG = "b065b594-6afc-4658-9101-5d9cf3f36b7b"
PRINCIPAL = "87655c36-8d63-48fe-9a1e-53b28dfbc19b"
EDGES = sample("edge_unproven")
ALL_SAMPLES = [
    line
    for name in ("cef", "json", "cps", "cps_sig_over_wrapper", "json_docstyle_types", "documented_lines")
    for line in sample(name)
] + EDGES

PERMISSION = Record(
    cef_version="0",
    event_ts="2025-06-18T21:01:21Z",
    event_vendor="KongInc",
    event_product="Konnect",
    event_version="1.0",
    event_class_id="konnect",
    name="Authz.portals",
    severity=1,
    rt=1_750_280_481_992,
    src="127.0.0.6",
    action="retrieve",
    granted=True,
    org_id=ORG,
    principal_id=PRINCIPAL,
    actor_id="",
    trace_id="3360194145499885171",
)
"""What the first lines of edge_unproven.txt have in common."""


def read(line: bytes) -> Record:
    record = parse(line)
    assert record is not None
    return record


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not a record at all",
        b'{"truncated":"by a proxy',
        b'{"event":"a string, not an object"}',
        b'{"event":["a list"]}',
        b'{"a":1}{"b":2}',
        b"[]",
        b"7",
        b"null",
        b'{"rt":NaN}',
        b'{"rt":1e999}',
        b'{"deep":' + b"[" * 100_000,
        b'{"deep":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"event":{"deep":' + b'{"x":' * 40 + b"1" + b"}" * 42,
        b'{"long":' + b"9" * 10_000 + b"}",
        b"CEF:0|KongInc|Konnect|1.0|class|name|6",
        b"2025-06-18T21:01:21Z konghq.com CEF:0",
        b"x" * 100 + b"CEF:0|KongInc|Konnect|1.0|konnect|Authz.portals|1|rt=1750280481992",
    ],
)
def test_no_readable_event(line: bytes) -> None:
    """What is no event is no record."""
    assert parse(line) is None


@pytest.mark.parametrize(
    ("expected", "line"),
    [
        pytest.param(
            replace(
                PERMISSION,
                user_agent="evil sig=AAAA principal_id=00000000-0000-0000-0000-000000000000",
                sig="_LNqq7LUBAnHzrNXEmXTwGyQ9Brmx4C0LQMf1n2yjLURJuLSfPngQKsoU_bl_ByRlQyY-V1TMdHqriTsaUi5Bg",
                doubtful=True,
            ),
            EDGES[0],
            id="forged signature and principal",
        ),
        pytest.param(
            replace(
                PERMISSION,
                user_agent="a|b=c\\d é中 <x>&y",
                sig="H9Jatbrw1yhvK3J_5-wEALGOq0k6xbiB7imdzowTrQh4KVnk390tKLGiDLtYPzqpyZFmHBZfOBhymPHJtsGGCg",
            ),
            EDGES[1],
            id="nothing escaped",
        ),
        pytest.param(
            replace(
                PERMISSION,
                user_agent="curl/8.0",
                principal_name="Jane Doe (jane@example.com) kong_initiated=true",
                sig="ZSXq89NCcvWMgpx-33gLkK7dhtQir1izycUUd0pZOacRQyB2eZnhF17Z_Uo2WRN9lOubU7b6-iUkZXADtbjaBw",
                doubtful=True,
            ),
            EDGES[2],
            id="a name is found behind a user agent, what Konnect started is not believed there",
        ),
        pytest.param(
            Record(
                cef_version="0",
                event_ts="2025-06-18T21:01:09Z",
                event_vendor="KongInc",
                event_product="Konnect",
                event_version="1.0",
                event_class_id="AUTHENTICATION_TYPE_BASIC",
                name="AUTHENTICATION_OUTCOME_INVALID_PASSWORD",
                severity=1,
                rt=1_750_280_469_635,
                src="127.0.0.6",
                request="/api/v1/authenticate",
                success=False,
                org_id=ORG,
                principal_id="",
                trace_id="8809518331550410226",
                user_agent="grpc-node-js/1.8.10",
            ),
            EDGES[3],
            id="unsigned, nobody logged in",
        ),
        pytest.param(
            replace(
                PERMISSION,
                user_agent='q"uote sig=AAAA ,"sig":"AAAA"',
                sig="6XPABgIjZxjekt3PfYvOg7zilE93FWUKtIMc38hSiZMHh7OO0omsTK16Y5gwkCV4ow-G3moSvK1bWXQNMT81CA",
            ),
            EDGES[4],
            id="JSON quotes",
        ),
        pytest.param(
            replace(
                PERMISSION,
                user_agent="a<b>&c",
                sig="qybRAZOJOMbIlcmDT1djCXUgT2XZs4pIH-qrfPLiueJQscQQO7Sk0ZrrRj6zySzi-qmVPmWvdSrRLYMn9qhzDw",
            ),
            EDGES[5],
            id="escapes of Go",
        ),
        pytest.param(
            replace(
                PERMISSION,
                user_agent="x",
                principal_name="Jane Doe (jane@example.com)",
                kong_initiated=True,
                sig="KdyiC245l7i3HBB-CwAj8xHj-1N4OpH1oXBraj8VaeNzN5abu0YynGyWQH1v3YRJe9P4z9GeNcFzxQq3_i4DCQ",
            ),
            EDGES[6],
            id="JSON with a name",
        ),
        pytest.param(None, EDGES[7], id="a comma behind the last field is no JSON"),
        pytest.param(None, EDGES[8], id="no record at all"),
        pytest.param(None, EDGES[9], id="truncated"),
        pytest.param(None, EDGES[10], id="event is a string"),
        pytest.param(Record(), EDGES[11], id="an object with nothing in it"),
    ],
)
def test_edges(expected: Record | None, line: bytes) -> None:
    """Each line nobody has seen of Konnect yet, and what is made of it."""
    assert parse(line) == expected


def test_every_edge_has_an_expectation() -> None:
    """A line added to the file is noticed."""
    assert len(EDGES) == 12


@pytest.mark.parametrize(
    ("cef", "json", "cps"), list(zip(sample("cef"), sample("json"), sample("cps"), strict=True))
)
def test_the_same_event_in_three_formats_is_the_same_record(cef: bytes, json: bytes, cps: bytes) -> None:
    """Only the signature differs, since it covers other bytes."""
    assert read(json) == read(cps)
    assert replace(read(cef), sig=None) == replace(read(json), sig=None)
    assert len(read(cef).sig or "") == 86


@pytest.mark.parametrize("line", sample("json"))
def test_a_record_holds_what_the_line_holds(line: bytes) -> None:
    """Every field of a sample comes back under its name, with its type, and nothing besides."""
    record = read(line)
    fields = orjson.loads(line)

    assert record.extra == ()
    assert {name: getattr(record, name) for name in fields} == {**fields, "trace_id": str(fields["trace_id"])}


@pytest.mark.parametrize(
    ("documented", "sent"), list(zip(sample("json_docstyle_types"), sample("json"), strict=True))
)
def test_the_documentations_types_are_understood(documented: bytes, sent: bytes) -> None:
    """Numbers and booleans as text, text as numbers: the same event."""
    assert read(documented) == read(sent)


def test_a_signature_beside_the_event_is_taken() -> None:
    """Where CPS has it is not known."""
    assert read(b'{"event":{"name":"Ingress"},"sig":"AAAA"}') == Record(name="Ingress", sig="AAAA")


def test_nothing_beside_an_event_replaces_what_is_in_it() -> None:
    """What stands beside is kept, but the inner object comes first."""
    line = b'{"event":{"name":"Ingress","sig":"in"},"sig":"out","host":"h"}'

    assert read(line) == Record(name="Ingress", sig="in", extra=(("host", "h"),))


@pytest.mark.parametrize("text", [b"3958q3097698", b"16738287345642", b"", b"-1", "１750280481992".encode()])
def test_an_rt_that_is_no_time_stays_text(text: bytes) -> None:
    """It fails nothing and is not lost."""
    cef = read(b"CEF:0|K|K|1|c|Authz.x|1|rt=" + text + b" src=1.2.3.4")
    json = read(b'{"rt":"' + text + b'"}')

    assert cef.rt is None
    assert json.rt is None
    assert cef.extra == json.extra == (("rt", text.decode()),)
    assert cef.src == "1.2.3.4"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rt", 16738287345642),
        ("rt", 1.5),
        ("severity", True),
        ("severity", "01"),
        ("severity", -1),
        ("status", "2xx"),
        ("status", None),
        ("granted", "yes"),
        ("granted", 1),
        ("src", None),
        ("src", 5),
        ("src", ["127.0.0.6"]),
        ("org_id", {"id": "x"}),
        ("new_field", {"nested": [1, 2.5, "x", None]}),
        ("extra", "x"),
        ("doubtful", True),
    ],
)
def test_what_has_another_type_is_kept_as_it_came(name: str, value: object) -> None:
    """Under its own name, beside the typed fields."""
    assert read(orjson.dumps({"name": "Ingress", name: value})) == Record(
        name="Ingress", extra=((name, value),)
    )


@pytest.mark.parametrize("trace", [2**63 - 1, 2**64 - 1, 2**64, 2**200, -(2**70), 6187117426119443960])
def test_integers_are_exact(trace: int) -> None:
    """Whatever their size: a trace id beyond 2^53 is the normal case."""
    assert read(b'{"trace_id":%d}' % trace).trace_id == str(trace)
    assert read(b'{"event":{"trace_id":%d}}' % trace).trace_id == str(trace)
    assert read(b'{"x":{"y":[%d]}}' % trace).extra == (("x", {"y": [trace]}),)


def test_the_header_of_2023_is_understood() -> None:
    """Its stamp has no year and three words."""
    record = read(sample("documented_lines")[2])

    assert (record.event_ts, record.name) == ("Apr 14 05:39:08", "Authz.usage")
    assert record.user_agent == "grpc-node/1.24.11 grpc-c/8.0.0 (linux; chttp2; ganges)"


@pytest.mark.parametrize(
    ("head", "stamp"),
    [(b"", None), (b"konghq.com ", None), (b"2025-06-18T21:01:21Z ", "2025-06-18T21:01:21Z")],
)
def test_a_shorter_head_is_understood(head: bytes, stamp: str | None) -> None:
    """A stamp or a host may be missing."""
    assert read(head + b"CEF:0|K|K|1|c|Ingress|1|rt=1750280481992").event_ts == stamp


@pytest.mark.parametrize("value", ["", "7", "no-number"])
@pytest.mark.parametrize("header", ["", "6", "no-number"])
def test_an_extension_called_as_the_severity_of_the_header_is_text(header: str, value: str) -> None:
    """Hypothesis found the first of them in CI: the header's was taken out twice."""
    line = f"CEF:0|KongInc|Konnect|1.0|konnect|Authz.portals|{header}|severity={value} rt=1750280481992"

    record = parse(line.encode())

    assert record is not None
    assert record.severity == (6 if header == "6" else None)
    assert ("severity", value) in record.extra
    assert record.rt == 1_750_280_481_992


def test_escapes_in_a_header_are_undone() -> None:
    """As by the CEF standard, though Konnect has not been seen to use them."""
    record = read(rb"CEF:0|K\|1|K\\|1|c|a\b|1|rt=1750280481992 src=a\|b")

    assert (record.event_vendor, record.event_product, record.name) == ("K|1", "K\\", "a\\b")
    assert record.src == "a\\|b"


def test_a_backslash_at_the_end_of_a_name_escapes_nothing() -> None:
    """Or a resource called so would let a user agent write all the extensions."""
    record = read(
        rb"CEF:0|K|K|1|c|Authz.a\|6|rt=1750280481992 src=1.2.3.4 user_agent=x|rt=1999999999999 src=6.6.6.6"
    )

    assert (record.name, record.severity, record.src) == ("Authz.a\\", 6, "1.2.3.4")
    assert record.doubtful


def test_bytes_that_are_no_text_fail_nothing() -> None:
    """A header value can bring them in; they become replacement characters."""
    assert read(b"CEF:0|K|K|1|c|Authz.x|1|rt=1 user_agent=\xff\xfe").user_agent == "��"
    assert read(b'{"user_agent":"\xff"}').user_agent == "�"
    assert read(rb'{"user_agent":"\ud800"}').user_agent == "?"


def test_a_number_of_thousands_of_digits_is_text() -> None:
    """Python itself would refuse it."""
    digits = "9" * 5000

    assert read(f"CEF:0|K|K|1|c|Ingress|{digits}|status={digits}".encode()).extra == (
        ("severity", digits),
        ("status", digits),
    )


@pytest.mark.parametrize(
    "piece",
    [
        b" =",
        b"= ",
        b" rt=",
        b" sig=",
        b" user_agent= trace_id=",
        b" rt=a b=c",
        b"\\|",
        b"|\\a",
        b"\\",
        b" a=",
        b" ",
    ],
)
def test_a_megabyte_of_anything_is_read(piece: bytes) -> None:
    """In time proportional to its length: the suite's own time limit is what a worse one would run into."""
    for head in (b"CEF:0|K|K|1|c|Ingress|1|rt=1750280481992", b"CEF:0|", b"CEF:0|K|K|1|c|Authz.x|1|"):
        parse(head + piece * (1_000_000 // len(piece)))


@given(st.binary(max_size=400))
def test_nothing_raises(noise: bytes) -> None:
    """Whatever the bytes, alone or as the end of something that begins well."""
    for head in (
        b"",
        b"CEF:0|",
        b"2025-06-18T21:01:21Z konghq.com CEF:0|K|K|1|c|Ingress|1|",
        b'{"event":{',
        b'{"',
    ):
        parse(head + noise)


@given(data=st.data(), line=st.sampled_from(ALL_SAMPLES))
def test_no_damaged_sample_raises(data: st.DataObject, line: bytes) -> None:
    """Cut off, changed, doubled or stuffed at any place."""
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(len(line), start + 20)))
    stuffing = data.draw(
        st.sampled_from([b"", b" ", b"=", b"|", b'"', b" sig=", b" rt=", b"\\", b"\xff", line])
    )

    parse(line[:start] + stuffing + line[end:])
    parse(line[:start])


@given(
    line=st.sampled_from(sample("cef")), words=st.lists(st.text("abc =|(),;\"'\\", max_size=8), max_size=5)
)
def test_a_harmless_user_agent_comes_back_as_it_is(line: bytes, words: list[str]) -> None:
    """Whatever signs it holds, as long as it spells out no field."""
    user_agent = " ".join(words)
    changed = re.sub(
        rb"user_agent=.*?(?= trace_id=| sig=)",
        b"user_agent=" + user_agent.encode().replace(b"\\", b"\\\\"),
        line,
    )

    assert read(changed).user_agent == user_agent
    assert not read(changed).doubtful
