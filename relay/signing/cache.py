"""Keys on disk, so that a relay can start while Konnect's API is away.

Owns the file: a key set as Konnect publishes it, with the retired keys and a mark of where it came from
beside it. Never raises for what it finds: a file that cannot be used is no file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson

from relay.errors import KeysUnusable
from relay.konnect.jwks import Key, Keyring, parse_keys


@dataclass(frozen=True, slots=True)
class Cached:
    """What was kept."""

    keyring: Keyring
    fetched_at: float  # seconds since the epoch


class KeyCache:
    """The file *path* for keys from *url*. Both methods block."""

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        # Keys of another region must not be taken for this one's; the URL itself is nobody's business.
        self._mark = sha256(url.encode()).hexdigest()

    def read(self) -> Cached | None:
        """What was kept last, or None."""
        try:
            value = orjson.loads(self._path.read_bytes())
            if value["origin"] != self._mark:
                return None
            ring = Keyring(parse_keys(value["keys"]), _if_any(value["retired"]))
            return Cached(ring, float(value["fetched_at"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, KeysUnusable):
            return None

    def write(self, kept: Cached) -> None:
        """Replace the file in one step. Raises `OSError`."""
        document = {
            "origin": self._mark,
            "fetched_at": kept.fetched_at,
            "keys": [key.jwk() for key in kept.keyring.current],
            "retired": [key.jwk() for key in kept.keyring.retired],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.new")
        with new.open("wb") as file:
            file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


def _if_any(keys: list[object]) -> tuple[Key, ...]:
    return parse_keys(keys) if keys else ()
