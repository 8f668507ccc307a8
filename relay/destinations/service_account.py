"""The key of a Google service account, and the signed assertion that it exchanges for a token.

Owns the reading of the JSON file that Google hands out and the assertion of RFC 7523 made with it. Never
sends anything, and no message repeats any of the file.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Annotated, Self

import orjson
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator

from relay.config.secret import Secret, SecretUrl
from relay.config.types import refusal

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"

_LIFETIME = 3600  # seconds; the longest that Google allows


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """What a token is asked for with. Its `repr` shows no key."""

    email: str
    token_uri: str
    key_id: str | None
    _key: RSAPrivateKey = field(repr=False)

    @classmethod
    def read(cls, key_file: Secret) -> Self:
        """Read the JSON key file. Raises a configuration error that names what is wrong with it."""
        said = _object(key_file)
        if said.get("type") != "service_account":
            raise refusal("expected the JSON key of a service account; other credentials are not supported")
        email, token_uri, key_id = map(said.get, ("client_email", "token_uri", "private_key_id"))
        if not isinstance(email, str) or not isinstance(token_uri, str):
            raise refusal("the key of the service account lacks client_email or token_uri")
        SecretUrl.parse(token_uri)
        return cls(email, token_uri, key_id if isinstance(key_id, str) else None, _private_key(said))

    def assertion(self, scope: str, now: float) -> str:
        """A JWT signed with RS256 that asks for a token for *scope*; *now* in seconds since the epoch."""
        header = {"alg": "RS256", "typ": "JWT"} | ({"kid": self.key_id} if self.key_id else {})
        claims = {
            "iss": self.email,
            "scope": scope,
            "aud": self.token_uri,
            "iat": int(now),
            "exp": int(now) + _LIFETIME,
        }
        signed = b".".join(_base64url(orjson.dumps(part)) for part in (header, claims))
        signature = self._key.sign(signed, PKCS1v15(), SHA256())
        return b".".join((signed, _base64url(signature))).decode()


def _object(key_file: Secret) -> dict[str, object]:
    try:
        said = orjson.loads(key_file.reveal())
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise refusal("expected the JSON key of a service account, whole: best as {file: /path}")
    return said


def _private_key(said: dict[str, object]) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(str(said.get("private_key")).encode(), password=None)
    except (ValueError, TypeError):  # its own words may show parts of the key
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise refusal("the private_key of the service account is no RSA key in PEM")
    return key


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _readable(key_file: Secret) -> Secret:
    ServiceAccount.read(key_file)
    return key_file


ServiceAccountKey = Annotated[Secret, AfterValidator(_readable)]
"""The content of a service account's JSON key file."""
