"""What happens in an organisation: audit events before they are written in any format.

maker = Maker()
maker.some(10, at=clock.now())            # ten different events of all kinds, a millisecond apart
maker.authorization(at=…, granted=False)  # a single one
[event] * 2                               # genuine twins: two records, alike in every byte
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import count

ORGANISATION = "b065b594-6afc-4658-9101-5d9cf3f36b7b"
PRINCIPAL = "87655c36-8d63-48fe-9a1e-53b28dfbc19b"
_TRACE = 3_895_213_347_334_635_099  # above 2^53, as Konnect's are


class Kind(StrEnum):
    """The three types, as the pull API calls them."""

    AUTHENTICATION = "authentication"
    AUTHORIZATION = "authorization"
    ACCESS = "gateway_access"


Value = str | int | bool


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One audit record."""

    kind: Kind
    at: int  # milliseconds since the epoch, the `rt` field
    product: str
    class_id: str
    name: str
    severity: int
    extensions: tuple[tuple[str, Value], ...]  # in CEF's order, without rt
    portal: str | None = None  # the Dev Portal it is sent for; None: the organisation


class Maker:
    """Makes events that differ from each other, by their trace ids."""

    def __init__(self) -> None:
        self._numbers = count()

    def some(self, number: int, *, at: float, every: float = 0.001) -> list[AuditEvent]:
        """*number* events of all kinds from *at* (seconds since the epoch), *every* so many seconds."""
        makers = (self.authorization, self.authentication, self.access)
        return [makers[n % 3](at=at + n * every) for n in range(number)]

    def authorization(self, *, at: float, granted: bool = True, resource: str = "portals") -> AuditEvent:
        """A permission check."""
        extensions: tuple[tuple[str, Value], ...] = (
            ("src", "127.0.0.6"),
            ("action", "retrieve"),
            ("granted", granted),
            ("org_id", ORGANISATION),
            ("principal_id", PRINCIPAL),
            ("actor_id", ""),
            ("trace_id", self._trace()),
            ("user_agent", "grpc-node/1.24.11 grpc-c/8.0.0 (linux; chttp2; ganges)"),
        )
        severity = 1 if granted else 6
        return AuditEvent(
            Kind.AUTHORIZATION, _ms(at), "Konnect", "konnect", f"Authz.{resource}", severity, extensions
        )

    def authentication(self, *, at: float, success: bool = True, portal: str | None = None) -> AuditEvent:
        """A login, to Konnect or to a Dev Portal."""
        extensions: tuple[tuple[str, Value], ...] = (
            ("src", "172.71.232.22"),
            ("request", "/api/v2/developer/authenticate" if portal else "/api/v1/authenticate"),
            ("success", success),
            ("org_id", ORGANISATION),
            *((("portal_id", portal),) if portal else ()),
            ("principal_id", PRINCIPAL),
            ("trace_id", self._trace()),
            ("user_agent", ""),
        )
        return AuditEvent(
            Kind.AUTHENTICATION,
            _ms(at),
            "Dev-Portal" if portal else "Konnect",
            "AUTHENTICATION_TYPE_BASIC",
            f"AUTHENTICATION_OUTCOME_{'SUCCESS' if success else 'INVALID_PASSWORD'}",
            0 if success else 1,
            extensions,
            portal,
        )

    def access(self, *, at: float, status: int = 201, query: str = "{}") -> AuditEvent:
        """A request to Konnect's API."""
        extensions: tuple[tuple[str, Value], ...] = (
            ("src", "127.0.0.6"),
            ("request", "/konnect-api/api/control_planes"),
            ("act", "POST"),
            ("status", status),
            ("org_id", ORGANISATION),
            ("principal_id", PRINCIPAL),
            ("user_agent", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Safari/537.36"),
            ("trace_id", self._trace()),
            ("query", query),
        )
        severity = 10 if status == 500 else 6 if status in (401, 403) else 1
        return AuditEvent(Kind.ACCESS, _ms(at), "Konnect", "KongGateway", "Ingress", severity, extensions)

    def _trace(self) -> Value:
        """A 64-bit number, or every ninth time the hexadecimal form of 2026."""
        number = next(self._numbers)
        return f"6853292c00000000{number:016x}" if number % 9 == 8 else _TRACE + number


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
