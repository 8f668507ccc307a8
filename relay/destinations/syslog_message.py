"""The text of one syslog message: a header of RFC 3164 or RFC 5424 before an event's line, and its frame.

Owns every byte that a receiver parses. Pure: no clock, no I/O. The event's own bytes go in as they are,
but for the timestamp and host that Konnect puts in front of CEF, which become the header, and for bytes
that would break the framing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from relay.destinations.syslog_config import SyslogConfig
from relay.konnect.lines import CEF_MARKER_BEFORE
from relay.konnect.peek import glance
from relay.konnect.times import happened_at
from relay.model import Event, Format

KONNECT_HOST = b"konghq.com"  # what Konnect itself writes in front of CEF

# `2025-06-18T21:02:36Z konghq.com `, in 2023 `Apr 14 05:39:08 konghq.com `. Anything else before the
# marker is not ours to drop.
_CEF_HEADER = re.compile(
    rb"(?:\d{4}-\d\d-\d\dT[0-9:.]{8,16}Z|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) ([!-~]{1,255}) (?=CEF:)"
)
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_BREAKS_FRAMES = re.compile(rb"[\n\r\0]")
_SPACES = bytes.maketrans(b"\n\r\0", b"   ")
_EVENT_ID_BYTES = 36  # 32 hex digits and room for the number of a twin
_USUAL_HOST_BYTES = 64
_WORST_EVENT = 10


class Messages:
    """Writes events as the messages that a configuration asks for."""

    def __init__(self, config: SyslogConfig) -> None:
        self._rfc = config.rfc
        self._host = config.hostname.encode() if config.hostname is not None else None
        self._app_name = config.app_name.encode()
        self._sd_id = config.sd_id.encode() if config.sd_id is not None else None
        self._counts_octets = config.counts_octets
        self._priorities = [
            b"<%d>" % (config.facility * 8 + _severity(config.severities, n)) for n in range(_WORST_EVENT + 1)
        ]

    @property
    def overhead(self) -> int:
        """Bytes added to a line: header and frame, with the longest usual values."""
        host = self._host or b"x" * _USUAL_HOST_BYTES
        empty = self._header_5424(b"<191>", 0, host, b"x" * _EVENT_ID_BYTES)
        return len(empty) + len("65536 ")

    def message(self, event: Event) -> bytes:
        """The message, without a frame."""
        host, text = _parted(event)
        host = self._host or host or KONNECT_HOST
        priority = self._priority(event)
        at = happened_at(event)
        if self._rfc == 5424 or (self._rfc is None and event.format is not Format.CEF):
            return self._header_5424(priority, at, host, event.id.encode()) + text
        header = b"%b%b %b " % (priority, _stamp_3164(at // 1000), host)
        # `CEF:` stands where the tag would; any other text needs one, or its first word is taken for it.
        return header + text if text.startswith(b"CEF:") else b"%b%b: %b" % (header, self._app_name, text)

    def framed(self, message: bytes) -> bytes:
        """*message* as it stands in a stream (RFC 6587 section 3.4, RFC 5425 section 4.3)."""
        return b"%d %b" % (len(message), message) if self._counts_octets else message + b"\n"

    def _priority(self, event: Event) -> bytes:
        severity = glance(event.received).severity
        return self._priorities[min(max(severity or 0, 0), _WORST_EVENT)]

    def _header_5424(self, priority: bytes, at: int, host: bytes, event_id: bytes) -> bytes:
        # No byte order mark before the text, though the RFC wants one for UTF-8: parsers look for `CEF:`.
        data = b"-" if self._sd_id is None else b'[%b id="%b"]' % (self._sd_id, event_id)
        stamp = b"%b.%03dZ" % (_stamp_5424(at // 1000), at % 1000)
        return b"%b1 %b %b %b - - %b " % (priority, stamp, host, self._app_name, data)


def _severity(severities: dict[int, int], of_event: int) -> int:
    return severities[max(start for start in severities if start <= of_event)]


def _parted(event: Event) -> tuple[bytes | None, bytes]:
    """The host that the line names in front of CEF, and what is left of the line for the message."""
    line = event.line
    if event.format is not Format.CEF:
        return None, line.translate(_SPACES) if _BREAKS_FRAMES.search(line) else line
    host = None
    if header := _CEF_HEADER.match(line, 0, CEF_MARKER_BEFORE):
        host, line = header[1], line[header.end() :]
    if _BREAKS_FRAMES.search(line):
        # As CEF itself writes line ends in values.
        line = line.replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\0", b" ")
    return host, line


@lru_cache(maxsize=1024)
def _stamp_3164(second: int) -> bytes:
    """`Jun  8 21:02:36`: no year and no zone; UTC here."""
    moment = datetime.fromtimestamp(second, UTC)
    return b"%b %2d %02d:%02d:%02d" % (
        _MONTHS[moment.month - 1],  # strftime would ask the locale
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
    )


@lru_cache(maxsize=1024)
def _stamp_5424(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
