"""TLS of connections that the relay opens: to destinations, to NATS."""

from __future__ import annotations

import ssl
from pathlib import Path

from relay.config.destination import ClientTls
from relay.errors import ConfigError


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """What *tls* asks for; with `ca_file` only the authorities in it are trusted.

    Raises `ConfigError` when a file cannot be read or does not hold what it should. Blocks.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("ca_file", tls.ca_file, error) from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("cert", tls.cert, error) from error
    return context


def _unusable(field: str, path: Path | None, error: OSError) -> ConfigError:
    reason = getattr(error, "reason", None) or error.strerror
    return ConfigError([f"tls.{field}: {path} cannot be used: {reason}"])
