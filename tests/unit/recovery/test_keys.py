"""One key over both writings of an event."""

from __future__ import annotations

from typing import Any

import pytest

from relay.konnect.peek import EventType
from relay.konnect.pulled import line_of
from relay.recovery import keys
from relay.recovery.keys import Key
from tests.fakes.events import DATA
from tests.fakes.konnect import PORTAL, Maker
from tests.fakes.konnect.events import AuditEvent
from tests.fakes.konnect.writing import LogFormat, entry, line

AT = 1_750_280_466.889
FORMATS: tuple[LogFormat, ...] = ("cef", "json", "cps")
ENTRY: dict[str, Any] = {
    "type": "authorization",
    "ts": "2025-06-18T21:01:26.111Z",
    "org_id": "o",
    "principal_id": "p",
    "trace_id": "8809518331550426064",
    "resource": "krn:konnect:reg/us:org/o:control-planes/*",
    "action": "list",
    "granted": True,
}


def lines(name: str) -> list[bytes]:
    return (DATA / name).read_bytes().splitlines()


@pytest.mark.parametrize("written", [b"", b"nothing of the kind", b"{", b"CEF:0|a|b", b'{"name":"Ingress"}'])
def test_what_has_no_time_of_its_own_has_no_key(written: bytes) -> None:
    """There is nothing to compare it by."""
    assert keys.of_line(written) is None


@pytest.mark.parametrize("written", [line_of(ENTRY), b'{"a":1,' + line_of(ENTRY)[1:]])
def test_a_pulled_line_has_a_key_where_the_relay_pulled_it(written: bytes) -> None:
    """Anybody who may send can write one; Konnect's webhook never does."""
    assert keys.of_line(line_of(ENTRY), pulled=True) == keys.of_entry(ENTRY)
    assert keys.of_line(written) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"ts": None},
        {"ts": "yesterday"},
        {"ts": 1750280486111},
        {"type": "a new one"},
        {"type": 7},
    ],
)
def test_an_entry_of_another_kind_has_no_key(changed: dict[str, Any]) -> None:
    """Neither does what no time or type can be read of."""
    assert keys.of_entry({**ENTRY, **changed}) is None


@pytest.mark.parametrize("other", ["cef.txt", "cps.txt", "json_docstyle_types.txt"])
def test_every_format_gives_the_same_key(other: str) -> None:
    """CEF, CPS, and JSON with the types that Kong's reference prints, as well as JSON."""
    assert [keys.of_line(it) for it in lines(other)] == [keys.of_line(it) for it in lines("json.txt")]
    assert None not in [keys.of_line(it) for it in lines("json.txt")]


@pytest.mark.parametrize("log_format", FORMATS)
def test_both_writings_of_an_event_have_one_key(log_format: LogFormat) -> None:
    """A webhook's line, under any header time, and the pulled entry."""
    maker = Maker()
    events: list[AuditEvent] = [
        *maker.some(30, at=AT),
        maker.authorization(at=AT, granted=False, resource="control-planes/1c026712"),
        maker.authentication(at=AT, success=False),
        maker.access(at=AT, status=403, query='{"a":"b"}'),
    ]

    found = [keys.of_line(line(it, log_format, stamp=AT + 90)) for it in events]

    assert found == [keys.of_entry(entry(it)) for it in events]
    assert len(set(found)) == len(events)


def test_what_recovery_pulled_has_the_key_of_its_entry() -> None:
    """The relay appends such events in a writing of its own."""
    entries = [entry(it) for it in Maker().some(9, at=AT)]

    assert [keys.of_line(line_of(it), pulled=True) for it in entries] == [keys.of_entry(it) for it in entries]


def test_a_portals_event_is_told_from_the_organisations() -> None:
    """By its portal's id, the only field that says so."""
    event = Maker().authentication(at=AT, portal=PORTAL)

    key = keys.of_line(line(event, "json", stamp=AT))

    assert key is not None
    assert key.portal_id == PORTAL


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"ts": "2025-06-18T21:01:26.1119999Z"}, True),  # a finer clock
        ({"ts": "2025-06-18T23:01:26.111+02:00"}, True),
        ({"ts": "2025-06-18T21:01:26.112Z"}, False),
        ({"resource": "control-planes/*"}, True),
        ({"resource": "krn:konnect:reg/us:org/o:control-planes"}, False),
        ({"signature": "x", "user_agent": "y", "client_ip": "z"}, True),
        ({"trace_id": 8809518331550426064}, True),
        ({"action": "edit"}, False),
        ({"granted": False}, False),
        ({"principal_id": None}, False),
    ],
)
def test_what_makes_a_difference(changed: dict[str, Any], same: bool) -> None:
    """Time to the millisecond, resource, action and outcome do; how they are written does not."""
    assert (keys.of_entry({**ENTRY, **changed}) == keys.of_entry(ENTRY)) is same


def test_an_authentication_may_come_without_what_is_optional() -> None:
    """Type, organisation and principal need not be there when it is pulled."""
    event = Maker().authentication(at=AT)
    pulled = entry(event)
    for name in ("type", "org_id", "principal_id"):
        del pulled[name]

    assert keys.of_entry(pulled) == keys.of_line(line(event, "cef", stamp=AT))


def test_a_requests_query_is_no_part_of_its_key() -> None:
    """It has a form of its own in each writing."""
    pulled = {"type": "gateway_access", "ts": "2025-06-18T21:01:26.111Z", "method": "GET", "status_code": 200}

    assert keys.of_entry({**pulled, "uri": "/v2/x?a=b"}) == keys.of_entry({**pulled, "uri": "/v2/x"})


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (b'"granted":true', EventType.AUTHORIZATION),
        (b'"success":true', EventType.AUTHENTICATION),
        (b'"status":200', EventType.ACCESS),
    ],
)
def test_a_new_name_is_told_by_its_fields(field: bytes, kind: EventType) -> None:
    """Names are an open set."""
    key = keys.of_line(b'{"name":"Novelty","rt":1750280486111,%b}' % field)

    assert isinstance(key, Key)
    assert key.type is kind
