"""A service account's key: what is refused, and that what is signed with it can be checked."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic_core import PydanticCustomError

from relay.config.secret import Secret
from relay.destinations.service_account import ServiceAccount
from tests.fakes import google_key

NOW = 1_750_280_500.75


def _decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def elliptic_pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3cret", "expected the JSON key of a service account, whole"),
        ('["s3cret"]', "expected the JSON key of a service account, whole"),
        ('{"type":"external_account","x":"s3cret"}', "other credentials are not supported"),
        (google_key.key_file(client_email=None), "lacks client_email or token_uri"),
        (google_key.key_file(token_uri=None), "lacks client_email or token_uri"),
        (google_key.key_file(token_uri="s3cret"), "expected a URL"),
        (google_key.key_file(private_key=None), "is no RSA key in PEM"),
        (google_key.key_file(private_key="-----BEGIN PRIVATE KEY-----\ns3cret\n"), "is no RSA key in PEM"),
        (google_key.key_file(private_key=elliptic_pem()), "is no RSA key in PEM"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """Anything but a whole key of a service account is named, without a word of it."""
    with pytest.raises(PydanticCustomError) as caught:
        ServiceAccount.read(Secret(text))

    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert google_key.private_pem()[40:60] not in str(caught.value)


def test_assertion() -> None:
    """The assertion names account, scope, audience and one hour, and verifies with the public key."""
    account = ServiceAccount.read(Secret(google_key.key_file()))

    assertion = account.assertion("https://scope.example.com", NOW)

    header, claims, signature = assertion.split(".")
    assert "=" not in assertion
    assert json.loads(_decoded(header)) == {"alg": "RS256", "typ": "JWT", "kid": google_key.KEY_ID}
    assert json.loads(_decoded(claims)) == {
        "iss": google_key.EMAIL,
        "scope": "https://scope.example.com",
        "aud": google_key.TOKEN_URI,
        "iat": 1_750_280_500,
        "exp": 1_750_284_100,
    }
    signed = f"{header}.{claims}".encode()
    google_key.public_key().verify(_decoded(signature), signed, PKCS1v15(), SHA256())


def test_without_a_key_id() -> None:
    """A key without an id signs all the same."""
    account = ServiceAccount.read(Secret(google_key.key_file(private_key_id=None)))

    header = account.assertion("scope", NOW).partition(".")[0]

    assert json.loads(_decoded(header)) == {"alg": "RS256", "typ": "JWT"}


def test_repr() -> None:
    """The account shows itself without its key."""
    account = ServiceAccount.read(Secret(google_key.key_file()))

    assert google_key.EMAIL in repr(account)
    assert "key=" not in repr(account)
