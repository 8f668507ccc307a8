"""Fields that a destination must not see."""

from __future__ import annotations

import hmac
from typing import get_args

import pytest

from relay.formats.redaction import Redaction
from relay.formats.rewriting import Rewriting
from relay.formats.write import Writing, write
from relay.konnect.lines import format_of
from relay.konnect.record import Record
from relay.model import Event

RECORD = Record(name="Ingress", src="192.0.2.1", user_agent="curl/8", query="{}", principal_name="Ann")


@pytest.mark.parametrize(
    ("how", "expected"),
    [("drop", None), ("mask", "***"), ("hash", hmac.new(b"key", b"192.0.2.1", "sha256").hexdigest()[:32])],
)
def test_ways(how: str, expected: str | None) -> None:
    """Dropped, masked, or replaced by what only the key can make of it."""
    redacted, changed = Redaction((("src", how),), b"key").apply(RECORD)  # type: ignore[arg-type]

    assert changed
    assert redacted.src == expected
    assert redacted.user_agent == "curl/8"
    assert redacted.extra == (("relay_redacted", "src"),)


def test_nothing_to_take_out() -> None:
    """An event without these fields stays as it is, unmarked: its signature still holds."""
    record = Record(name="Authz.portals", src="")

    assert Redaction((("src", "drop"), ("query", "mask"))).apply(record) == (record, False)


def test_equal_values_give_equal_hashes_under_the_same_key() -> None:
    """So that a SIEM can still count by them; another key gives others."""
    first, again, other = (
        Redaction((("src", "hash"),), key).apply(RECORD)[0].src for key in (b"one", b"one", b"two")
    )

    assert first == again != other


def test_a_forged_event_loses_everything_a_caller_wrote() -> None:
    """Where a caller's text may hold what belongs to another field, none of it leaves."""
    record = Record(
        name="Ingress",
        src="192.0.2.1",
        user_agent="x principal_name=Ann",
        request="/a",
        query="{}",
        principal_name="",
        extra=(("odd", "Ann"),),
        doubtful=True,
    )

    redacted, _ = Redaction((("principal_name", "mask"),)).apply(record)

    assert (redacted.user_agent, redacted.request, redacted.query) == (None, None, None)
    assert redacted.src == "192.0.2.1"
    assert redacted.extra == (("relay_redacted", "request,user_agent,query,odd"),)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("drop", "/v2/portals"),
        ("mask", "/v2/portals?***"),
        ("hash", f"/v2/portals?{hmac.new(b'key', b'name=Ann&x=?', 'sha256').hexdigest()[:32]}"),
    ],
)
def test_a_query_goes_from_the_request_too(how: str, expected: str) -> None:
    """Where Konnect leaves the query in the request's path, `query` means that one as well."""
    record = Record(name="Ingress", request="/v2/portals?name=Ann&x=?")

    redacted, changed = Redaction((("query", how),), b"key").apply(record)  # type: ignore[arg-type]

    assert changed
    assert (redacted.request, redacted.query) == (expected, None)
    assert redacted.extra == (("relay_redacted", "request"),)


@pytest.mark.parametrize("request_", ["/v2/portals", "/v2/portals?", "", None])
def test_a_request_without_a_query_stays(request_: str | None) -> None:
    """There is nothing in it to take out."""
    record = Record(name="Ingress", request=request_)

    assert Redaction((("query", "mask"),)).apply(record) == (record, False)


def test_what_is_said_of_the_request_itself_comes_first() -> None:
    """Each field goes the way that is given for it."""
    record = Record(name="Ingress", request="/a?b=c", query='{"b":"c"}')

    redacted, _ = Redaction((("query", "drop"), ("request", "mask"))).apply(record)

    assert (redacted.request, redacted.query) == ("***", None)
    assert redacted.extra == (("relay_redacted", "query,request"),)


def test_a_request_of_another_type_may_hold_a_query() -> None:
    """What nobody can take apart goes as a whole."""
    record = Record(name="Ingress", extra=(("request", ["/a?b=c"]), ("zone", "eu")))

    redacted, changed = Redaction((("query", "drop"),)).apply(record)

    assert changed
    assert redacted.extra == (("zone", "eu"), ("relay_redacted", "request"))


@pytest.mark.parametrize("writing", get_args(Writing))
@pytest.mark.parametrize("received", ["cef", "json", "cps"])
def test_no_writing_holds_the_query(received: Writing, writing: Writing) -> None:
    """Neither the formats with a field for the query string nor the others let it out."""
    record = Record(name="Ingress", event_class_id="konnect", request="/a?who=Ann", query='{"who":"Ann"}')
    line = write(record, received, event_id="1", received=b"", source="eu")
    event = Event("1", line, format_of(line), "eu", 0.0)

    written = Rewriting(writing, Redaction((("query", "drop"),))).write(event)

    assert b"Ann" in line
    assert b"Ann" not in written.line
    assert b"Ann" not in written.received


def test_a_value_of_another_type_is_found_where_it_is_kept() -> None:
    """A documented field whose value has an odd type is taken out as well."""
    record = Record(name="Ingress", extra=(("src", ["192.0.2.1"]), ("zone", "eu")))

    redacted, changed = Redaction((("src", "drop"),)).apply(record)

    assert changed
    assert redacted.extra == (("zone", "eu"), ("relay_redacted", "src"))
