"""A Google service account of our own: its key file as Google hands it out, and the public half."""

from __future__ import annotations

import json
from functools import cache

from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

EMAIL = "relay@acme-secops.iam.gserviceaccount.com"
KEY_ID = "0123456789abcdef0123456789abcdef01234567"
TOKEN_URI = "https://oauth2.googleapis.com/token"


@cache
def _key() -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=2048)


def public_key() -> RSAPublicKey:
    return _key().public_key()


def private_pem() -> str:
    return _key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def key_file(**changes: object) -> str:
    """The JSON text, with *changes*; None takes a field out."""
    fields = {
        "type": "service_account",
        "project_id": "acme-secops",
        "private_key_id": KEY_ID,
        "private_key": private_pem(),
        "client_email": EMAIL,
        "client_id": "123456789012345678901",
        "token_uri": TOKEN_URI,
        **changes,
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None}, indent=2)
