"""`python -m relay` and the console script `konnect-relay`."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    from relay.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
