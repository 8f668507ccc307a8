"""Who the relay is to NATS: the keys of nkeys and .creds files, and the signature that proves them.

An nkey is an Ed25519 key in base 32 with a prefix that tells what it belongs to and a CRC-16 behind it, see
https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth. Owns only that
form: the package that `nats-py` would use for it comes without a wheel.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.config.secret import Secret

_SEED: Final = 18 << 3  # prints as S
_USER: Final = 20 << 3  # prints as U
_CRC_BYTES: Final = 2
_CREDS_PARTS = re.compile(r"-----BEGIN [A-Z ]+-----\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's key pair and, where an account issued one, the user's JWT."""

    seed: Secret
    jwt: Secret | None = None

    @classmethod
    def of_creds(cls, content: Secret) -> Identity:
        """From the content of a .creds file, whose form the configuration has checked."""
        jwt, seed = _CREDS_PARTS.findall(content.reveal())
        return cls(Secret(seed), Secret(jwt))

    def public_key(self) -> str:
        """What the server knows the user by. Raises `ValueError` for a damaged seed."""
        public = self._key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        data = bytes([_USER]) + public
        return base64.b32encode(data + _crc(data)).rstrip(b"=").decode()

    def sign(self, nonce: str) -> bytes:
        """The answer to the server's challenge."""
        return base64.b64encode(self._key().sign(nonce.encode()))

    def user_jwt(self) -> bytes:
        return b"" if self.jwt is None else self.jwt.reveal().encode()

    def _key(self) -> Ed25519PrivateKey:
        text = self.seed.reveal()
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
        data, crc = raw[:-_CRC_BYTES], raw[-_CRC_BYTES:]
        # Both prefixes are five bits long: they share the second byte.
        kind, owner = data[0] & 0xF8, (data[0] & 7) << 5 | data[1] >> 3
        if _crc(data) != crc or (kind, owner) != (_SEED, _USER):
            raise ValueError("not the seed of a user's nkey, or damaged")
        return Ed25519PrivateKey.from_private_bytes(data[2:])


def _crc(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0).to_bytes(_CRC_BYTES, "little")
