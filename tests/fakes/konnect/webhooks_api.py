"""`/v2|v3/…audit-log-webhook`, its status and its replay job, for the organisation and for Dev Portals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from aiohttp import web

from tests.fakes.konnect.call import Call, nothing, shown
from tests.fakes.konnect.organisation import Organisation, Place, Webhook, rfc3339
from tests.fakes.konnect.problems import Problem
from tests.fakes.konnect.truth import RETENTION
from tests.fakes.konnect.writing import jwks


class WebhooksApi:
    """The handlers. *start_replay* runs the job of a place in the background."""

    def __init__(self, organisation: Organisation, start_replay: Callable[[Place], None]) -> None:
        self._organisation = organisation
        self._start_replay = start_replay

    # The webhook as v3 has it: bound to a destination

    async def get(self, call: Call, portal: str | None = None) -> web.Response:
        return shown(_bound(self._webhook(call, portal)))

    async def patch(self, call: Call, portal: str | None = None) -> web.Response:
        webhook = self._webhook(call, portal)
        document = call.document()
        if "audit_log_destination_id" in document:
            destination = self._organisation.destinations.get(document["audit_log_destination_id"])
            if destination is None:
                raise Problem(404, "There is no such destination")
            webhook.destination = destination
        # Left out it counts as false, as with clients that were generated with this default.
        enabled = document.get("enabled", False)
        if enabled and webhook.destination is None:
            raise Problem(400, "A destination is required")
        _enable(webhook, enabled)
        return shown(_bound(webhook))

    async def delete(self, call: Call, portal: str | None = None) -> web.Response:
        webhook = self._webhook(call, portal)
        webhook.destination, webhook.enabled, webhook.failing = None, False, False
        return nothing()

    # As v2 has it: with the address inside

    async def get_inline(self, call: Call) -> web.Response:
        return shown(_inline(self._webhook(call, None)))

    async def patch_inline(self, call: Call) -> web.Response:
        webhook = self._webhook(call, None)
        document = call.document()
        if "endpoint" in document:
            webhook.destination = self._organisation.new_destination(
                "inline",
                document["endpoint"],
                document.get("authorization", ""),
                document.get("log_format", "cef"),
                skip=document.get("skip_ssl_verification", False),
            )
        _enable(webhook, document.get("enabled", False))
        return shown(_inline(webhook))

    # Status and keys

    async def status(self, call: Call, portal: str | None = None) -> web.Response:
        webhook = self._webhook(call, portal)
        document: dict[str, Any] = {
            "webhook_enabled": webhook.enabled,
            "webhook_status": webhook.status,
        }
        if webhook.last_attempt_at is not None:
            document["last_attempt_at"] = rfc3339(webhook.last_attempt_at)
        if webhook.last_code is not None:
            document["last_response_code"] = webhook.last_code
        if webhook.last_message is not None:
            document["last_response_message"] = webhook.last_message
        return shown(document)

    async def keys(self, call: Call) -> web.Response:
        return shown(jwks())

    # The replay job

    async def get_replay(self, call: Call, portal: str | None = None) -> web.Response:
        self._webhook(call, portal)
        return shown(self._organisation.job(call.place(portal)).shown())

    async def put_replay(self, call: Call, portal: str | None = None) -> web.Response:
        self._webhook(call, portal)
        place = call.place(portal)
        document = call.document()
        now = self._organisation.now()
        start, end = _moment(document, "start_at"), _moment(document, "end_at")
        if not now - RETENTION <= start < end:
            raise Problem(400, "The window has to begin within the last 7 days and to end after that")
        job = self._organisation.job(place)
        if job.running:
            raise Problem(409, "A replay job is currently running")
        job.start, job.end, job.status, job.updated_at = start, end, "accepted", now
        answer = shown(job.shown(), 202)
        self._start_replay(place)
        return answer

    def _webhook(self, call: Call, portal: str | None) -> Webhook:
        if portal is not None and self._organisation.portals.get(portal) != call.host:
            raise Problem(404, "There is no such portal")
        return self._organisation.webhook(call.place(portal))


def _enable(webhook: Webhook, enabled: bool) -> None:
    webhook.enabled = enabled
    if enabled:
        webhook.failing = False


def _bound(webhook: Webhook) -> dict[str, Any]:
    document: dict[str, Any] = {"enabled": webhook.enabled}
    if webhook.destination is not None and webhook.destination.name != "inline":
        document["audit_log_destination_id"] = webhook.destination.id
    return document


def _inline(webhook: Webhook) -> dict[str, Any]:
    if webhook.destination is None:
        return {"endpoint": "unconfigured", "enabled": False}
    it = webhook.destination
    return {
        "endpoint": it.endpoint,
        "enabled": webhook.enabled,
        "log_format": it.log_format,
        "skip_ssl_verification": it.skip_ssl_verification,
    }


def _moment(document: dict[str, Any], name: str) -> float:
    try:
        moment = datetime.fromisoformat(document[name])
    except (KeyError, TypeError, ValueError):
        raise Problem(400, f"{name} is no RFC 3339 time") from None
    if moment.tzinfo is None:
        raise Problem(400, f"{name} has no time zone")
    return moment.timestamp()
