"""Syslog messages, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.syslog_config import SyslogConfig
from relay.destinations.syslog_message import Messages
from relay.konnect.lines import format_of
from relay.model import Event
from tests.fakes.syslog import FrameReader, Framing

CEF = b"CEF:0|KongInc|Konnect|1.0|KongGateway|Ingress|%d|rt=1750280466089 src=127.0.0.1 act=GET"
LINE = b"2025-06-18T21:01:07Z konghq.com " + CEF % 1
JSON = b'{"cef_version":"0","name":"Ingress","rt":1750280466089,"severity":6,"user_agent":"\xc3\xa9"}'
CPS = b'{"event":{"cef_version":"0","name":"Ingress","rt":1750280466089,"severity":10}}'
ID = "0123456789abcdef0123456789abcdef"


def event_of(line: bytes, *, rewritten_from: bytes | None = None) -> Event:
    return Event(ID, line, format_of(line), "konnect-us", 1_750_280_500.25, rewritten_from)


def messages(**settings: object) -> Messages:
    given_ = {"name": "siem", "type": "syslog", "address": "siem.example.com", **settings}
    return Messages(SyslogConfig.model_validate(given_))


def message(line: bytes, **settings: object) -> bytes:
    return messages(**settings).message(event_of(line))


@pytest.mark.parametrize(
    ("line", "settings", "expected"),
    [
        pytest.param(
            LINE,
            {},
            b"<110>Jun 18 21:01:06 konghq.com " + CEF % 1,
            id="cef: RFC 3164, the event's own time, the line's host",
        ),
        pytest.param(
            LINE,
            {"rfc": 5424},
            b"<110>1 2025-06-18T21:01:06.089Z konghq.com konnect - - - " + CEF % 1,
            id="cef in RFC 5424",
        ),
        pytest.param(
            JSON,
            {},
            b"<108>1 2025-06-18T21:01:06.089Z konghq.com konnect - - - " + JSON,
            id="json: RFC 5424",
        ),
        pytest.param(
            CPS,
            {"rfc": 3164},
            b"<106>Jun 18 21:01:06 konghq.com konnect: " + CPS,
            id="cps in RFC 3164: with a tag",
        ),
        pytest.param(
            b"not a record at all",
            {},
            b"<110>1 2025-06-18T21:01:40.250Z konghq.com konnect - - - not a record at all",
            id="unknown: the time of arrival, the mildest severity",
        ),
        pytest.param(
            b"Apr  4 05:39:08 konghq.com CEF:0|KongInc|Konnect|1.0|A|B|7|rt=3958q3097698",
            {},
            b"<107>Jun 18 21:01:40 konghq.com CEF:0|KongInc|Konnect|1.0|A|B|7|rt=3958q3097698",
            id="the header of 2023, and no usable time",
        ),
        pytest.param(
            b"who knows what CEF:0|KongInc|Konnect|1.0|A|B|9|rt=1746576006089",
            {},
            b"<106>May  7 00:00:06 konghq.com konnect: "
            b"who knows what CEF:0|KongInc|Konnect|1.0|A|B|9|rt=1746576006089",
            id="what stands before CEF and is no header stays; one-digit days are padded",
        ),
        pytest.param(
            CEF % 99,
            {"facility": "local0", "hostname": "relay-1", "severities": {0: "debug", 10: 0}},
            b"<128>Jun 18 21:01:06 relay-1 " + CEF % 99,
            id="own host, facility and severities; a severity beyond ten",
        ),
        pytest.param(
            JSON,
            {"app_name": "audit", "sd_id": "konnect@32473"},
            b'<108>1 2025-06-18T21:01:06.089Z konghq.com audit - - [konnect@32473 id="%b"] %b'
            % (ID.encode(), JSON),
            id="the event id as structured data",
        ),
        pytest.param(
            LINE + b" a=x\ry\0z\r",
            {},
            b"<110>Jun 18 21:01:06 konghq.com " + CEF % 1 + b" a=x\\ry z\\r",
            id="cef: line ends as CEF escapes them, NUL as a blank",
        ),
        pytest.param(
            b'{"rt":1750280466089,\r"a":1\0}',
            {},
            b'<110>1 2025-06-18T21:01:06.089Z konghq.com konnect - - - {"rt":1750280466089, "a":1 }',
            id="json: blanks, which mean the same between its parts",
        ),
    ],
)
def test_golden(line: bytes, settings: dict[str, object], expected: bytes) -> None:
    """Every byte of a message is known."""
    assert message(line, **settings) == expected


def test_severity_of_a_rewritten_event() -> None:
    """Severity and time are the received event's, whatever form it is sent in."""
    event = event_of(b'{"severity_id":1,"time":1}', rewritten_from=LINE.replace(b"|1|rt", b"|7|rt"))

    assert messages().message(event).startswith(b"<107>1 2025-06-18T21:01:06.089Z konghq.com ")


def test_frames() -> None:
    """A length in front counts bytes; a line feed behind ends a message."""
    assert messages().framed("é".encode()) == b"2 \xc3\xa9"
    assert messages(protocol="tcp").framed(b"abc") == b"abc\n"
    assert messages(protocol="tcp", framing="octet_counting").framed(b"abc") == b"3 abc"
    assert messages(framing="lf").framed(b"abc") == b"abc\n"


@given(
    st.lists(st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: LINE + tail)),
    st.sampled_from(["lf", "octet_counting"]),
    st.sampled_from([None, 3164, 5424]),
)
def test_any_bytes_stay_in_their_frame(lines: list[bytes], framing: Framing, rfc: int | None) -> None:
    """No event, however odd, is read as two or swallows the next; the overhead promised is not exceeded."""
    writer = messages(framing=framing, rfc=rfc)
    written = [writer.message(event_of(line)) for line in lines]
    stream = b"".join(map(writer.framed, written))

    reader = FrameReader(framing)
    assert reader.feed(stream) == written
    assert reader.torn == b""
    growth = sum(line.count(b"\n") + line.count(b"\r") for line in lines)  # each may become two bytes
    assert len(stream) <= sum(map(len, lines)) + len(lines) * writer.overhead + growth
