"""Errors as Konnect words them: problem+json."""

from __future__ import annotations

import json

from aiohttp import web

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    429: "Too Many Requests",
}


class Problem(Exception):
    """Ends a call with this answer."""

    def __init__(self, status: int, detail: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail or _TITLES.get(status, "Internal Error")

    def response(self, retry_after: str | None = None) -> web.Response:
        return web.Response(
            status=self.status,
            body=json.dumps(
                {
                    "status": self.status,
                    "title": _TITLES.get(self.status, "Internal Error"),
                    "instance": "kong:trace:8347343766220159418",
                    "detail": self.detail,
                }
            ).encode(),
            content_type="application/problem+json",
            headers={"Retry-After": retry_after} if retry_after else None,
        )
