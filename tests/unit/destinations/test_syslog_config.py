"""Settings of `syslog`: what follows from what, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from relay.destinations.syslog_config import Address, SyslogConfig, parse_address


def config(**settings: object) -> SyslogConfig:
    return SyslogConfig.model_validate(
        {"name": "siem", "type": "syslog", "address": "siem.example.com", **settings}
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "tls://siem.example.com"}, "expected host:port"),
        ({"address": "siem.example.com:"}, "expected host:port"),
        ({"address": "siem.example.com:0"}, "expected a port from 1 to 65535"),
        ({"address": "siem.example.com:65536"}, "expected a port from 1 to 65535"),
        ({"address": "::1"}, "with an IPv6 address in brackets"),
        ({"address": "[::1::2]:514"}, "expected an IPv6 address in the brackets"),
        ({"address": "siem..example.com"}, "expected a host name"),
        ({"address": f"{'x' * 64}.example.com"}, "expected a host name"),
        ({"protocol": "udp", "framing": "lf"}, "with udp each message is a datagram"),
        ({"protocol": "udp", "max_message": "64KiB"}, "a datagram holds at most 65507 bytes"),
        ({"rfc": 3164, "sd_id": "konnect@32473"}, "needs a header of RFC 5424"),
        ({"sd_id": "konnect"}, "String should match"),
        ({"app_name": "a b"}, "String should match"),
        ({"hostname": "a b"}, "String should match"),
        ({"facility": "loca10"}, "valid integer"),
        ({"facility": 24}, "less than or equal to 23"),
        ({"severities": {0: "bad"}}, "valid integer"),
        ({"severities": {4: 4}}, "expected an entry for 0"),
        ({"severities": {0: 6, 11: 0}}, "less than or equal to 10"),
        ({"max_message": 479}, "greater than or equal to 480"),
        ({"batch": {"compression": "gzip"}}, "syslog knows no compression"),
    ],
)
def test_refuses(settings: dict[str, object], message: str) -> None:
    """What could not work is refused when the configuration is read."""
    with pytest.raises(ValidationError) as caught:
        config(**settings)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "port", "counts", "limit"),
    [("tls", 6514, True, 65_536), ("tcp", 514, False, 65_536), ("udp", 514, False, 2048)],
)
def test_defaults_by_protocol(protocol: str, port: int, counts: bool, limit: int) -> None:
    """Port, framing and limit follow from the protocol."""
    made = config(protocol=protocol)

    assert made.target == Address("siem.example.com", port)
    assert (made.counts_octets, made.limit) == (counts, limit)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("siem.example.com:6514", "siem.example.com", 6514),
        ("10.0.0.5", "10.0.0.5", 99),
        ("[2001:db8::5]:514", "2001:db8::5", 514),
        ("[::1]", "::1", 99),
        ("siem_1.", "siem_1.", 99),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    """Names, addresses of both kinds, with and without a port."""
    address = parse_address(text, 99)

    assert address == Address(host, port)
    assert parse_address(str(address), 1) == address


def test_names_and_numbers() -> None:
    """Facilities and severities go by either."""
    made = config(facility="local7", severities={7: "critical", 0: 6})

    assert made.facility == 23
    assert list(made.severities.items()) == [(0, 6), (7, 2)]
