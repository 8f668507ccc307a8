"""What Splunk's answers mean."""

from __future__ import annotations

import orjson
import pytest

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.classify import Reply
from relay.destinations.splunk_answers import judge
from relay.model import Reason


def verdict(status: int, code: int | str, number: object = None) -> Outcome:
    """Judge an answer to ten events."""
    body: dict[str, object] = {"text": "some words", "code": code}
    if number is not None:
        body["invalid-event-number"] = number
    return judge(Reply(status, body=orjson.dumps(body)), 10, 0.0)


@pytest.mark.parametrize("code", [0, 24, 25])
def test_stored(code: int) -> None:
    """Zero is success, and so are the two warnings about a collector near its capacity."""
    assert isinstance(verdict(200, code), Delivered)


@pytest.mark.parametrize("body", [b"", b"<html>Log in</html>", b"[]", b"{}", b'{"code":"0"}', b'{"code":17}'])
def test_200_without_the_promised_body(body: bytes) -> None:
    """A 200 that is no collector's answer has stored nothing, so the destination is held."""
    assert isinstance(judge(Reply(200, body=body), 10, 0.0), Misconfigured)


@pytest.mark.parametrize("code", [6, 12, 13, 15])
@pytest.mark.parametrize("number", [0, 4, 9])
def test_bad_event(code: int, number: int) -> None:
    """Events before the bad one are indexed, the bad one is refused, those behind it are sent again."""
    outcome = verdict(400, code, number)

    assert isinstance(outcome, Partial)
    assert tuple(range(number)) == outcome.delivered
    assert [(number, Reason.REJECTED)] == [(r.index, r.reason) for r in outcome.rejected]
    assert outcome.rest is None


@pytest.mark.parametrize("number", [None, -1, 10, 99, "3", 1.5])
def test_bad_event_without_a_usable_number(number: object) -> None:
    """A number that cannot be true blames nobody: the chunk is bisected instead."""
    assert isinstance(verdict(400, 6, number), Rejected)


def test_wrong_index_at_the_first_event() -> None:
    """The index is our setting: nothing is indexed and no event is to blame."""
    outcome = verdict(400, 7, 1)  # code 7 counts from one

    assert isinstance(outcome, Misconfigured)
    assert (
        outcome.response.detail
    ) == "answered 400 Bad Request: code 7, the index is not one this token may write to"


def test_wrong_index_later_on() -> None:
    """Code 7 names the object behind the bad one: with 5, objects 0 to 3 are indexed and none refused."""
    outcome = verdict(400, 7, 5)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 1, 2, 3)
    assert outcome.rejected == ()


@pytest.mark.parametrize("code", [7, 10, 11, 14, 16, 21, 22, 28])
def test_bad_setup(code: int) -> None:
    """A 400 about token, channel or index holds the destination and spends no event."""
    assert isinstance(verdict(400, code), Misconfigured)


@pytest.mark.parametrize(
    ("expected", "status", "code"),
    [
        (Misconfigured, 401, 2),
        (Misconfigured, 401, 3),
        (Misconfigured, 403, 1),
        (Misconfigured, 403, 4),
        (Misconfigured, 404, 404),
        (TooLarge, 413, 27),
        (Throttled, 429, 26),
        (Throttled, 429, 27),
        (Transient, 500, 8),
        (Transient, 503, 9),
        (Transient, 503, 18),
        (Transient, 503, 23),
        (Rejected, 400, 5),
        (Rejected, 400, 99),
    ],
)
def test_other_answers(expected: type[Outcome], status: int, code: int) -> None:
    """Everything else goes by the common table."""
    assert type(verdict(status, code)) is expected


def test_400_of_a_proxy() -> None:
    """A 400 without a collector's words goes by the common table as well."""
    assert isinstance(judge(Reply(400, body=b"<html>"), 10, 0.0), Rejected)
