"""Konnect's control API, as far as audit logs need it.

async with KonnectApi(Hosts.of_region("us"), token, clock=clock) as konnect:
    await konnect.webhook_status(ORGANISATION)

Owns the calls, their paths and what they answer. Every method raises `relay.recovery.errors.KonnectError` and
nothing else; none retries, waits or keeps anything. The calls are those of Kong's published specifications
(audit-logs v2 and v3, portal-management v3); any 2xx is success, for Kong's how-tos and specifications
differ.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self, TypeVar
from urllib.parse import quote

from relay.clock import Clock
from relay.config.recovery import KonnectRecovery
from relay.config.secret import Secret
from relay.recovery.answers import (
    DestinationInfo,
    Document,
    InlineWebhook,
    PulledPage,
    ReplayJob,
    Scope,
    Webhook,
    WebhookStatus,
    documents,
    rfc3339,
)
from relay.recovery.connection import Connection, unreadable
from relay.recovery.cursor import next_cursor

PulledType = Literal["authentication", "authorization", "gateway_access"]

PAGE: Final = 1000  # entries of a pulled page at most, by the specification
_DESTINATIONS: Final = "/v3/audit-log-destinations"
_DESTINATION_PAGE: Final = "100"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where the API is: webhooks, replays and logs are regional, destinations are not."""

    regional: str
    everywhere: str

    @classmethod
    def of_region(cls, region: str) -> Self:
        """*region* such as `us`, `eu`, `au`, `me`, `in`, `sg`. Raises `ValueError` for what is no label."""
        if not re.fullmatch(r"[a-z]{2,12}", region):
            raise ValueError("a region is a word such as us or eu")
        return cls(f"https://{region}.api.konghq.com", "https://global.api.konghq.com")

    @classmethod
    def of(cls, settings: KonnectRecovery) -> Self:
        """Those of the region, unless the configuration says otherwise."""
        hosts = cls.of_region(settings.region)
        regional, everywhere = settings.regional_url, settings.global_url
        return cls(
            regional.reveal() if regional else hosts.regional,
            everywhere.reveal() if everywhere else hosts.everywhere,
        )


class KonnectApi:
    """A client of one region. One token, one event loop."""

    def __init__(self, hosts: Hosts, token: Secret, *, clock: Clock, timeout: float = 20.0) -> None:
        """*timeout* bounds each call, in seconds."""
        self._regional = Connection(hosts.regional, token, clock=clock, timeout=timeout)
        self._everywhere = Connection(hosts.everywhere, token, clock=clock, timeout=timeout)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        await self._regional.open()
        await self._everywhere.open()

    async def close(self) -> None:
        await self._regional.close()
        await self._everywhere.close()

    @property
    def clock_skew(self) -> float | None:
        """Seconds by which Konnect's clock is ahead of ours, whole ones; None before the first answer."""
        return self._regional.skew

    # Webhooks

    async def webhook(self, scope: Scope) -> Webhook:
        return await self._asked(Webhook.of, "GET", _path(scope, "audit-log-webhook"))

    async def inline_webhook(self) -> InlineWebhook:
        """The organisation's, with its endpoint; also one that was set by version 2 of the API."""
        return await self._asked(InlineWebhook.of, "GET", "/v2/audit-log-webhook")

    async def set_webhook(self, scope: Scope, destination_id: str, *, enabled: bool) -> Webhook:
        """Bind and switch it. `enabled` is always sent: left out, some servers take it for false."""
        body = {"audit_log_destination_id": destination_id, "enabled": enabled}
        return await self._asked(Webhook.of, "PATCH", _path(scope, "audit-log-webhook"), body)

    async def unset_webhook(self, scope: Scope) -> None:
        """Unbind it, which also switches it off."""
        await self._regional.ask("DELETE", _path(scope, "audit-log-webhook"))

    async def webhook_status(self, scope: Scope) -> WebhookStatus:
        return await self._asked(WebhookStatus.of, "GET", _path(scope, "audit-log-webhook/status"))

    # Replay

    async def replay_job(self, scope: Scope) -> ReplayJob:
        """The scope's latest job."""
        return await self._asked(ReplayJob.of, "GET", _path(scope, "audit-log-replay-job"))

    async def start_replay(self, scope: Scope, start: float, end: float) -> ReplayJob:
        """Ask for everything from *start* to *end*, seconds since the epoch, within the last seven days.

        It goes to whatever webhook is set when the job runs. `KonnectConflict`: a job is running; it may be
        this very one where an answer was lost, so look at its window.
        """
        body = {"start_at": rfc3339(start), "end_at": rfc3339(end)}
        return await self._asked(ReplayJob.of, "PUT", _path(scope, "audit-log-replay-job"), body)

    # Destinations

    async def destinations(self, *, name: str | None = None) -> tuple[DestinationInfo, ...]:
        """All destinations, or the one of this name."""
        found: list[DestinationInfo] = []
        query = {"page[size]": _DESTINATION_PAGE}
        if name is not None:
            query["filter[name][eq]"] = name
        seen: set[str] = set()
        while True:
            document = await self._everywhere.ask("GET", _DESTINATIONS, query=query)
            page = _read(_destination_list, document, f"GET {_DESTINATIONS}")
            found += page
            cursor = _read(next_cursor, document, f"GET {_DESTINATIONS}")
            if cursor is None or cursor in seen:
                # Not every server filters, so the name is compared here as well.
                return tuple(each for each in found if name is None or each.name == name)
            seen.add(cursor)
            query["page[after]"] = cursor

    async def destination(self, destination_id: str) -> DestinationInfo:
        path = f"{_DESTINATIONS}/{quote(destination_id, safe='')}"
        return _read(DestinationInfo.of, await self._everywhere.ask("GET", path), f"GET {path}")

    async def create_destination(
        self,
        name: str,
        endpoint: str,
        authorization: Secret,
        *,
        log_format: str,
        skip_ssl_verification: bool = False,
    ) -> DestinationInfo:
        """`KonnectConflict`: the name is taken."""
        self._everywhere.keep_secret(authorization)
        body = {
            "name": name,
            "endpoint": endpoint,
            "authorization": authorization.reveal(),
            "log_format": log_format,
            "skip_ssl_verification": skip_ssl_verification,
        }
        document = await self._everywhere.ask("POST", _DESTINATIONS, body)
        return _read(DestinationInfo.of, document, f"POST {_DESTINATIONS}")

    async def set_authorization(self, destination_id: str, authorization: Secret) -> DestinationInfo:
        """From now on Konnect's batches carry this one."""
        self._everywhere.keep_secret(authorization)
        path = f"{_DESTINATIONS}/{quote(destination_id, safe='')}"
        document = await self._everywhere.ask("PATCH", path, {"authorization": authorization.reveal()})
        return _read(DestinationInfo.of, document, f"PATCH {path}")

    async def delete_destination(self, destination_id: str) -> None:
        """`KonnectConflict`: it is in use, which it stays for a while after it was unset."""
        await self._everywhere.ask("DELETE", f"{_DESTINATIONS}/{quote(destination_id, safe='')}")

    # Pull

    async def pages(
        self,
        start: float,
        end: float,
        *,
        only: PulledType | None = None,
        cursor: str | None = None,
        size: int = PAGE,
    ) -> AsyncGenerator[PulledPage, None]:
        """The organisation's log from *start* to *end* inclusive, newest first.

        After an error the caller goes on from the last page's `cursor`. Ends, with the last page marked, when
        Konnect points to a page that was seen before. `KonnectForbidden` or `KonnectNotFound`: the
        organisation may not pull.
        """
        path = "/v3/audit-logs"
        query = {"filter[ts][gte]": rfc3339(start), "filter[ts][lte]": rfc3339(end), "page[size]": str(size)}
        if only is not None:
            query["filter[type]"] = only
        seen: set[str] = set()
        while True:
            if cursor is not None:
                seen.add(cursor)
                query["page[after]"] = cursor
            document = await self._regional.ask("GET", path, query=query)
            entries = tuple(_read(documents, document, f"GET {path}"))
            cursor = _read(next_cursor, document, f"GET {path}")
            if cursor in seen:
                yield PulledPage(entries, None, repeated=True)
                return
            yield PulledPage(entries, cursor)
            if cursor is None:
                return

    async def _asked(
        self,
        reading: Callable[[Document], Answer],
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
    ) -> Answer:
        return _read(reading, await self._regional.ask(method, path, body), f"{method} {path}")


def _path(scope: Scope, what: str) -> str:
    portal = "" if scope.portal is None else f"/portals/{quote(scope.portal, safe='')}"
    return f"/v3{portal}/{what}"


def _destination_list(document: Document) -> list[DestinationInfo]:
    return [DestinationInfo.of(each) for each in documents(document)]


def _read(reading: Callable[[Document], Answer], document: Document, what: str) -> Answer:
    """The border for answers: what cannot be read is an error like all others."""
    try:
        return reading(document)
    except ValueError as error:
        raise unreadable(f"{what}: {error}") from None
