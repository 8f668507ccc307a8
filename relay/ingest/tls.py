"""TLS of the ingest listener: the certificate it shows and the senders it trusts.

Owns the one SSL context and puts a renewed certificate into it. Never drops a connection for that: those
that are open keep what they agreed on.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from relay.config.schema import ServerTls
from relay.errors import ConfigError


class TlsFiles:
    """The certificate, its key and the clients' authorities, as they are on disk.

    Raises `ConfigError` where they cannot be used.
    """

    def __init__(self, config: ServerTls) -> None:
        self._config = config
        self._stamp = self._read_stamp()
        try:
            self.context = self._new_context()
        except OSError as error:
            raise ConfigError([f"server.tls: {_reason(error)}"]) from error

    def refresh(self) -> bool:
        """Take over files that have changed since last time; whether there were any.

        Raises `ConfigError` where the new ones cannot be used, for example because the certificate
        is there but its key is not yet; the old ones stay in use, and the next call tries again.
        """
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        try:
            # Tried on a context of its own first: a certificate that does not fit its key would
            # leave the one in use with neither.
            self._new_context()
            self._load(self.context)
        except OSError as error:
            raise ConfigError([f"server.tls: {_reason(error)}; the old certificate stays"]) from error
        self._stamp = stamp
        return True

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._config.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._config.cert, self._config.key)
        if self._config.client_ca is not None:
            # OpenSSL can only add authorities to a context: one taken out of the file is trusted until
            # the relay is restarted.
            context.load_verify_locations(self._config.client_ca)

    def _read_stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        files = (self._config.cert, self._config.key, self._config.client_ca)
        return tuple(_stamp(file) for file in files if file is not None)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What differs after a file was written or replaced; None while it is away."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _reason(error: OSError) -> str:
    file = f"{error.filename}: " if error.filename else ""
    return f"{file}{error.strerror or error}"
