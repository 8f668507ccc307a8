"""How one destination wants its events written: in which format, and without which fields.

Owns the order of things (read the line, take fields out, write it anew) and what becomes of a line that
cannot be read. Knows neither batches nor destinations; equal rewritings give equal bytes, so that
destinations which want the same can share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from relay.formats.redaction import Redaction
from relay.formats.write import Writing, write
from relay.konnect.lines import format_of
from relay.konnect.parse import parse
from relay.konnect.record import Record
from relay.model import Event, Format

FormatName = Literal["source", "cef", "json", "cps", "ecs", "ocsf"]

_RESULT: dict[FormatName, Format] = {
    "cef": Format.CEF,
    "json": Format.JSON,
    "cps": Format.CPS,
    "ecs": Format.JSON,
    "ocsf": Format.JSON,
}
_OWN: dict[Format, Writing] = {Format.CEF: "cef", Format.JSON: "json", Format.CPS: "cps"}


@dataclass(frozen=True, slots=True)
class Written:
    """One event as a destination gets it."""

    line: bytes
    received: bytes  # the line as received, but for fields taken out
    format: Format  # of `line`
    read: bool = True  # False: the line could not be read, so it goes out as it came
    fit: bool = True  # False: it must not go out, since nobody can tell which fields it holds


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Compared by value: the key by which results are shared."""

    format: FormatName = "source"
    redaction: Redaction | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self.format != "source" or self.redaction is not None

    def write(self, event: Event) -> Written:
        """*event* as this rewriting has it; never raises for what the line holds."""
        record = parse(event.line)
        if record is None:
            return self._unread(event)
        received = event.line
        if self.redaction is not None:
            record, changed = self.redaction.apply(record)
            if changed:
                received = _as_received(record, event)
        if self.format == "source":
            return Written(received, received, event.format)
        line = self._converted(record, event, received)
        return Written(line, received, _RESULT[self.format])

    def _converted(self, record: Record, event: Event, received: bytes) -> bytes:
        if self.format == "source":
            return received
        return write(
            record,
            self.format,
            event_id=event.id,
            received=received,
            source=event.source,
            received_at=event.received_at,
            signature=event.signature,
        )

    def _unread(self, event: Event) -> Written:
        """A line that is no event we know: as it came, inside an object where the format is one."""
        if self.redaction is not None:
            return Written(b"", b"", event.format, read=False, fit=False)
        if self.format in ("source", "cef"):
            return Written(event.line, event.line, event.format, read=False)
        if self.format in ("ecs", "ocsf"):
            line = self._converted(Record(), event, event.line)
        else:
            line = orjson.dumps({"message": _text(event.line), "event_id": event.id})
            if self.format == "cps":
                line = b'{"event":%b}' % line
        return Written(line, event.line, _RESULT[self.format], read=False)


def _as_received(record: Record, event: Event) -> bytes:
    """A changed record in the format it came in."""
    return write(
        record,
        _OWN.get(format_of(event.line), "json"),
        event_id=event.id,
        received=b"",
        source=event.source,
    )


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")
