"""Fields that a destination must not see."""

from __future__ import annotations

import hmac

import pytest

from relay.formats.redaction import Redaction
from relay.konnect.record import Record

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


def test_a_value_of_another_type_is_found_where_it_is_kept() -> None:
    """A documented field whose value has an odd type is taken out as well."""
    record = Record(name="Ingress", extra=(("src", ["192.0.2.1"]), ("zone", "eu")))

    redacted, changed = Redaction((("src", "drop"),)).apply(record)

    assert changed
    assert redacted.extra == (("zone", "eu"), ("relay_redacted", "src"))
