"""The table of statuses and the reading of `Retry-After`."""

from __future__ import annotations

import pytest

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.classify import Reply, classify, retry_after

NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT

TABLE: list[tuple[type[Outcome], list[int]]] = [
    (Delivered, [200, 201, 202, 204, 299]),
    (Throttled, [429]),
    (Transient, [408, 425, 500, 502, 503, 504, 507, 520, 599]),
    (TooLarge, [413]),
    (Misconfigured, [300, 301, 302, 303, 304, 307, 308]),
    (Misconfigured, [401, 402, 403, 404, 405, 406, 407, 410, 411, 414, 415, 417, 421, 426, 428, 431, 501]),
    (Misconfigured, [495, 496, 497]),
    (Rejected, [400, 409, 412, 418, 422, 424, 451, 499]),
]


@pytest.mark.parametrize(
    ("expected", "status"), [(kind, status) for kind, statuses in TABLE for status in statuses]
)
def test_status(expected: type[Outcome], status: int) -> None:
    """Each status has one meaning, kept with the answer's beginning."""
    outcome = classify(Reply(status, body=b"x" * 2000), now=NOW)

    assert type(outcome) is expected
    assert outcome.response.status == status
    assert outcome.response.excerpt == b"x" * 1024


@pytest.mark.parametrize(
    ("title", "blame"),
    [
        ("No required SSL certificate was sent", "it wants a client certificate and got none"),
        ("The SSL certificate error", "it refuses our client certificate"),
        ("The plain HTTP request was sent to HTTPS port", "it wants https"),
        ("Request Header Or Cookie Too Large", "it refuses our headers as too large"),
    ],
)
def test_what_nginx_says_with_a_400(title: str, blame: str) -> None:
    """Its pages about the connection spend no event; other pages, or one quoted in an answer, are none."""
    page = f"<html>\r\n<head><title>400 {title}</title></head>\r\n<body>\r\n"

    outcome = classify(Reply(400, body=page.encode()), now=NOW)
    quoted = classify(Reply(400, body=b'{"bad":"%b"}' % page.encode()), now=NOW)
    other = classify(Reply(400, body=page.replace(title, "Bad Request").encode()), now=NOW)

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail == f"answered 400 Bad Request: {blame}"
    assert isinstance(quoted, Rejected)
    assert isinstance(other, Rejected)


def test_2xx_outside_the_success_list() -> None:
    """A 2xx that the destination does not list as success stores nothing and spends no event."""
    outcome = classify(Reply(260), now=NOW, success={200, 204})

    assert isinstance(outcome, Misconfigured)
    assert (
        outcome.response.detail
    ) == "answered 260: which is not among the statuses that count as success here"


def test_detail_says_the_standard_phrase() -> None:
    """The sentence holds our words for the status, never the server's."""
    assert classify(Reply(503), now=NOW).response.detail == "answered 503 Service Unavailable"


@pytest.mark.parametrize("status", [429, 503, 500, 408])
def test_retry_after_is_kept_where_the_answer_means_later(status: int) -> None:
    """Whoever asks for a pause by header gets it handed on."""
    outcome = classify(Reply(status, "7"), now=NOW)

    assert isinstance(outcome, Throttled | Transient)
    assert outcome.retry_after == 7.0


@pytest.mark.parametrize(
    ("expected", "header"),
    [
        (None, None),
        (None, ""),
        (None, "soon"),
        (None, "nan"),
        (None, "inf"),
        (None, "9" * 400),
        (None, "Wed, 99 Oct 2015 07:28:30 GMT"),
        (0.0, "0"),
        (0.0, "-5"),
        (1.5, "1.5"),
        (120.0, "120"),
        (30.0, "Wed, 21 Oct 2015 07:28:30 GMT"),
        (30.0, "Wednesday, 21-Oct-15 07:28:30 GMT"),
        (30.0, "Wed Oct 21 07:28:30 2015"),
        (0.0, "Wed, 21 Oct 2015 07:27:00 GMT"),
    ],
)
def test_retry_after(expected: float | None, header: str | None) -> None:
    """Seconds and the three forms of an HTTP date are understood, nonsense is no wish at all."""
    assert retry_after(header, NOW) == expected
