"""What a webhook is bound to at the moment: its destination, wherever it was set.

Owns the joining of the three answers that only together tell it: version 3 knows the destination's id,
version 2 the endpoint of a webhook that has no destination, and the destinations' own list the rest. Owns as
well what counts as an endpoint of this relay.
"""

from __future__ import annotations

import re
import string
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from relay.recovery.answers import DestinationInfo, Scope
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectNotFound

_PATH: Final = "/audit-logs"  # the intake's
_PORTS: Final = {"http": 80, "https": 443}
_DOUBTFUL: Final = re.compile(r"[\s\x00-\x1f\x7f\\]")
_ESCAPE: Final = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(f"{string.ascii_letters}{string.digits}-._~")


@dataclass(frozen=True, slots=True)
class Binding:
    """A webhook as it is set."""

    destination_id: str | None
    destination: DestinationInfo | None  # None also where the id leads nowhere
    endpoint: str | None
    enabled: bool

    @property
    def in_use(self) -> bool:
        """Whether somebody has set it, enabled or not."""
        return self.destination_id is not None or self.endpoint is not None


async def binding(api: KonnectApi, scope: Scope) -> Binding:
    """Raises `KonnectError`."""
    webhook = await api.webhook(scope)
    destination = None
    if webhook.destination_id is not None:
        with suppress(KonnectNotFound):
            destination = await api.destination(webhook.destination_id)
    endpoint = None if destination is None else destination.endpoint
    if endpoint is None and scope.portal is None:
        with suppress(KonnectNotFound):  # version 2 may go away one day
            endpoint = (await api.inline_webhook()).endpoint
    return Binding(webhook.destination_id, destination, endpoint, webhook.enabled)


def is_whole(base: str) -> bool:
    """Whether a configured URL says the path as well, not only the host."""
    parts = urlsplit(base)
    return bool(parts.path.strip("/") or parts.query)


def endpoint_of(base: str, source: str) -> str:
    """Where Konnect should send a source's events. *base* is where it reaches this relay."""
    return base if is_whole(base) else f"{base.rstrip('/')}{_PATH}/{source}"


def same_endpoint(one: str | None, other: str | None) -> bool:
    """Whether both are one URL, however it is written (RFC 3986 section 6.2.2)."""
    if one is None or other is None:
        return False
    return one == other or (_read(one) is not None and _read(one) == _read(other))


def is_ours(endpoint: str | None, source: str, *, base: str | None, alone: bool) -> bool:
    """Whether what is sent there comes in here, at *source*; *alone*: there is no other source.

    Where nobody has said how Konnect reaches this relay (*base*), the path has to do. A *base* with a path is
    that of one source; for the others the host counts, and the path as above.
    """
    there = None if endpoint is None else _read(endpoint)
    if there is None:
        return False
    if base is not None:
        if same_endpoint(endpoint, endpoint_of(base, source)):
            return True
        here = _read(base)
        if here is None or there.origin != here.origin:
            return False
        if not is_whole(base):
            return alone and there.path == _PATH
    return there.path.endswith(f"{_PATH}/{source}") or (alone and there.path.endswith(_PATH))


class _Url(NamedTuple):
    """A URL with what may be written in several ways written in one."""

    origin: tuple[str, str, str, int | None]  # scheme, user, host, port
    path: str
    rest: tuple[str, str]  # query, fragment


def _read(url: str) -> _Url | None:
    """None for what two readers may read in two ways: whoever set it was not us."""
    if _DOUBTFUL.search(url):
        return None
    try:
        parts = urlsplit(url)
        port = _PORTS.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return None
    user, at, _ = parts.netloc.rpartition("@")
    origin = (parts.scheme, user + at, parts.hostname or "", port)
    return _Url(origin, _plain(parts.path) or "/", (_plain(parts.query), parts.fragment))


def _plain(text: str) -> str:
    """With escapes only where one is needed, in capitals."""
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(escape: re.Match[str]) -> str:
    char = chr(int(escape[1], 16))
    return char if char in _UNRESERVED else escape[0].upper()


def shown(endpoint: str | None) -> str:
    """An endpoint as it may be printed: for some receivers the query holds the key."""
    if endpoint is None:
        return "an unknown endpoint"
    try:
        parts = urlsplit(endpoint)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # whoever set it was not us
        return "an endpoint that is no URL"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}{'?…' if parts.query else ''}"
