"""Every exception the relay raises on purpose. The docstring is the default message."""

from __future__ import annotations


class RelayError(Exception):
    """The relay could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ConfigError(RelayError):
    """The configuration is not valid.

    *problems* holds one `path: what was expected` line per fault.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class QueueError(RelayError):
    """The queue could not carry out the operation; nothing of it was stored."""


class QueueFull(QueueError):
    """The queue has no room: its size limit or the free-disk floor is reached."""

    def __init__(self, message: str | None = None, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds, a hint for the sender


class QueueLocked(QueueError):
    """Another relay has this queue open."""


class QueueCorrupt(QueueError):
    """The queue's file cannot be opened as a queue. `konnect-relay queue repair` may help."""


class KeysUnusable(RelayError):
    """This is no set of keys that signatures could be checked with."""


class KeysMissing(RelayError):
    """There is no key yet to check signatures with."""


class NotFound(RelayError):
    """There is no such thing."""


class Conflict(RelayError):
    """The request contradicts the present state."""
