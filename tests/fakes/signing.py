"""Konnect's signature as our samples assume it, with the TEST key of tests/data/jwks_test.json and others."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.konnect.jwks import Key

DATA = Path(__file__).parent.parent / "data"
JWKS_FILE = DATA / "jwks_test.json"
_SEED = bytes.fromhex("23e414b157de2c4a21e90bdbe2c81470792d4db69d2f60d17a54689a4e3b1036")


class Signer:
    """One private key; equal seeds give equal keys."""

    def __init__(self, seed: bytes = _SEED, kid: str = "test") -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = Key(kid, self._private.public_key().public_bytes_raw())

    def text(self, covered: bytes) -> bytes:
        """The signature of these bytes as Konnect writes it."""
        return urlsafe_b64encode(self._private.sign(covered)).rstrip(b"=")

    def cef(self, line: bytes) -> bytes:
        """An unsigned CEF line with its signature, by C1."""
        return line + b" sig=" + self.text(line)

    def json(self, line: bytes) -> bytes:
        """An unsigned JSON line with its signature, by J1."""
        return line[:-1] + b',"sig":"' + self.text(line) + b'"}'


TEST = Signer()


def another(number: int) -> Signer:
    """A key that is none of the others."""
    return Signer(bytes([number]) * 32, f"key-{number}")


def jwks(*signers: Signer) -> bytes:
    """Their public keys as a key set."""
    return document([signer.key for signer in signers])


def document(keys: Sequence[Key]) -> bytes:
    return orjson.dumps({"keys": [key.jwk() for key in keys]})
