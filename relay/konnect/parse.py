"""One line of Konnect's as a record, whichever of its three formats it is in."""

from __future__ import annotations

from relay.konnect.cef import parse_cef
from relay.konnect.json_lines import parse_object
from relay.konnect.lines import format_of
from relay.konnect.record import Record
from relay.model import Format


def parse(line: bytes) -> Record | None:
    """The record in *line*, or None where it is no readable event. Never raises, whatever the bytes.

    Unreadable are: a line that is neither CEF nor JSON, a CEF header with too few fields, truncated or
    otherwise invalid JSON, JSON that is no object, and CPS whose `event` is no object. Bytes that are no
    UTF-8 become U+FFFD; nothing else is changed on the way.
    """
    found = format_of(line)
    if found is Format.CEF:
        return parse_cef(line)
    return None if found is Format.UNKNOWN else parse_object(line)
