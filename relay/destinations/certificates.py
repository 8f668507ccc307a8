"""Whether a connection failed because one side refused the other's certificate.

Owns the reading of OpenSSL's errors for every destination, and the one sentence that comes of it. Never
connects and never decides anything.
"""

from __future__ import annotations

import ssl

# OpenSSL's names for what a server says when it wants another client certificate, or one at all.
_ALERTS_ABOUT_US = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
)


def certificate_refusal(error: BaseException | None) -> str | None:
    """A sentence if anywhere behind *error* one side refused the other's certificate."""
    while error is not None:
        # aiohttp's own exceptions pose as ssl's but lack the attributes that tell the reason; the one that
        # has them is behind them.
        if isinstance(error, ssl.SSLError):
            if verdict := getattr(error, "verify_message", None):
                return f"its certificate is not trusted: {verdict}"
            # An alert comes from the other side; in TLS 1.3 only after the handshake.
            if (reason := getattr(error, "reason", None)) in _ALERTS_ABOUT_US:
                return f"it refuses our client certificate ({reason})"
        error = error.__cause__ or error.__context__
    return None
