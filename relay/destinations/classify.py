"""What an HTTP answer means, as a pure function: the table of docs/architecture.md section 5.

Owns the reading of status codes and of `Retry-After` for every destination that speaks HTTP. Never
does I/O and never decides what follows from an outcome; that is `relay.delivery.decide`.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import orjson

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from relay.model import Response

ANY_2XX = frozenset(range(200, 300))

# These answers blame the request as such: credentials, address, method, headers. Every event would
# get the same one, so none of them may be spent on it.
_CREDENTIALS = frozenset({401, 402, 403, 407})
_CERTIFICATE = frozenset({495, 496})  # nginx's own numbers, where a configuration lets them out
_ADDRESS = frozenset({404, 405, 410, 421, 426, 497, 501})
_HEADERS = frozenset({406, 411, 414, 415, 417, 428, 431})

# nginx makes these 400s of what it does not like about the connection, with pages of its own, long before
# anybody looks at an event (ngx_http_special_response.c). Only a page that begins so: an event that is
# quoted in a refusal may hold any text.
_NGINX_PAGE = b"<html>\r\n<head><title>400 %b</title></head>\r\n"
_NGINX_PAGES = {
    _NGINX_PAGE % b"No required SSL certificate was sent": "it wants a client certificate and got none",
    _NGINX_PAGE % b"The SSL certificate error": "it refuses our client certificate",
    _NGINX_PAGE % b"The plain HTTP request was sent to HTTPS port": "it wants https",
    _NGINX_PAGE % b"Request Header Or Cookie Too Large": "it refuses our headers as too large",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer as far as anyone needs it. Secrets of ours that it echoed are already blotted out."""

    status: int
    retry_after: str | None = None  # the header as it came
    body: bytes = b""  # its beginning only
    date: str | None = None  # the header as it came


def classify(reply: Reply, *, now: float, success: Container[int] = ANY_2XX) -> Outcome:
    """The outcome of a reply; *now* in seconds since the epoch, to read a `Retry-After` date by.

    *success* holds the statuses that mean the events are stored. Another 2xx is not trusted: Loki,
    for one, answers 260 when it blocks ingestion and stores nothing.
    """
    status = reply.status
    if status in success:
        return Delivered(respond(reply))
    if status == 429:
        return Throttled(respond(reply), retry_after(reply.retry_after, now))
    if status in {408, 425} or (status >= 500 and status != 501):
        return Transient(respond(reply), retry_after(reply.retry_after, now))
    if status == 413:
        return TooLarge(respond(reply))
    blame = _misconfiguration(status) if status != 400 else _nginx_blame(reply.body)
    if blame is not None:
        return Misconfigured(respond(reply, blame))
    return Rejected(respond(reply))


def _misconfiguration(status: int) -> str | None:
    """Why *status* is a fault of the configuration rather than of an event; None where it is not."""
    if status < 300:
        return "which is not among the statuses that count as success here"
    if status < 400:
        return "a redirect, which is never followed because the credentials would leak"
    if status in _CREDENTIALS:
        return "it refuses our credentials"
    if status in _CERTIFICATE:
        return "it refuses our client certificate"
    if status in _ADDRESS:
        return "it does not take events at this address"
    if status in _HEADERS:
        return "it refuses the request as such, whatever the events"
    return None


def _nginx_blame(page: bytes) -> str | None:
    return next((blame for start, blame in _NGINX_PAGES.items() if page.startswith(start)), None)


def respond(reply: Reply, remark: str | None = None) -> Response:
    """*reply* as it is kept beside an outcome, with a sentence that says what it was."""
    sentence = f"answered {reply.status}{_phrase(reply.status)}"
    if remark:
        sentence = f"{sentence}: {remark}"
    return Response(sentence, reply.status, reply.body[: Response.EXCERPT_BYTES])


def _phrase(status: int) -> str:
    """The standard phrase of a status; what the server wrote in its place is not repeated."""
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def json_object(body: bytes) -> dict[str, object]:
    """The object that *body* is; an empty one where it is none."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds to wait by a `Retry-After` header: a number, or a date read against *now*.

    None where there is no header or nothing to be made of it; never negative. How much of it is
    obeyed is the retry policy's business.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = _seconds_until(header, now)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str, now: float) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except (ValueError, OverflowError):
        return math.nan
