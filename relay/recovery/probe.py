"""Asking the relay from outside: does it take this authorization, and is its certificate good?

Owns two looks at a public URL. An empty POST with an authorization that a source accepts is answered 200 and
stores nothing; with another one, 401. Never raises for what it finds.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import ValidationError
from yarl import URL

from relay.config.destination import ClientTls
from relay.config.secret import Secret, is_loopback
from relay.destinations.base import Misconfigured, Transient
from relay.destinations.http_client import HttpClient
from relay.destinations.http_config import UrlConfig
from relay.tls import client_context

_TIMEOUT: Final = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Answered:
    """What an empty request was answered."""

    status: int | None  # None: nothing usable
    detail: str  # where there is no status

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


async def knock(endpoint: str, authorization: Secret, *, ca_file: Path | None = None) -> Answered:
    """Post nothing at *endpoint* with this authorization. Raises `ConfigError` for an unusable *ca_file*."""
    try:
        config = UrlConfig.model_validate(
            {"name": "it", "type": "it", "url": endpoint, "timeout": _TIMEOUT, "tls": {"ca_file": ca_file}}
        )
    except ValidationError:  # it comes from Konnect, where anybody may have set it
        return Answered(None, "the endpoint is no URL that can be used")
    client = HttpClient(config, headers={"Authorization": authorization.reveal()})
    await client.open()
    try:
        reply = await client.request("POST", URL(endpoint, encoded=True))
    finally:
        await client.close()
    if isinstance(reply, Transient | Misconfigured):
        return Answered(None, reply.response.detail)
    return Answered(reply.status, "")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a TLS handshake with the public URL showed."""

    problem: str | None  # why it is not trusted, or could not be seen
    expires_at: float | None = None  # seconds since the epoch
    untrusted: bool = False  # it was seen and refused


async def certificate(endpoint: str, *, ca_file: Path | None = None) -> Certificate | None:
    """Shake hands as Konnect would; None where the endpoint has no TLS (on loopback only).

    Raises `ConfigError` for an unusable *ca_file*.
    """
    context = await asyncio.to_thread(client_context, ClientTls(ca_file=ca_file))
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        return Certificate("the endpoint is no URL")
    if parts.scheme == "http" and is_loopback(host):
        return None
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        return Certificate(f"it is not trusted: {error.verify_message}", untrusted=True)
    except ssl.SSLError as error:
        return Certificate(f"the TLS handshake failed ({error.reason or 'no reason given'})")
    except TimeoutError:
        return Certificate(f"no TLS handshake within {_TIMEOUT:g} s")
    except OSError as error:
        return Certificate(f"cannot connect: {error.strerror or 'the name cannot be resolved'}")
    found = writer.get_extra_info("peercert")
    writer.close()
    return Certificate(None, float(ssl.cert_time_to_seconds(found["notAfter"])))
