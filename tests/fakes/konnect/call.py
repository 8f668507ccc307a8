"""One call of the control API as its handlers see it, and how they answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from tests.fakes.konnect.organisation import Place
from tests.fakes.konnect.problems import Problem


@dataclass(frozen=True, slots=True)
class Call:
    """A request, its base path taken off."""

    method: str
    host: str  # a region, or `global`
    path: str  # e.g. /v3/audit-log-webhook
    query: MultiMapping[str]
    raw: bytes
    authorization: str | None

    def document(self) -> dict[str, Any]:
        """The JSON object in the body."""
        try:
            found = json.loads(self.raw)
        except ValueError:
            raise Problem(400, "The body is not JSON") from None
        if not isinstance(found, dict):
            raise Problem(400, "The body is not an object")
        return found

    def place(self, portal: str | None = None) -> Place:
        return Place(self.host, portal)


Handler = Callable[..., Awaitable[web.Response]]


def shown(document: Any, status: int = 200) -> web.Response:
    return web.json_response(document, status=status)


def nothing() -> web.Response:
    return web.Response(status=204)


def wanted(document: dict[str, Any], name: str, kind: type) -> Any:
    """A field that has to be there and of this type."""
    value = document.get(name)
    if not isinstance(value, kind) or value == "":
        raise Problem(400, f"{name} is required")
    return value
