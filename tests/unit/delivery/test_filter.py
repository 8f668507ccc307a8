"""Filters drop only what the line proves to be unwanted."""

from __future__ import annotations

from typing import Any

import pytest

from relay.config.destination import Filter
from relay.delivery.filter import Sieve
from relay.konnect.peek import EventType, event_type, glance
from tests.fakes.chunks import batch_of, sample
from tests.unit.delivery.test_chunking import stored

CEF = "2025-06-18T21:01:21Z konghq.com CEF:0|KongInc|{product}|1.0|konnect|{name}|{severity}|{extensions}"


def cef(
    name: str = "Authz.portals",
    *,
    product: str = "Konnect",
    severity: object = 1,
    extensions: str = "rt=1 src=127.0.0.1 user_agent=x",
) -> bytes:
    return CEF.format(product=product, name=name, severity=severity, extensions=extensions).encode()


def passes(line: bytes, **filter: Any) -> bool:  # noqa: A002 - the word of the configuration
    return bool(Sieve(Filter(**filter))(stored(1, [line]), 0).kept)


@pytest.mark.parametrize(
    "line",
    [
        b"not a record at all",
        b'{"truncated":"by a proxy',
        b'{"event":"a string, not an object"}',
        b"{}",
        b"[1]",
        b"CEF:0|too|short",
        b"\xff\xfe",
        b'{"name":7,"severity":"high","event_product":null}',
        cef("NewKind.thing", severity="High", product="Konnect"),
        cef("NewKind.thing", severity="9" * 5000),
        b'{"severity":"' + b"9" * 5000 + b'"}',
        b"x" * 100 + cef(severity=0),
    ],
)
def test_what_cannot_be_told_is_delivered(line: bytes) -> None:
    """A line that proves nothing passes every filter that asks for something."""
    assert passes(line, types=["access"])
    assert passes(line, min_severity=10)
    assert passes(line, products=["Konnect"])
    assert passes(line, exclude_kong_initiated=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AUTHENTICATION_OUTCOME_SUCCESS", EventType.AUTHENTICATION),
        ("Authz.control-planes/*", EventType.AUTHORIZATION),
        ("Ingress", EventType.ACCESS),
        ("Authn.login", EventType.UNKNOWN),
        ("ingress", EventType.UNKNOWN),
        ("", EventType.UNKNOWN),
    ],
)
def test_the_name_tells_the_type(name: str, expected: EventType) -> None:
    """Never the class id; a name that is not documented is of no type."""
    assert event_type(name) is expected


@pytest.mark.parametrize("form", ["cef", "json", "cps"])
@pytest.mark.parametrize(
    ("filter_", "count"),
    [
        ({"types": ["authentication"]}, 11),
        ({"types": ["authorization"]}, 9),
        ({"types": ["access"]}, 8),
        ({"types": ["authentication", "authorization", "access"]}, 28),
    ],
)
def test_konnects_samples_by_type(form: str, filter_: dict[str, Any], count: int) -> None:
    """The same 28 events in three formats are told apart alike."""
    lines = sample(form)

    assert len(lines) == 28
    assert len(Sieve(Filter(**filter_))(batch_of(lines), 0).kept) == count


@pytest.mark.parametrize(
    "filter_",
    [
        {"min_severity": 1},
        {"min_severity": 6},
        {"min_severity": 10},
        {"products": ["Dev-Portal"]},
        {"names": ["Authz.*"]},
        {"names": ["Ingress", "*_LOCKED"]},
        {"exclude_kong_initiated": True},
        {"types": ["authorization"], "min_severity": 6},
    ],
)
def test_formats_agree(filter_: dict[str, Any]) -> None:
    """CEF, JSON and CPS of the same events pass or fail together."""
    sift = Sieve(Filter(**filter_))
    cef_, json_, cps = (sift(batch_of(sample(form)), 0).kept for form in ("cef", "json", "cps"))

    assert list(cef_) == list(json_) == list(cps)


def test_conditions_are_all_to_be_met() -> None:
    """Type and severity and name and product together."""
    wanted = {"types": ["authorization"], "min_severity": 6, "names": ["Authz.p*"], "products": ["Konnect"]}

    assert passes(cef(severity=6), **wanted)
    assert not passes(cef(severity=5), **wanted)
    assert not passes(cef("Authz.usage", severity=6), **wanted)
    assert not passes(cef("Ingress", severity=6), **wanted)
    assert not passes(cef(severity=6, product="Dev-Portal"), **wanted)


def test_names_are_matched_whole_and_by_case() -> None:
    """`Authz.p` is not `Authz.portals`, and `authz.*` matches nothing."""
    assert passes(cef(), names=["Authz.*"])
    assert passes(cef(), names=["nothing", "*.portals"])
    assert not passes(cef(), names=["Authz.p"])
    assert not passes(cef(), names=["authz.*"])


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ("rt=1 src=x action=read granted=true kong_initiated=true org_id=o user_agent=x sig=S", True),
        ("kong_initiated=true", True),
        ("rt=1 user_agent=evil kong_initiated=true sig=S", False),
        ("rt=1 request=/a kong_initiated=true act=GET", False),
        ('rt=1 query={"a":"b kong_initiated=true "} sig=S', False),
        ("rt=1 principal_name=Jane kong_initiated=true", False),
        ("rt=1 kong_initiated=false org_id=o", False),
        ("rt=1 kong_initiated=truely org_id=o", False),
        ("rt=1 org_id=o", False),
    ],
)
def test_kong_initiated_in_cef_cannot_be_forged(extensions: str, expected: bool) -> None:
    """A caller who writes the pair into his user agent does not make his event disappear."""
    line = cef(extensions=extensions)

    assert glance(line).kong_initiated is expected
    assert passes(line, exclude_kong_initiated=True) is not expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"name":"Ingress","kong_initiated":true}', True),
        (b'{"name":"Ingress","kong_initiated":"true"}', True),
        (b'{"event":{"name":"Ingress","kong_initiated":true}}', True),
        (b'{"name":"Ingress","user_agent":"\\",\\"kong_initiated\\":true"}', False),
        (b'{"name":"Ingress","kong_initiated":1}', False),
        (b'{"name":"Ingress","kong_initiated":"yes"}', False),
    ],
)
def test_kong_initiated_in_json(line: bytes, expected: bool) -> None:
    """A field of the record counts, text inside another field does not."""
    assert glance(line).kong_initiated is expected


def test_pipes_in_values_do_not_move_the_header() -> None:
    """Only the first seven pipes belong to the header."""
    seen = glance(cef(severity=6, extensions="rt=1 user_agent=a|b|c|9|d"))

    assert (seen.name, seen.severity, seen.product) == ("Authz.portals", 6, "Konnect")


def test_numbers_may_come_as_text() -> None:
    """Konnect's documentation prints severities as text; both are read."""
    assert glance(b'{"severity":"6"}').severity == 6
    assert glance(b'{"severity":6}').severity == 6
    assert glance(b'{"severity":true}').severity is None


def test_sources_are_exact_and_need_no_line() -> None:
    """A batch of another source is filtered as a whole, whatever its lines say, without decoding it."""
    batch = stored(1, [b"???", b"!!!"])
    other = Sieve(Filter(sources=("us",)))(batch, 0)
    same = Sieve(Filter(sources=("eu",)))(batch, 1)

    assert (other.kept, other.filtered) == ((), 2)
    assert (same.kept, same.filtered) == (range(1, 2), 0)
    assert batch._body is None


def test_without_conditions_nothing_is_looked_at() -> None:
    """No filter costs nothing per event."""
    batch = stored(1, [b"a", b"b"])

    assert Sieve(Filter())(batch, 0).kept == range(2)
    assert batch._body is None


def test_when_everything_passes_the_batch_stays_whole() -> None:
    """So that its stored gzip can be passed on."""
    stretch = Sieve(Filter(min_severity=1))(stored(1, [cef(), cef()]), 0)

    assert stretch.kept == range(2)


def test_only_events_from_the_start_matter() -> None:
    """What was read before is neither kept nor counted as filtered."""
    stretch = Sieve(Filter(min_severity=5))(stored(1, [cef(), cef(severity=9), cef()]), 1)

    assert (stretch.start, stretch.kept, stretch.filtered) == (1, (1,), 1)


def test_alerts_are_let_through_and_nothing_else() -> None:
    """What Kong advises to be alerted of; what cannot be read goes through, as with every filter."""
    denied = cef_line("Authz.portals", 6, "granted=false")
    granted = cef_line("Authz.portals", 1, "granted=true")
    failed_500 = cef_line("Ingress", 10, "status=500")
    fine = cef_line("Ingress", 1, "status=200")
    login = cef_line("AUTHENTICATION_OUTCOME_SUCCESS", 0, "success=true")
    odd = b"no record at all"
    batch = stored(1, [denied, granted, failed_500, fine, login, odd])

    assert list(Sieve(Filter(alerts=True))(batch, 0).kept) == [0, 2, 5]


def test_alerts_know_a_burst() -> None:
    """The fifth failed login is one; read again after a hold it still is, and the others still are not."""
    failures = [
        cef_line("AUTHENTICATION_OUTCOME_INVALID_PASSWORD", 1, f"success=false principal_id=p trace_id={n}")
        for n in range(7)
    ]
    sift = Sieve(Filter(alerts=True))
    batch = stored(1, failures)

    assert list(sift(batch, 0).kept) == [4]
    assert list(sift(batch, 0).kept) == [4]


def test_alerts_together_with_other_conditions() -> None:
    """All conditions have to be met."""
    denied = cef_line("Authz.portals", 6, "granted=false")
    failed_500 = cef_line("Ingress", 10, "status=500")

    sift = Sieve(Filter(alerts=True, types=("authorization",)))

    assert list(sift(stored(1, [denied, failed_500]), 0).kept) == [0]


def cef_line(name: str, severity: int, rest: str) -> bytes:
    head = f"2025-06-18T21:02:36Z konghq.com CEF:0|KongInc|Konnect|1.0|konnect|{name}|{severity}|"
    return f"{head}rt=1750280466889 src=203.0.113.7 {rest} user_agent=curl".encode()
