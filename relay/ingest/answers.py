"""What the intake says: a handful of short JSON answers, written straight to the connection.

Owns the wording and the bytes of each answer (contract in architecture.md section 8), never when one is
due. Codes that Konnect does not retry are used only where trying again could not help.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.web import BaseRequest

from relay.clock import Clock
from relay.model import Receipt

_DETAILS: Final[Mapping[HTTPStatus, bytes]] = {
    HTTPStatus.BAD_REQUEST: b"The body is not valid gzip; it was put aside.",
    HTTPStatus.UNAUTHORIZED: b"The Authorization header is not what this source expects.",
    HTTPStatus.NOT_FOUND: b"No source has this path.",
    HTTPStatus.METHOD_NOT_ALLOWED: b"Audit logs are sent by POST.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: b"The body is larger than this relay accepts.",
    HTTPStatus.TOO_MANY_REQUESTS: b"No room at the moment; send it again later.",
    HTTPStatus.INTERNAL_SERVER_ERROR: b"The batch could not be stored; send it again later.",
}
_ACCEPTED: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_REFUSED: Final = b"HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\n%s"
_PROBLEM: Final = b'{"title":"%s","status":%d,"detail":"%s"}\n'


class Answer(web.StreamResponse):
    """A complete answer that is one write.

    aiohttp's own `Response` builds and serialises a map of header fields each time; for answers as short
    as these that is a third of what a request costs.
    """

    def __init__(self, status: int, head: bytes, body: bytes) -> None:
        super().__init__(status=status)
        self._head = head  # status line and header fields that do not depend on the connection
        self._text = body
        self._request: BaseRequest | None = None
        self._open = True

    def force_close(self) -> None:
        """Close the connection after this answer."""
        self._open = False

    @property
    def keep_alive(self) -> bool:
        return self._open

    async def prepare(self, request: BaseRequest) -> None:
        # An HTTP/1.0 sender is told nothing about keeping the connection, so it does not.
        self._open = self._open and request.keep_alive and request.version >= HttpVersion11
        self._request = request

    async def write_eof(self, data: bytes = b"") -> None:
        request, self._request = self._request, None
        if request is None:
            return
        await request.writer.write_eof(
            b"%s%sContent-Length: %d\r\n\r\n%s"
            % (
                self._head,
                b"" if self._open else b"Connection: close\r\n",
                len(self._text),
                b"" if request.method == "HEAD" else self._text,
            )
        )


class Answers:
    """Makes answers, each with a Date as RFC 9110 section 6.6.1 asks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = -1
        self._date = b""
        self._accepted = b""

    def accepted(self, receipt: Receipt) -> Answer:
        """All of it is durable."""
        self._look_at_clock()
        body = b'{"accepted":%d,"duplicates":%d}\n' % (receipt.accepted, receipt.duplicates)
        return Answer(200, self._accepted, body)

    def refused(self, status: HTTPStatus, *, retry_after: float | None = None) -> Answer:
        """Why nothing was accepted. *retry_after* is in seconds."""
        fields = b""
        if retry_after is not None:
            fields = b"Retry-After: %d\r\n" % max(1, math.ceil(retry_after))
        elif status is HTTPStatus.METHOD_NOT_ALLOWED:
            fields = b"Allow: POST\r\n"
        elif status is HTTPStatus.UNAUTHORIZED:
            # RFC 9110 section 11.6.1 wants a challenge; the scheme is whatever the source expects.
            fields = b'WWW-Authenticate: Bearer realm="audit-logs"\r\n'
        return self._problem(status, _DETAILS[status], fields)

    def malformed(self) -> Answer:
        """The answer to what is not HTTP. Nothing that follows on the connection can be understood."""
        answer = self._problem(HTTPStatus.BAD_REQUEST, b"This is not a valid HTTP request.", b"")
        answer.force_close()
        return answer

    def _problem(self, status: HTTPStatus, detail: bytes, fields: bytes) -> Answer:
        self._look_at_clock()
        phrase = status.phrase.encode()
        head = _REFUSED % (status, phrase, fields) + self._date
        return Answer(status, head, _PROBLEM % (phrase, status, detail))

    def _look_at_clock(self) -> None:
        """Renew what changes once a second."""
        second = int(self._clock.now())
        if second != self._second:
            self._second = second
            self._date = b"Date: %s\r\n" % formatdate(second, usegmt=True).encode()
            self._accepted = _ACCEPTED + self._date
