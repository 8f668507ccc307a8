"""The border of the `syslog` destination: the system's and OpenSSL's errors in our own words.

Owns the one exception that its links raise. Never says more than a sentence without secrets.
"""

from __future__ import annotations

import os
import ssl

from relay.destinations.certificates import certificate_refusal


class SyslogTrouble(Exception):
    """Nothing is known to have arrived, and why: one sentence, free of secrets."""

    def __init__(self, detail: str, *, misconfigured: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.misconfigured = misconfigured  # a certificate was refused, theirs or ours


def trouble_of(error: OSError, tls_words: str) -> SyslogTrouble:
    """The border: whatever ended a connection, in our own words."""
    refusal = certificate_refusal(error)
    if refusal is not None:
        return SyslogTrouble(refusal, misconfigured=True)
    if isinstance(error, ssl.SSLError):
        return SyslogTrouble(tls_words)
    return SyslogTrouble(f"the connection broke: {system_words(error)}")


def system_words(error: OSError) -> str:
    """The operating system's phrase for the error number."""
    return os.strerror(error.errno) if error.errno else "closed by the other side"
