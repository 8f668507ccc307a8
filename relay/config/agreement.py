"""What all replicas of one relay have to be configured alike in, as one short hash."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Final

from relay.config.public import public_view
from relay.config.schema import Config

# The other sections belong to each process alone: addresses, ports, its own log.
_ALIKE: Final = ("queue", "sources", "destinations")
_DIGITS: Final = 12


def agreement(config: Config) -> str:
    """Twelve hex digits. Secrets are left out: one that is being replaced is no disagreement."""
    view = public_view(config)
    document = json.dumps({name: view[name] for name in _ALIKE}, sort_keys=True)
    return sha256(document.encode()).hexdigest()[:_DIGITS]
