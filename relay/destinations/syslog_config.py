"""The settings of a `syslog` destination, and how addresses, facilities and severities are written.

Owns defaults that follow from other settings (port, framing, size limit by protocol). Knows nothing of
sockets or messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from relay.config.destination import DestinationConfig
from relay.config.types import Duration, Size, refusal, shown

Protocol = Literal["tls", "tcp", "udp"]
Framing = Literal["octet_counting", "lf"]

# RFC 5424 section 6.2.1, by the names that configurations of syslog servers use.
FACILITIES = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
    "ntp": 12,
    "audit": 13,
    "alert": 14,
    "clock": 15,
    **{f"local{n}": 16 + n for n in range(8)},
}
SEVERITIES = {
    "emergency": 0,
    "alert": 1,
    "critical": 2,
    "error": 3,
    "warning": 4,
    "notice": 5,
    "info": 6,
    "debug": 7,
}
_PORTS: Mapping[Protocol, int] = {"tls": 6514, "tcp": 514, "udp": 514}
_MAX_MESSAGE: Mapping[Protocol, int] = {"tls": 64 * 1024, "tcp": 64 * 1024, "udp": 2048}
_LARGEST_DATAGRAM = 65_507  # bytes of UDP payload over IPv4
_WORST_EVENT = 10

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a syslog server listens."""

    host: str  # a name, or an IP address without brackets
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int) -> Address:
    """`host:port`, `host`, `[v6]:port` or `[v6]`."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise refusal(f"expected host:port, with an IPv6 address in brackets, got {shown(text)}")
    v6, name, digits = match.groups()
    if v6 is not None:
        try:
            IPv6Address(v6)
        except AddressValueError:
            raise refusal(f"expected an IPv6 address in the brackets, got {shown(v6)}") from None
    elif any(not 1 <= len(label) <= 63 for label in name.removesuffix(".").split(".")):
        raise refusal(f"expected a host name, got {shown(name)}")
    port = default_port if digits is None else int(digits)
    if not 1 <= port <= 65_535:
        raise refusal(f"expected a port from 1 to 65535, got {port}")
    return Address(v6 or name, port)


def _address(text: str) -> str:
    parse_address(text, 1)
    return text


def _facility(value: object) -> object:
    return FACILITIES.get(value, value) if isinstance(value, str) else value


def _severity(value: object) -> object:
    return SEVERITIES.get(value, value) if isinstance(value, str) else value


def _from_the_lowest(severities: dict[int, int]) -> dict[int, int]:
    if 0 not in severities:
        raise refusal("expected an entry for 0, where the lowest severities begin")
    return dict(sorted(severities.items()))


def _name_or_number(names: Mapping[str, int]) -> WithJsonSchema:
    numbers = {"type": "integer", "minimum": 0, "maximum": max(names.values())}
    return WithJsonSchema({"anyOf": [{"type": "string", "enum": list(names)}, numbers]})


Facility = Annotated[
    int, BeforeValidator(_facility), Field(ge=0, le=max(FACILITIES.values())), _name_or_number(FACILITIES)
]
Severity = Annotated[int, BeforeValidator(_severity), Field(ge=0, le=7), _name_or_number(SEVERITIES)]
EventSeverity = Annotated[int, Field(ge=0, le=_WORST_EVENT)]


class SyslogConfig(DestinationConfig):
    """A syslog receiver."""

    type: Literal["syslog"] = Field(description="A syslog receiver over TLS, TCP or UDP.")
    address: Annotated[str, AfterValidator(_address)] = Field(
        description="host:port; the port may be left out: 6514 for tls, 514 for tcp and udp."
    )
    protocol: Protocol = Field(default="tls", description="How to get there: tls, tcp or udp.")
    rfc: Literal[3164, 5424] | None = Field(
        default=None, description="Header of a message; left out: 3164 for CEF lines, 5424 for all others."
    )
    framing: Framing | None = Field(
        default=None, description="octet_counting or lf; left out: octet_counting for tls, lf for tcp."
    )
    facility: Facility = Field(
        default=FACILITIES["audit"], description="Facility by number or by name, such as audit or local0."
    )
    severities: Annotated[dict[EventSeverity, Severity], AfterValidator(_from_the_lowest)] = Field(
        default={0: 6, 4: 4, 7: 3, 9: 2},
        description="Syslog severity from an event's severity upwards, by number or name.",
    )
    app_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]{1,48}$")] = Field(
        default="konnect", description="APP-NAME of RFC 5424; tag of RFC 3164 where the line is not CEF."
    )
    hostname: Annotated[str, Field(pattern=r"^[!-~]{1,255}$")] | None = Field(
        default=None, description="HOSTNAME; left out: the one in front of a CEF line, else konghq.com."
    )
    sd_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,20}@[0-9][0-9.]{0,10}$")] | None = Field(
        default=None,
        description="Name of a structured-data element that carries the event id, e.g. konnect@32473.",
    )
    max_message: Annotated[Size, Field(ge=480)] | None = Field(
        default=None,
        description="Most bytes in one message; longer ones are dead-lettered. Left out: 64KiB, udp 2KiB.",
    )
    resend_last: Annotated[Duration, Field(le=3600)] = Field(
        default=30.0,
        description="After a connection that was lost, what was sent so long before is sent once more.",
    )
    resend_max_bytes: Size = Field(
        default=16 * 1024**2, description="Memory for that; what is beyond it is not sent again."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.protocol == "udp":
            if self.framing is not None:
                raise refusal("`framing` is for tcp and tls; with udp each message is a datagram")
            if self.limit > _LARGEST_DATAGRAM:
                raise refusal(f"a datagram holds at most {_LARGEST_DATAGRAM} bytes; lower `max_message`")
        if self.sd_id is not None and self.rfc == 3164:
            raise refusal("`sd_id` needs a header of RFC 5424")
        if self.batch.compression != "none":
            raise refusal("syslog knows no compression; leave out `batch.compression`")
        return self

    @property
    def target(self) -> Address:
        return parse_address(self.address, _PORTS[self.protocol])

    @property
    def limit(self) -> int:
        """Most bytes in one message."""
        return self.max_message or _MAX_MESSAGE[self.protocol]

    @property
    def counts_octets(self) -> bool:
        """Whether a message is preceded by its length rather than followed by a line feed."""
        return (self.framing or ("octet_counting" if self.protocol == "tls" else "lf")) == "octet_counting"
