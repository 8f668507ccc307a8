"""An event's line as vendors want it who take JSON apart: the object in it, its time as text.

Owns the one change that is made to an object's bytes: a `trace_id` becomes a string, because 64-bit numbers
are rounded by some receivers and Konnect has meanwhile sent both (docs/konnect.md section 2). Knows
nothing of any vendor.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from relay.destinations.framing import quoted
from relay.destinations.hec_envelope import payload
from relay.konnect.peek import glance
from relay.model import Event, Format

# In JSON text an unescaped quote right behind `trace_id` ends a string, and a colon behind that makes the
# string a key. A value that quotes such a pair has backslashes before its quotes, so it never changes.
_TRACE_ID = re.compile(rb'((?<!\\)"trace_id"\s*:\s*)(-?\d+)(?=\s*[,}])')

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999  # the end of the year 9999

#: An event of the usual metadata and no text, to measure what wrapping adds.
BLANK = Event("0" * 36, b"", Format.UNKNOWN, "s" * 16, 1_750_280_466.0)


def record(line: bytes) -> bytes | None:
    """The JSON object of a line, of CPS the inner one, with any numeric `trace_id` as a string.

    Every other byte is kept. None where the line is no object.
    """
    if line[:1] != b"{":
        return None
    text = payload(line)
    if text[:1] != b"{":
        return None
    # The expression is slow; Konnect sorts the keys, so little stands behind the first place to look at.
    at = text.find(b'"trace_id"') - 1
    return text if at < 0 else text[:at] + _TRACE_ID.sub(_as_text, text[at:])


def _as_text(pair: re.Match[bytes]) -> bytes:
    return b'%b"%b"' % pair.groups()


def headline(event: Event) -> bytes:
    """What to call an event in a list, as a JSON string: its name."""
    name = glance(event.received).name or "Konnect audit event"
    return quoted(name.encode())


def iso_time(ms: int) -> bytes:
    """Milliseconds since the epoch as `2025-06-18T21:01:06.889Z`."""
    moment = _EPOCH + timedelta(milliseconds=min(ms, _LAST_MS))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
