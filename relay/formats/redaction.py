"""Taking fields out of events before a destination sees them.

Owns what dropping, masking and hashing mean, and the mark that tells of it: the signature covers the line as
Konnect sent it, so whoever verifies it has to know that this is another one.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, Literal

from relay.konnect.record import Record

Field = Literal["user_agent", "query", "principal_name", "src", "request", "principal_id", "actor_id"]
How = Literal["drop", "mask", "hash"]

MARK: Final = "relay_redacted"  # a field of the event: names of the fields that were changed
_MASK: Final = "***"
_HASH_CHARS: Final = 32  # of the hex digest: 128 bits

# What whoever calls Konnect chooses. In a doubtful record a value of these may hold what belongs to another
# field, so all of them go where any field has to.
_CALLERS: Final[tuple[Field, ...]] = ("request", "user_agent", "query", "principal_name")


@dataclass(frozen=True, slots=True)
class Redaction:
    """Which fields a destination must not see, and what it gets in their place."""

    fields: tuple[tuple[Field, How], ...]
    key: bytes = (
        b""  # of the hashes; with it the same value gives the same hash, without it nobody can try values
    )

    def apply(self, record: Record) -> tuple[Record, bool]:
        """The record without them, marked; and whether it is another one."""
        ways = dict(self.fields)
        if record.doubtful:
            ways |= dict.fromkeys(_CALLERS, "drop")
        changes: dict[str, Any] = {}
        for field, how in ways.items():
            value: str | None = getattr(record, field)
            if value:
                changes[field] = self._replaced(value, how)
        if "query" in ways and "request" not in ways:
            path, _, query = (record.request or "").partition("?")
            if query:
                instead = self._replaced(query, ways["query"])
                changes["request"] = path if instead is None else f"{path}?{instead}"
        # A value that could not be typed stands among the undocumented ones, under its own name.
        hidden = {*ways, "request"} if "query" in ways else set(ways)
        extra = tuple([pair for pair in record.extra if pair[0] not in hidden and not record.doubtful])
        if not changes and extra == record.extra:
            return record, False
        gone = [name for name, _ in record.extra if name in hidden or record.doubtful]
        mark = (MARK, ",".join(dict.fromkeys([*changes, *gone])))
        return replace(record, extra=(*extra, mark), **changes), True

    def _replaced(self, value: str, how: How) -> str | None:
        match how:
            case "drop":
                return None
            case "mask":
                return _MASK
            case "hash":
                return hmac.new(self.key, value.encode(), sha256).hexdigest()[:_HASH_CHARS]
