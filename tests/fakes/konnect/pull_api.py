"""`GET /v3/audit-logs`: the organisation's log in pages, newest first.

The shape of the cursor is the test's choice, for the specification and its own examples differ.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Literal

from aiohttp import web

from tests.fakes.konnect.call import Call, shown
from tests.fakes.konnect.events import Kind
from tests.fakes.konnect.problems import Problem
from tests.fakes.konnect.truth import Kept, Truth
from tests.fakes.konnect.writing import entry

CursorForm = Literal["path", "token", "url", "mangled", "at_meta", "repeated"]

_SIZE, _LARGEST = 20, 1000


class PullApi:
    """The handler."""

    def __init__(self, truth: Truth) -> None:
        self.cursor_form: CursorForm = "path"
        self.available = True  # a flag on Konnect's side that is not on for everyone
        self.signed = True  # whether entries have a signature
        self._truth = truth

    async def get(self, call: Call) -> web.Response:
        if not self.available:
            raise Problem(404)
        size = _page_size(call)
        kind = call.query.get("filter[type]")
        if kind is not None and kind not in {*Kind}:
            raise Problem(400, "filter[type] is not known")
        start, end = _moment(call, "filter[ts][gte]"), _moment(call, "filter[ts][lte]")
        held = self._truth.held(call.host, start=start, end=end)
        found = [kept for kept in reversed(held) if kind is None or kept.event.kind == kind]
        after = call.query.get("page[after]")
        if after is not None and self.cursor_form != "repeated":
            before = _position(after)
            found = [kept for kept in found if (kept.at, kept.number) < before]
        page = found[:size]
        following = self._following(page[-1], call) if len(found) > len(page) else None
        at_meta = self.cursor_form == "at_meta"
        inner = {"next": None if at_meta else following, "previous": None, "size": len(page)}
        meta = {"page": inner, "next": following} if at_meta else {"page": inner}
        return shown({"data": [entry(kept.event, signed=self.signed) for kept in page], "meta": meta})

    def _following(self, last: Kept, call: Call) -> str:
        cursor = base64.urlsafe_b64encode(json.dumps([last.at, last.number]).encode()).rstrip(b"=").decode()
        match self.cursor_form:
            case "token":
                return cursor
            case "url":
                return f"https://{call.host}.api.konghq.com/v3/audit-logs?page%5Bafter%5D={cursor}"
            case "mangled":
                return f"/audit-logs?page%5Bsize%5=1&page%5Bafter%5D={cursor}"
            case "repeated":
                return "/audit-logs?page[after]=WzEsMV0"
            case "path" | "at_meta":
                return f"/audit-logs?page[after]={cursor}"


def _page_size(call: Call) -> int:
    try:
        size = int(call.query.get("page[size]", str(_SIZE)))
    except ValueError:
        size = 0
    if not 1 <= size <= _LARGEST:
        raise Problem(400, f"page[size] is not between 1 and {_LARGEST}")
    return size


def _position(cursor: str) -> tuple[int, int]:
    try:
        at, number = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        raise Problem(400, "page[after] is no cursor of ours") from None
    return at, number


def _moment(call: Call, name: str) -> float | None:
    text = call.query.get(name)
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise Problem(400, f"{name} is no RFC 3339 time") from None
