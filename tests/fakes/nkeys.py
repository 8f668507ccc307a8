"""Keys and tokens as `nsc` makes them: operator, account and user for a nats-server that trusts an operator.

operator, account, user = KeyPair("operator"), KeyPair("account"), KeyPair("user")
server settings: trusting(operator, account)
credentials of the user: creds(user, account)
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

Kind = Literal["operator", "account", "user"]

_PREFIXES: Final[dict[Kind, int]] = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_SEED: Final = 18 << 3
_COUNTED = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
_UNLIMITED = dict.fromkeys(_COUNTED, -1) | {"wildcards": True}
_STORAGE = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


class KeyPair:
    """An Ed25519 key in the form that NATS gives it."""

    def __init__(self, kind: Kind) -> None:
        self._key = Ed25519PrivateKey.generate()
        prefix = _PREFIXES[kind]
        raw = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        self.seed = _base32(bytes([_SEED | prefix >> 5, (prefix & 31) << 3]) + raw)
        self.public = _base32(
            bytes([prefix]) + self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        )

    def jwt(self, subject: KeyPair, nats: dict[str, object]) -> str:
        """A token about *subject* that this key has signed."""
        header = _base64({"typ": "JWT", "alg": "ed25519-nkey"})
        claims = {"iat": 1_750_000_000, "iss": self.public, "sub": subject.public, "jti": "1", "name": "test"}
        text = f"{header}.{_base64({**claims, 'nats': {'version': 2, **nats}})}"
        return f"{text}.{_unpadded(self._key.sign(text.encode()))}"


def trusting(operator: KeyPair, account: KeyPair) -> dict[str, object]:
    """Settings of a server that knows one operator and one account, which may use JetStream."""
    system = KeyPair("account")

    def issued(subject: KeyPair, **limits: object) -> str:
        return operator.jwt(subject, {"type": "account", "limits": {**_UNLIMITED, **limits}})

    return {
        "operator": operator.jwt(operator, {"type": "operator"}),
        "resolver": "MEMORY",
        "system_account": system.public,
        "resolver_preload": {
            account.public: issued(account, **_STORAGE),
            system.public: issued(system),
        },
    }


def creds(user: KeyPair, account: KeyPair) -> str:
    """The content of the user's .creds file."""
    token = account.jwt(user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )


def _base32(data: bytes) -> str:
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).rstrip(b"=").decode()


def _base64(document: dict[str, object]) -> str:
    return _unpadded(json.dumps(document).encode())


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
