"""The authorization Konnect is to send: made afresh, kept in a file or shown once.

Owns where it comes from and goes to. A file is made with mode 0600 and never overwritten; one that exists is
used as it is, so that a relay may know the authorization before Konnect does.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.konnect_access import read_secret
from relay.errors import ConfigError, RelayError

if TYPE_CHECKING:
    from relay.config.secret import Secret

SecretFileOption = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="Keep the authorization in FILE (mode 0600) and do not print it; an existing one is used.",
    ),
]


@dataclass(frozen=True, slots=True)
class Authorization:
    """The value of the header, and how it is kept."""

    value: Secret
    file: Path | None
    fresh: bool

    def described(self) -> str:
        """Without the value."""
        if self.file is None:
            return "a fresh authorization, shown once" if self.fresh else "the authorization configured here"
        return (
            f"a fresh authorization, written to {self.file}"
            if self.fresh
            else f"the authorization in {self.file}"
        )

    def keep(self) -> None:
        """Write the file, where there is one to write. Raises `RelayError`."""
        if self.file is None or not self.fresh:
            return
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{self.value.reveal()}\n")
        except OSError as error:
            raise RelayError(f"{self.file} cannot be written: {error.strerror}.") from None

    def forget(self) -> None:
        """Remove the file again, if we made it: nothing came of what it was for."""
        if self.file is not None and self.fresh:
            self.file.unlink(missing_ok=True)


def authorization(file: Path | None, configured: Secret | None = None) -> Authorization:
    """*configured*, what *file* holds, or a fresh one. Raises `ConfigError`."""
    from relay.config.secret import Secret

    if configured is not None:
        return Authorization(configured, None, fresh=False)
    if file is not None and file.exists():
        text = read_secret(file)
        if not text.isprintable() or not text.isascii() or text != text.strip():
            raise ConfigError([f"{file}: expected the value of a header: one line of ASCII"])
        return Authorization(Secret(text), file, fresh=False)
    return Authorization(Secret(f"Bearer {secrets.token_urlsafe(32)}"), file, fresh=True)
