"""The configuration of the object stores: where, with which credentials, in objects of what size.

Owns the checks that can be made without asking the store. Credentials that are left out are looked for
by obstore itself, in the environment and then at the machine's role.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Annotated, Literal, Self

import orjson
from pydantic import AfterValidator, Field, model_validator

from relay.config.destination import BatchLimits, DestinationConfig, Retry
from relay.config.secret import OptionalSecret, Secret
from relay.config.types import Duration, Size, Whole, refusal
from relay.destinations.http_config import HttpUrl

_PREFIX = re.compile(
    r"[A-Za-z0-9_.=-]+(?:/[A-Za-z0-9_.=-]+)*"
)  # what every store and every tool takes as it is
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_CREDENTIAL = re.compile(r"[\x21-\x7e]+")  # they go into headers and URLs


def _prefix(value: str) -> str:
    if value and (not _PREFIX.fullmatch(value) or {".", ".."}.intersection(value.split("/"))):
        raise refusal(
            "expected letters, digits, '_', '.', '=' and '-', with '/' between names, such as kong/audit"
        )
    return value


def _printable(value: Secret | None) -> Secret | None:
    if value is not None and not _CREDENTIAL.fullmatch(value.reveal()):
        raise refusal("expected a credential without spaces, line ends and characters beyond ASCII")
    return value


def _account_key(value: Secret | None) -> Secret | None:
    try:
        if value is not None:
            a2b_base64(value.reveal(), strict_mode=True)
    except (Base64Error, ValueError):
        raise refusal("expected the account's key in base64, as the portal shows it") from None
    return value


def _sas_token(value: Secret | None) -> Secret | None:
    if value is not None:
        pairs = [pair.partition("=") for pair in value.reveal().removeprefix("?").split("&")]
        names = {name for name, _, content in pairs if content}
        if "sig" not in names or not all(content for _, _, content in pairs):
            raise refusal("expected a shared access signature such as sv=…&se=…&sp=c&sig=…")
    return value


def _service_account_key(value: Secret | None) -> Secret | None:
    if value is not None:
        try:
            key = orjson.loads(value.reveal())
        except orjson.JSONDecodeError:
            key = None
        if not isinstance(key, dict) or not {"client_email", "private_key"} <= key.keys():
            raise refusal("expected the JSON key of a service account, best given as {file: /path}")
    return value


Prefix = Annotated[str, Field(max_length=512), AfterValidator(_prefix)]
OptionalCredential = Annotated[OptionalSecret, AfterValidator(_printable)]


class ObjectBatchLimits(BatchLimits):
    """Objects should be few and large: each one costs a request, and every later query opens them all."""

    max_events: Annotated[Whole, Field(ge=1)] = Field(50_000, description="Most events in one object.")
    max_bytes: Annotated[Size, Field(ge=1024)] = Field(
        16 * 1024 * 1024, description="Most bytes in one object, before compression."
    )
    compression: Literal["gzip"] = Field("gzip", description="How objects are compressed; always gzip.")
    linger: Annotated[Duration, Field(le=900)] = Field(
        60.0, description="How long an idle destination waits for more events before it writes an object."
    )


class ObjectRetry(Retry):
    """A store takes an object whole or not at all: a small probe would only leave a small object."""

    probe_max_events: Annotated[Whole, Field(ge=1)] = Field(50_000, description="Most events in a probe.")


class ObjectStoreConfig(DestinationConfig):
    """What the stores have in common."""

    prefix: Prefix = Field(
        default="konnect-audit", description="What every key begins with; empty for the top of the bucket."
    )
    endpoint: HttpUrl | None = Field(
        default=None, description="Address of a compatible store, or of the vendor's in a private network."
    )
    batch: ObjectBatchLimits = Field(
        default=ObjectBatchLimits(),
        description="How many events make an object.",
    )

    retry: ObjectRetry = Field(default=ObjectRetry(), description="When to send again, and when to hold.")

    @model_validator(mode="after")
    def _no_client_certificate(self) -> Self:
        if self.tls.cert is not None:
            raise refusal("tls.cert: an object store cannot be shown a client certificate")
        return self

    @property
    def plain_http(self) -> bool:
        """Whether *endpoint* is to be spoken to without TLS."""
        return self.endpoint is not None and self.endpoint.scheme == "http"


class S3Config(ObjectStoreConfig):
    """A bucket of Amazon S3, or of a store that speaks its language."""

    type: Literal["s3"] = Field(description="Amazon S3 and compatible stores.")
    bucket: str = Field(description="Name of the bucket.", pattern=_NAME, max_length=255)
    region: str | None = Field(
        default=None,
        description="Region of the bucket; by default AWS_REGION or AWS_DEFAULT_REGION, else us-east-1.",
        pattern=r"^[a-z0-9-]+$",
    )
    access_key_id: OptionalCredential = Field(
        default=None,
        description="Access key; without it and its secret: the environment or the machine's role.",
    )
    secret_access_key: OptionalCredential = Field(default=None, description="Secret of the access key.")
    session_token: OptionalCredential = Field(
        default=None, description="Token that goes with a temporary access key."
    )

    @model_validator(mode="after")
    def _whole_key(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise refusal("access_key_id and secret_access_key go together; one of them is missing")
        if self.session_token is not None and self.access_key_id is None:
            raise refusal("session_token needs the access_key_id and secret_access_key it belongs to")
        return self


class GcsConfig(ObjectStoreConfig):
    """A bucket of Google Cloud Storage."""

    type: Literal["gcs"] = Field(description="Google Cloud Storage.")
    bucket: str = Field(description="Name of the bucket.", pattern=_NAME, max_length=255)
    service_account_key: Annotated[OptionalSecret, AfterValidator(_service_account_key)] = Field(
        default=None,
        description="JSON key of a service account; left out: the environment or the machine's account.",
    )


class AzureBlobConfig(ObjectStoreConfig):
    """A container of Azure Blob Storage."""

    type: Literal["azure_blob"] = Field(description="Azure Blob Storage.")
    account: str = Field(description="Name of the storage account.", pattern=r"^[a-z0-9]{3,24}$")
    container: str = Field(description="Name of the container.", pattern=r"^[a-z0-9](?:-?[a-z0-9]){2,62}$")
    account_key: Annotated[OptionalSecret, AfterValidator(_account_key)] = Field(
        default=None, description="Key of the storage account."
    )
    sas_token: Annotated[OptionalCredential, AfterValidator(_sas_token)] = Field(
        default=None,
        description="Shared access signature; without it and a key: the environment or the managed identity.",
    )

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.account_key is not None and self.sas_token is not None:
            raise refusal("expected at most one of account_key and sas_token")
        return self
