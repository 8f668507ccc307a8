"""One line of Konnect's as a record, whichever of its three formats it is in."""

from __future__ import annotations

from relay.konnect.cef import parse_cef
from relay.konnect.json_lines import parse_object
from relay.konnect.record import Record


def parse(line: bytes) -> Record | None:
    """The record in *line*, or None where it is no readable event. Never raises, whatever the bytes.

    Unreadable are: a line that is neither CEF nor JSON, a CEF header with too few fields, truncated or
    otherwise invalid JSON, JSON that is no object, and CPS whose `event` is no object. Bytes that are no
    UTF-8 become U+FFFD; nothing else is changed on the way.
    """
    # As relay.konnect.lines.format_of tells them, without looking for CEF's marker twice.
    return parse_object(line) if line[:1] == b"{" else parse_cef(line)
