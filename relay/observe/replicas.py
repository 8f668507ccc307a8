"""What the processes of one relay say of themselves, put together into one picture.

Pure: each replica comes to the same picture from the same descriptions. Who holds a lease for sure is the
queue's to know; what is said here is up to a second old.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.model import Replica, Sighting

_NEVER = Sighting()


def holder(replicas: Sequence[Replica], destination: str) -> Replica | None:
    """The replica that delivers to *destination*; the first, where a lease is just changing hands."""
    return next((each for each in replicas if destination in each.destinations), None)


def last_seen(replicas: Sequence[Replica], source: str) -> Sighting:
    """The newest request of *source* that any replica answered."""
    seen = [each.sources.get(source, _NEVER) for each in replicas]
    return max(seen, key=lambda sighting: sighting.at or 0.0, default=_NEVER)
