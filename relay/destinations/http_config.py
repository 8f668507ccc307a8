"""What every destination with a URL has in its configuration: the URL itself, credentials, headers.

Owns the checks that make a request well-formed before the first one is made. Errors name the fault,
never the value: URLs and header values may be credentials.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator
from yarl import URL

from relay.config.destination import DestinationConfig
from relay.config.secret import OptionalSecret, Secret, SecretUrl
from relay.config.types import Section, refusal

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_TEXT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 section 5.5: no line end may get in

# The relay sets these itself from what it sends; `content_type` and the credentials have their own keys.
_OURS = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "expect", "transfer-encoding"}
)

_TELLING = 16  # a path segment this long may be a credential; `v1` and `services` are not


def _well_formed(url: SecretUrl) -> SecretUrl:
    if not url.reveal().isascii():
        raise refusal("expected a URL in ASCII, other characters percent-encoded")
    parsed = URL(url.reveal())
    if parsed.raw_user is not None or parsed.raw_password is not None:
        # aiohttp would make an Authorization header of them, beside or instead of the configured one.
        raise refusal("credentials do not belong into the URL; there are keys of their own for them")
    if parsed.raw_fragment:
        raise refusal("expected a URL without a #fragment")
    return url


def _header_text(value: str) -> str:
    if not _TEXT.fullmatch(value):
        raise refusal("expected the text of an HTTP header: one line of Latin-1")
    return value


def _header_secret(value: Secret) -> Secret:
    _header_text(value.reveal())
    return value


def _header_secret_if_any(value: Secret | None) -> Secret | None:
    return value if value is None else _header_secret(value)


def _header_name(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise refusal("expected the name of an HTTP header")
    if name.lower() in _OURS:
        raise refusal("this header follows from what is sent and cannot be set")
    return name


HttpUrl = Annotated[SecretUrl, AfterValidator(_well_formed)]
HeaderText = Annotated[str, AfterValidator(_header_text)]
HeaderSecret = Annotated[Secret, AfterValidator(_header_secret)]
OptionalHeaderSecret = Annotated[OptionalSecret, AfterValidator(_header_secret_if_any)]
HeaderName = Annotated[str, AfterValidator(_header_name)]


class HttpConfigBase(DestinationConfig):
    """A destination that is reached over HTTP, wherever its address comes from."""

    def address(self) -> URL:
        """Where it is reached. All of it but the host may be a credential and is blotted out of answers."""
        raise NotImplementedError


class UrlConfig(HttpConfigBase):
    """A destination that is reached at a URL."""

    url: HttpUrl = Field(description="Where to send. Treated as a secret: some vendors put the key into it.")

    def address(self) -> URL:
        """The URL as it was written: `%2F` stays `%2F`."""
        return URL(self.url.reveal(), encoded=True)


def left_out(schema: dict[str, Any]) -> None:
    """For `json_schema_extra` of a field whose default follows from another one: show none."""
    schema.pop("default", None)


class Basic(Section):
    """User name and password for HTTP Basic authentication."""

    username: str = Field(description="User name; may not contain a colon.", pattern=r"^[^:]*$")
    password: Secret = Field(description="Password.")

    def header(self) -> str:
        """The value of the `Authorization` header."""
        pair = f"{self.username}:{self.password.reveal()}"
        return "Basic " + b64encode(pair.encode()).decode()


class AuthorizedConfig(UrlConfig):
    """A destination that takes the usual credentials in the `Authorization` header, or none."""

    authorization: OptionalHeaderSecret = Field(
        default=None, description="Value of the Authorization header, sent verbatim."
    )
    bearer: OptionalHeaderSecret = Field(default=None, description="Token sent as `Bearer <token>`.")
    basic: Basic | None = Field(default=None, description="User name and password.")

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if len(self.credentials()) > 1:
            raise refusal("expected at most one way to authenticate")
        return self

    def credentials(self) -> list[str]:
        """What the header may hold: the value that each given setting stands for."""
        given = []
        if self.authorization is not None:
            given.append(self.authorization.reveal())
        if self.bearer is not None:
            given.append(f"Bearer {self.bearer.reveal()}")
        if self.basic is not None:
            given.append(self.basic.header())
        return given

    def authorization_header(self) -> dict[str, str]:
        """The header, where there is one."""
        given = self.credentials()
        return {"Authorization": given[0]} if given else {}

    def passwords(self) -> tuple[str, ...]:
        """Secrets that are in no header as they stand."""
        return () if self.basic is None else (self.basic.password.reveal(),)


def secrets_in(url: URL, headers: Mapping[str, str]) -> set[str]:
    """The parts of a request that must not come back to us in an error page."""
    secrets = {url.raw_path_qs, *url.query.values()}
    secrets.update(part for part in url.raw_parts if len(part) >= _TELLING)
    for value in headers.values():
        secrets |= credential_parts(value)
    return secrets


def credential_parts(value: str) -> set[str]:
    """A header's value, and of one such as `Bearer x` also the `x` alone."""
    return {value, value.rsplit(" ", maxsplit=1)[-1]}
