"""The `signatures` section of a source: whether its events are checked, and with which keys.

Owns how keys are named in the configuration. Fetching and reading them is `relay.signing`'s.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from relay.config.secret import SecretUrl, is_loopback
from relay.config.types import Section, refusal, shown

EXAMPLE_URL: Final = "https://us.api.konghq.com/v2/audit-log-webhook/jwks.json"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class PinnedKey(Section):
    """One Ed25519 public key as a JSON Web Key (RFC 8037)."""

    kty: Literal["OKP"] = Field("OKP", description="Key type.")
    crv: Literal["Ed25519"] = Field("Ed25519", description="Curve.")
    alg: Literal["EdDSA", "Ed25519"] | None = Field(None, description="Algorithm; not needed.")
    use: Literal["sig"] | None = Field(None, description="Use; not needed.")
    kid: str | None = Field(None, description="Name of the key; by default its thumbprint.")
    x: str = Field(description="The key: 32 bytes, base64url.", pattern=r"^[A-Za-z0-9_-]{43}=?$")


class PinnedKeys(Section):
    """Keys that stand in the configuration and are never fetched."""

    keys: tuple[PinnedKey, ...] = Field(description="The keys, as in a JSON Web Key Set.", min_length=1)


def _origin(value: object) -> object:
    if isinstance(value, str):
        return _file_or_url(value)
    if isinstance(value, dict):
        try:
            return PinnedKeys.model_validate(value)
        except ValidationError as error:
            # Public keys: nothing here is a secret.
            # A list of wrong items is said to be too short as well: the first sentence is the one.
            raise refusal(_sentence(error.errors(include_url=False)[0])) from None
    if value is None or isinstance(value, SecretUrl | Path | PinnedKeys):
        return value
    raise refusal(f"expected a URL such as {EXAMPLE_URL}, a file, or {{keys: [...]}}, got {shown(value)}")


def _sentence(details: object) -> str:
    assert isinstance(details, dict)  # noqa: S101 - a TypedDict; this tells mypy
    path = "".join([f"[{part}]" if isinstance(part, int) else f".{part}" for part in details["loc"]])
    return f"{path.lstrip('.')}: {details['msg'][:1].lower()}{details['msg'][1:]}"


def _file_or_url(value: str) -> SecretUrl | Path:
    if not value.strip():
        raise refusal("must not be empty")
    if not _URL.match(value):
        return Path(value)
    url = SecretUrl.parse(value)
    if url.scheme == "http" and not is_loopback(url.host):
        # Who can change the answer on its way can sign whatever he likes.
        raise refusal("expected an https URL: keys that came over plain HTTP prove nothing")
    return url


KeyOrigin = Annotated[
    SecretUrl | Path | PinnedKeys,
    BeforeValidator(_origin, json_schema_input_type=str | dict[str, list[dict[str, str]]]),
    PlainSerializer(lambda it: it.model_dump(mode="json") if isinstance(it, PinnedKeys) else str(it)),
]
"""Where the keys come from: a URL, a file, or the configuration itself."""


class Signatures(Section):
    """Checking of Konnect's event signatures."""

    mode: Annotated[
        Literal["off", "tag", "quarantine"],
        BeforeValidator(
            lambda value: "off" if value is False else value,
            json_schema_input_type=Literal["off", "tag", "quarantine", False],
        ),
    ] = Field(
        "off",
        description="off; tag: check and tell the result; quarantine: also keep back what does not verify.",
    )
    jwks: KeyOrigin | None = Field(
        None, description="Konnect's public keys: URL of the regional JWKS, a file, or `{keys: [...]}`."
    )
    cache: Path | None = Field(
        None,
        description="File that keeps keys from a URL; by default beside a SQLite queue, with JetStream none.",
    )

    @model_validator(mode="after")
    def _keys_where_needed(self) -> Self:
        if self.mode != "off" and self.jwks is None:
            raise refusal(
                f"mode {self.mode} needs `jwks`: a URL such as {EXAMPLE_URL}, a file, or {{keys: [...]}}"
            )
        if self.cache is not None and not isinstance(self.jwks, SecretUrl):
            raise refusal("`cache` is for keys from a URL; `jwks` is none")
        return self
