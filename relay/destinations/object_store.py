"""One bucket or container through obstore, and the border where its exceptions end.

Owns the making of stores from the configuration and the two requests that are ever made: put one object, list
nothing in particular. Never retries (obstore's own loop is off) and never decides what a refusal means.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from relay import __version__
from relay.destinations import object_answer
from relay.destinations.base import Misconfigured, Transient
from relay.destinations.object_answer import Refusal
from relay.destinations.object_config import AzureBlobConfig, GcsConfig, ObjectStoreConfig, S3Config
from relay.errors import ConfigError

if TYPE_CHECKING:  # obstore has these for type checkers only
    from obstore.store import (
        AzureAccessKey,
        AzureSASToken,
        ClientConfig,
        RetryConfig,
        S3Credential,
    )

PROBE_FOLDER: Final = "probe"  # nothing is ever written there, so that listing it costs nothing

# How many attempts there are and when is the relay's retry policy to say, for all destinations alike.
_ONE_ATTEMPT: RetryConfig = {"max_retries": 0}
# A proxy that is excluded for every name and address: the only way to keep obstore from taking one from the
# environment, which would be handed our credentials wherever the store is spoken to without TLS.
_NO_PROXY: ClientConfig = {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": "*,0.0.0.0/0,::/0"}

_Store = S3Store | GCSStore | AzureStore


class ObjectStore:
    """Where the objects of one destination go."""

    def __init__(self, config: ObjectStoreConfig) -> None:
        """Blocks on the certificate file. Raises `ConfigError` when it or a credential is unusable."""
        self._timeout = config.timeout
        self._folder = "/".join(filter(None, (config.prefix, PROBE_FOLDER)))
        self._store = _made(config)

    async def put(
        self, key: str, data: bytes, *, content_type: str, create: bool, about: str
    ) -> Refusal | Transient | Misconfigured | None:
        """Store *data*; None says that it is stored. With *create* only where there is no such object yet.

        *about* is a part of *key* that needs no escaping in a URL.
        """
        try:
            await obstore.put_async(
                self._store,
                key,
                data,
                attributes={"Content-Type": content_type},
                mode="create" if create else "overwrite",
                use_multipart=False,
            )
        except (BaseError, OSError, ValueError) as error:
            return object_answer.read(str(error), about=about, timeout=self._timeout)
        return None

    async def list_nothing(self) -> Refusal | Transient | Misconfigured | None:
        """Ask for the objects of a folder that has none; None says that it was allowed."""
        try:
            async for _ in obstore.list(self._store, self._folder):
                break
        except (BaseError, OSError, ValueError) as error:
            return object_answer.read(str(error), about=PROBE_FOLDER, timeout=self._timeout)
        return None


def _made(config: ObjectStoreConfig) -> _Store:
    options = _client_options(config)
    try:
        match config:
            case S3Config():
                return _s3(config, options)
            case GcsConfig():
                return _gcs(config, options)
            case AzureBlobConfig():
                return _azure(config, options)
            case _:
                raise TypeError(f"no object store is made of {type(config).__name__}")
    except (BaseError, ValueError):
        # Its words may hold what it could not use.
        problem = "the object store cannot be set up with these credentials, endpoint and tls.ca_file"
        raise ConfigError([f"{problem}, together with what the environment adds to them"]) from None


def _client_options(config: ObjectStoreConfig) -> ClientConfig:
    limit = timedelta(seconds=config.timeout)
    options: ClientConfig = {
        **_NO_PROXY,
        "allow_http": config.plain_http,
        "allow_invalid_certificates": not config.tls.verify,
        "connect_timeout": limit,
        "timeout": limit,
        "user_agent": f"konnect-relay/{__version__}",
    }
    if config.tls.ca_file is not None:
        options["root_certificate"] = _pem(config.tls.ca_file)
    return options


def _pem(path: Path) -> bytes:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"tls.ca_file: {path} cannot be used: {error.strerror}"]) from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError([f"tls.ca_file: {path} cannot be used: there is no certificate in it"])
    return pem


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _address(config: ObjectStoreConfig) -> str | None:
    return None if config.endpoint is None else config.endpoint.reveal().rstrip("/")


# Credentials of ours come from functions rather than settings: then nothing of another pair that may be in
# the environment (a session token, say) is mixed with them, and the store's own settings hold no secret.


def _s3(config: S3Config, options: ClientConfig) -> S3Store:
    key, secret, token = config.access_key_id, config.secret_access_key, config.session_token
    provider: Callable[[], S3Credential] | None = None
    if key is not None and secret is not None:

        def provider() -> S3Credential:
            return {
                "access_key_id": key.reveal(),
                "secret_access_key": secret.reveal(),
                "token": None if token is None else token.reveal(),
                "expires_at": None,
            }

    return S3Store(
        config.bucket,
        client_options=options,
        retry_config=_ONE_ATTEMPT,
        credential_provider=provider,
        **_given(
            endpoint=_address(config),
            region=config.region,
            # Where objects are locked, S3 takes none without a checksum; anywhere else it does no harm.
            checksum_algorithm="SHA256",
            skip_signature=False if provider else None,
        ),
    )


def _gcs(config: GcsConfig, options: ClientConfig) -> GCSStore:
    key = config.service_account_key
    return GCSStore(
        config.bucket,
        client_options=options,
        retry_config=_ONE_ATTEMPT,
        **_given(base_url=_address(config), service_account_key=None if key is None else key.reveal()),
    )


def _azure(config: AzureBlobConfig, options: ClientConfig) -> AzureStore:
    key, signature = config.account_key, config.sas_token
    provider: Callable[[], AzureAccessKey] | Callable[[], AzureSASToken] | None = None
    if key is not None:

        def provider() -> AzureAccessKey:
            return {"access_key": key.reveal(), "expires_at": None}

    elif signature is not None:

        def provider() -> AzureSASToken:
            return {"sas_token": signature.reveal().removeprefix("?"), "expires_at": None}

    return AzureStore(
        config.container,
        client_options=options,
        retry_config=_ONE_ATTEMPT,
        credential_provider=provider,
        **_given(
            account_name=config.account,
            endpoint=_address(config),
            skip_signature=False if provider else None,
        ),
    )
