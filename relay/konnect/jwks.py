"""The keys that Konnect signs events with: reading a JSON Web Key Set, and remembering keys that left it.

Pure: fetching and keeping is `relay.signing`'s. Only Ed25519 is read (RFC 8037: `kty` OKP, `crv` Ed25519),
every other key in a set is somebody else's business and passed over.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from relay.errors import KeysUnusable

_KEY_BYTES: Final = 32
_MOST_KEYS: Final = 32  # in one set: an event that fails costs a verification with each
_MOST_RETIRED: Final = 16
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}")


@dataclass(frozen=True, slots=True)
class Key:
    """One public key. Two keys are the same when their bytes are, whatever they are called."""

    kid: str = field(compare=False)
    x: bytes  # 32
    public: Ed25519PublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "public", Ed25519PublicKey.from_public_bytes(self.x))

    def jwk(self) -> dict[str, str]:
        """The key as a member of a set."""
        return {"kty": "OKP", "alg": "EdDSA", "kid": self.kid, "crv": "Ed25519", "x": _text(self.x)}


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys in force, and those that were once: events signed by them may still be in the log."""

    current: tuple[Key, ...] = ()
    retired: tuple[Key, ...] = ()  # the one that left last comes first

    @property
    def keys(self) -> tuple[Key, ...]:
        """All of them, in the order they are tried."""
        return self.current + self.retired

    def followed_by(self, fetched: Iterable[Key]) -> Keyring:
        """The ring after the set was fetched again: what is not in it any more is retired, not forgotten."""
        current = tuple(dict.fromkeys(fetched))
        retired = [key for key in self.keys if key not in current]
        return Keyring(current, tuple(retired[:_MOST_RETIRED]))


def parse_jwks(document: bytes) -> tuple[Key, ...]:
    """The Ed25519 keys of a key set. Raises `KeysUnusable` with one sentence."""
    try:
        value = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise KeysUnusable("it is not JSON, so no key set") from error
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise KeysUnusable("it is no key set: expected an object with a list `keys`")
    return parse_keys(value["keys"])


def parse_keys(keys: Iterable[object]) -> tuple[Key, ...]:
    """The Ed25519 keys among the members of a set; at least one. Raises `KeysUnusable`."""
    found = [_key(n, jwk) for n, jwk in enumerate(keys) if isinstance(jwk, dict) and _is_ed25519(jwk)]
    if not found:
        raise KeysUnusable("it holds no Ed25519 key (kty OKP, crv Ed25519)")
    if len(found) > _MOST_KEYS:
        raise KeysUnusable(f"it holds {len(found)} keys; more than {_MOST_KEYS} would make checking too slow")
    return tuple(dict.fromkeys(found))


def _is_ed25519(jwk: dict[str, object]) -> bool:
    return jwk.get("kty") == "OKP" and jwk.get("crv") == "Ed25519"


def _key(number: int, jwk: dict[str, object]) -> Key:
    x = jwk.get("x")
    raw = _bytes(x) if isinstance(x, str) else None
    if raw is None:
        raise KeysUnusable(f"keys[{number}].x: expected base64url text")
    if len(raw) != _KEY_BYTES:
        # Kong's documentation once printed a key of 33 bytes.
        raise KeysUnusable(f"keys[{number}].x: expected {_KEY_BYTES} bytes, got {len(raw)}")
    kid = jwk.get("kid")
    return Key(kid if isinstance(kid, str) and kid else _thumbprint(raw), raw)


def _thumbprint(x: bytes) -> str:
    """RFC 7638, for a key without a name."""
    members = f'{{"crv":"Ed25519","kty":"OKP","x":"{_text(x)}"}}'
    return _text(sha256(members.encode()).digest())


def _bytes(text: str) -> bytes | None:
    if not _BASE64URL.fullmatch(text):
        return None
    try:
        return urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except ValueError:
        return None


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
