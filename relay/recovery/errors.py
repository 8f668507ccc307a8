"""Every way a call of Konnect's control API can fail, in words that hold no secret.

Owns the classes and their sentences. What follows from a failure (wait, tell, give up) is the caller's.
"""

from __future__ import annotations

from relay.errors import RelayError


class Unreadable(ValueError):
    """An answer is not as published. Stays within this package: callers see `KonnectUnavailable`."""


class KonnectError(RelayError):
    """Konnect did not do what was asked."""

    def __init__(
        self, message: str | None = None, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status  # None: there was no answer
        self.retry_after = retry_after  # seconds that it asks to be left alone


class KonnectUnauthorised(KonnectError):
    """Konnect does not accept the token."""


class KonnectForbidden(KonnectError):
    """Konnect accepts the token but not for this."""


class KonnectNotFound(KonnectError):
    """Konnect knows no such thing."""


class KonnectConflict(KonnectError):
    """Konnect is busy with another of the kind, or the name is taken, or the thing is in use."""


class KonnectRefused(KonnectError):
    """Konnect takes the request for wrong."""


class KonnectThrottled(KonnectError):
    """Konnect asks to be left alone for a while."""


class KonnectUnavailable(KonnectError):
    """Konnect cannot be reached, or answers what nobody can use; it may be better later."""


class KonnectUnreachable(KonnectUnavailable):
    """No answer came at all."""
