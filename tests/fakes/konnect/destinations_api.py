"""`/v2|v3/audit-log-destinations`: global, though every host answers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from tests.fakes.konnect.call import Call, nothing, shown, wanted
from tests.fakes.konnect.organisation import Destination, Organisation, rfc3339
from tests.fakes.konnect.problems import Problem

_FIELDS = {"name", "endpoint", "authorization", "log_format", "skip_ssl_verification"}
_FORMATS = {"cef", "json", "cps"}


class DestinationsApi:
    """The handlers."""

    def __init__(self, organisation: Organisation) -> None:
        self._organisation = organisation

    async def create(self, call: Call) -> web.Response:
        document = call.document()
        _check(document)
        name = wanted(document, "name", str)
        if any(name == other.name for other in self._organisation.destinations.values()):
            raise Problem(409, "A destination with this name exists")
        made = self._organisation.new_destination(
            name,
            wanted(document, "endpoint", str),
            wanted(document, "authorization", str),
            document.get("log_format", "cef"),
            skip=document.get("skip_ssl_verification", False),
        )
        self._organisation.destinations[made.id] = made
        return shown(made.shown(), 201)

    async def list(self, call: Call) -> web.Response:
        size = int(call.query.get("page[size]", "10"))
        found = [each for each in self._organisation.destinations.values() if _fits(each, call)]
        first = int(call.query.get("page[after]", "0"))
        page = found[first : first + size]
        after = urlencode({"page[after]": first + size, "page[size]": size})
        more = f"/audit-log-destinations?{after}" if first + size < len(found) else None
        meta = {"next": more, "previous": None, "size": size}  # directly: the pull API has `page` between
        return shown({"data": [each.shown() for each in page], "meta": meta})

    async def get(self, call: Call, destination: str) -> web.Response:
        return shown(self._known(destination).shown())

    async def patch(self, call: Call, destination: str) -> web.Response:
        found = self._known(destination)
        document = call.document()
        _check(document)
        for name, value in document.items():
            setattr(found, name, value)
        found.updated_at = rfc3339(self._organisation.now())
        return shown(found.shown())

    async def delete(self, call: Call, destination: str) -> web.Response:
        found = self._known(destination)
        if any(self._organisation.users(found)):
            raise Problem(409, "Destination is in use")
        if self._organisation.linger > 0:
            self._organisation.linger -= 1
            raise Problem(409, "Destination is in use")
        del self._organisation.destinations[destination]
        return nothing()

    def _known(self, destination: str) -> Destination:
        found = self._organisation.destinations.get(destination)
        if found is None:
            raise Problem(404)
        return found


def _fits(destination: Destination, call: Call) -> bool:
    equal, part = call.query.get("filter[name][eq]"), call.query.get("filter[name][contains]")
    return (equal is None or destination.name == equal) and (part is None or part in destination.name)


def _check(document: dict[str, Any]) -> None:
    if unknown := document.keys() - _FIELDS:
        raise Problem(400, f"unknown fields: {', '.join(sorted(unknown))}")
    if "authorization" in document and not document["authorization"]:
        raise Problem(400, "authorization cannot be blank")
    if document.get("log_format", "cef") not in _FORMATS:
        raise Problem(400, "log_format is none of cef, json, cps")
