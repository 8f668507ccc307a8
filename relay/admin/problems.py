"""Errors as the admin API answers them: problem+json (RFC 9457), one sentence, no stack trace."""

from __future__ import annotations

from http import HTTPStatus

import orjson
from aiohttp import web

from relay.errors import Conflict, NotFound, QueueError, RelayError


class BadRequest(RelayError):
    """The request does not say what is needed."""


class Forbidden(RelayError):
    """The request comes from where it should not."""


class Unauthorized(RelayError):
    """The admin token is missing or wrong."""


_STATUS: dict[type[RelayError], HTTPStatus] = {
    BadRequest: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    QueueError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def problem(status: int, detail: str) -> web.Response:
    """A problem+json answer."""
    response = web.Response(
        status=status,
        body=orjson.dumps({"title": HTTPStatus(status).phrase, "status": status, "detail": detail}),
        content_type="application/problem+json",
    )
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def problem_of(error: RelayError) -> web.Response:
    """The answer to an error the relay raised on purpose."""
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return problem(status, str(error))
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
