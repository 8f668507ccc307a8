"""A new authorization for Konnect's batches without losing one.

Owns the order: the relay accepts the new one beside the old, then Konnect is told, then the old one may go.
Whether the relay accepts it is asked of the relay itself, often enough to meet every replica behind a
balancer that spreads connections by chance or in turn. Never prints, never asks anybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.clock import Clock
from relay.config.secret import Secret
from relay.errors import RelayError
from relay.recovery.answers import DestinationInfo, Scope
from relay.recovery.api import KonnectApi
from relay.recovery.binding import binding, shown
from relay.recovery.probe import Answered, knock

_LOOK: Final = 2.0  # seconds between two looks at whether the relay has learned it
_MISSED: Final = 0.001  # how likely one of the replicas may be left out
# One relay in its own eyes may have a twin on another queue; where nobody can be asked, be generous.
_FEWEST, _UNKNOWN = 2, 4  # replicas

# A batch under way carries the old one; Konnect's retries go on for two minutes at most.
RETIRE_AFTER: Final = 300.0
"""Seconds for which the old authorization has to be accepted after the change."""


class RotationRefused(RelayError):
    """Konnect was not told of the new authorization; the old one stays in force."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What is going to be changed."""

    destination: DestinationInfo
    endpoint: str  # where the relay is asked, as Konnect reaches it

    def steps(self) -> tuple[str, ...]:
        """For people, in order."""
        return (
            f"ask {shown(self.endpoint)} until it accepts the new authorization",
            f"give the destination {self.destination.name} the new authorization",
        )


async def plan_rotation(
    api: KonnectApi, scope: Scope, *, endpoint: str | None, leads_here: Callable[[str | None], bool]
) -> Rotation:
    """For the destination the scope's webhook is bound to. Raises `RotationRefused` and `KonnectError`.

    *endpoint* stands in for the destination's own where this machine reaches the relay another way. A
    receiver that is not the relay (*leads_here*) would be told the relay's authorization, and keeps its own.
    """
    found = (await binding(api, scope)).destination
    if found is None:
        raise RotationRefused(f"The webhook of {scope} is bound to no destination: `konnect setup` first.")
    if found.endpoint != endpoint and not leads_here(found.endpoint):
        raise RotationRefused(
            f"The webhook of {scope} sends to {shown(found.endpoint)}, which is not this relay as it is"
            " configured here. Its authorization stays as it is."
        )
    return Rotation(found, endpoint or found.endpoint)


def knocks(replicas: int | None) -> int:
    """How many requests in a row have to be accepted so that hardly a replica can be left out.

    *replicas* that accept, as far as the relay knows; None: it could not be asked.
    """
    count = _UNKNOWN if replicas is None else max(_FEWEST, replicas)
    return math.ceil(math.log(_MISSED / count) / math.log(1 - 1 / count))


async def await_acceptance(
    endpoint: str,
    authorization: Secret,
    *,
    times: int,
    patience: float,
    clock: Clock,
    ca_file: Path | None = None,
) -> None:
    """Returns when it is accepted *times* in a row. Raises `RotationRefused` after *patience* seconds."""
    until = clock.monotonic() + patience
    while True:
        accepted, refusal = await _knock(endpoint, authorization, times, ca_file)
        if refusal is None:
            return
        if clock.monotonic() + _LOOK > until:
            raise RotationRefused(f"{_why(endpoint, accepted, refusal)} Konnect keeps the old authorization.")
        await clock.sleep(_LOOK)


async def all_accepted(
    endpoint: str, authorizations: Sequence[Secret], *, times: int, ca_file: Path | None = None
) -> bool:
    """Whether the relay accepts every one of them so often, e.g. those that its configuration names."""
    return all([(await _knock(endpoint, each, times, ca_file))[1] is None for each in authorizations])


async def _knock(
    endpoint: str, authorization: Secret, times: int, ca_file: Path | None
) -> tuple[int, Answered | None]:
    """How often it was accepted, and what ended that. Each request has a connection of its own."""
    for number in range(times):
        answered = await knock(endpoint, authorization, ca_file=ca_file)
        if not answered.accepted:
            return number, answered
    return times, None


def _why(endpoint: str, accepted: int, answered: Answered) -> str:
    if accepted and answered.status == 401:
        return (
            f"Of {accepted + 1} requests to {shown(endpoint)} one met a replica that does not accept the new"
            " authorization: reload all of them."
        )
    if answered.status is None:
        return f"The relay cannot be reached at {shown(endpoint)}: {answered.detail}."
    if answered.status == 401:
        return (
            f"The relay at {shown(endpoint)} does not accept the new authorization: add it to the source's"
            " `authorization` list beside the old one, and reload."
        )
    return f"What answers at {shown(endpoint)} says {answered.status}, which a relay's intake would not."
