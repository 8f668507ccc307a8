"""What the tests of the object stores share: a chunk, a configuration of each type, and how stores speak."""

from __future__ import annotations

import hashlib
import json
from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relay.config.destination import DestinationConfig
from relay.destinations.registry import CONFIG_TYPES
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Answer

LINES = sample("json")
CHUNK = chunk_of(LINES[:3], LINES[3:5])
DIGEST = hashlib.sha256(CHUNK.body).hexdigest()
MORE = chunk_of(LINES[:3], LINES[3:5], LINES[5:8])  # the same, and what came after it

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SESSION_TOKEN = "IQoJb3JpZ2luX2VjEXAMPLEsession//token=="
ACCOUNT_KEY = "a2V5LW9mLXRoZS1zdG9yYWdlLWFjY291bnQ="
SAS = "sv=2024-11-04&se=2030-01-01&sp=c&sr=c&sig=c2lnbmF0dXJlLW9mLWEtc2FzLXRva2Vu%3D"
SECRETS = (
    ACCESS_KEY,
    SECRET_KEY,
    SESSION_TOKEN,
    ACCOUNT_KEY,
    SAS,
    "c2lnbmF0dXJlLW9mLWEtc2FzLXRva2Vu",
    "Signature=",
    "Credential=",
)
STORED = Answer(200, headers={"ETag": '"5d41402abc4b2a76b9719d911017c592"'})


def s3(base: str, **more: object) -> DestinationConfig:
    return CONFIG_TYPES["s3"].model_validate(
        {
            "name": "archive",
            "type": "s3",
            "bucket": "audit",
            "region": "eu-west-1",
            "endpoint": base,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "session_token": SESSION_TOKEN,
            **more,
        }
    )


def azure(base: str, **more: object) -> DestinationConfig:
    credentials = {} if "sas_token" in more else {"account_key": ACCOUNT_KEY}
    return CONFIG_TYPES["azure_blob"].model_validate(
        {
            "name": "archive",
            "type": "azure_blob",
            "account": "acmeaudit",
            "container": "audit",
            "endpoint": base,
            **credentials,
            **more,
        }
    )


@cache
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def gcs(base: str, **more: object) -> DestinationConfig:
    account = {
        "type": "service_account",
        "client_email": "relay@acme.iam.gserviceaccount.com",
        "private_key_id": "0123456789abcdef",
        "private_key": private_key(),
    }
    return CONFIG_TYPES["gcs"].model_validate(
        {
            "name": "archive",
            "type": "gcs",
            "bucket": "audit",
            "endpoint": base,
            "service_account_key": json.dumps(account),
            **more,
        }
    )


def fault(code: str, message: str = "") -> str:
    """An error as S3, Google's XML interface and Azure write it."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"
    )
