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


def oldest_accepting(replicas: Sequence[Replica]) -> str | None:
    """The id of the one that does what only one of those that accept is to do; None where none accepts.

    Two may each take themselves for it while they do not see each other: that has to be harmless.
    """
    accepting = [replica for replica in replicas if replica.role != "deliver"]
    found = min(accepting, key=lambda replica: (replica.started_at, replica.id), default=None)
    return None if found is None else found.id
