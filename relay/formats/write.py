"""One record in one writing: the door to the other modules here."""

from __future__ import annotations

from typing import Literal, assert_never

from relay.formats import ecs, konnect, ocsf
from relay.konnect.record import Record

Writing = Literal["cef", "json", "cps", "ecs", "ocsf"]
"""What a destination's `format` can ask for, besides the line as received."""


def write(
    record: Record,
    writing: Writing,
    *,
    event_id: str,
    received: bytes,
    source: str,
    received_at: float | None = None,
    signature: str | None = None,
) -> bytes:
    """*record* as one line without its end; never a line feed or carriage return in it. Never raises.

    *received* is the line as it came, perhaps with fields taken out: ECS keeps it as `event.original`, OCSF
    as `raw_data`. *source* is the configured source. *received_at*, in seconds since the epoch, stands in
    for the time of an event that does not tell its own; both schemas demand one, so without either it is the
    epoch. *signature* is the result of checking it; Konnect's own three formats have no place for that.
    """
    match writing:
        case "json":
            return konnect.to_json(record)
        case "cef":
            return konnect.to_cef(record)
        case "cps":
            return konnect.to_cps(record)
        case "ecs":
            return ecs.to_ecs(record, event_id, received, source, received_at, signature)
        case "ocsf":
            return ocsf.to_ocsf(record, event_id, received, source, received_at, signature)
        case _:
            assert_never(writing)
