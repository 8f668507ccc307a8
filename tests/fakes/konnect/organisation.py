"""An organisation's settings: destinations for all regions, a webhook for each region and each Dev Portal.

Owns the state that the control API shows and changes and the sender goes by; knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

REGION = "us"
PORTAL = "3e551b39-227d-4297-b911-e68fd5d77c17"
TOKEN = "kpat_TESTtokenTESTtoken"

NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Place:
    """What a webhook, its status and its replay job belong to."""

    region: str = REGION
    portal: str | None = None


@dataclass(slots=True)
class Destination:
    """Where a webhook sends."""

    id: str
    name: str
    endpoint: str
    authorization: str
    log_format: str
    skip_ssl_verification: bool
    created_at: str
    updated_at: str

    def shown(self) -> dict[str, Any]:
        """As the API returns it: never with its authorization."""
        names = ("id", "name", "endpoint", "log_format", "skip_ssl_verification", "created_at", "updated_at")
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class Webhook:
    """A region's or a portal's webhook and what became of its last attempt."""

    destination: Destination | None = None  # set inline (v2), it is in no list
    enabled: bool = False
    failing: bool = False  # a batch was given up on since it was enabled
    last_attempt_at: float | None = None
    last_code: int | None = None
    last_message: str | None = None

    @property
    def status(self) -> str:
        if self.destination is None:
            return "unconfigured"
        return "active" if self.enabled and not self.failing else "inactive"


@dataclass(slots=True)
class Job:
    """A replay job."""

    start: float | None = None
    end: float | None = None
    status: str = "unconfigured"
    updated_at: float | None = None

    @property
    def running(self) -> bool:
        return self.status in ("accepted", "pending", "running")

    def shown(self) -> dict[str, Any]:
        return {
            "start_at": rfc3339(self.start),
            "end_at": rfc3339(self.end),
            "status": self.status,
            "updated_at": rfc3339(self.updated_at),
        }


@dataclass(slots=True)
class Organisation:
    """All settings."""

    now: Callable[[], float]
    tokens: dict[str, bool] = field(default_factory=lambda: {TOKEN: True})  # may it do this?
    portals: dict[str, str] = field(default_factory=lambda: {PORTAL: REGION})  # their region
    destinations: dict[str, Destination] = field(default_factory=dict)
    webhooks: dict[Place, Webhook] = field(default_factory=dict)
    jobs: dict[Place, Job] = field(default_factory=dict)
    linger: int = 0  # so many more times a destination is called in use after it was unset
    _made: int = 0

    def webhook(self, place: Place) -> Webhook:
        return self.webhooks.setdefault(place, Webhook())

    def job(self, place: Place) -> Job:
        return self.jobs.setdefault(place, Job())

    def new_destination(
        self, name: str, endpoint: str, authorization: str, log_format: str = "cef", *, skip: bool = False
    ) -> Destination:
        """A destination that is in no list yet."""
        self._made += 1
        made = f"07ec3858-066b-4629-bdc5-{self._made:012d}"
        now = rfc3339(self.now())
        return Destination(made, name, endpoint, authorization, log_format, skip, now, now)

    def bind(
        self, endpoint: str, authorization: str, *, place: Place | None = None, log_format: str = "cef"
    ) -> Destination:
        """What a finished set-up leaves: a destination, and the webhook enabled with it."""
        name = f"test-{self._made}"
        made = self.new_destination(name, endpoint, authorization, log_format)
        self.destinations[made.id] = made
        webhook = self.webhook(place or Place())
        webhook.destination, webhook.enabled, webhook.failing = made, True, False
        return made

    def users(self, destination: Destination) -> Iterator[Place]:
        """The webhooks that are bound to it."""
        return (place for place, webhook in self.webhooks.items() if webhook.destination is destination)


def rfc3339(seconds: float | None) -> str:
    if seconds is None:
        return NEVER
    text = datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
