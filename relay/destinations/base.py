"""What a destination is: something that takes a chunk and says what became of it.

A destination only classifies. It never sleeps, never retries, never counts and never knows the
queue; `relay.delivery.decide` decides what an outcome means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from relay.batch import Chunk
from relay.model import Event, Reason, Response


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has every event of the chunk."""

    response: Response


@dataclass(frozen=True, slots=True)
class Throttled:
    """The destination asks to be left alone for a while."""

    response: Response
    retry_after: float | None = None  # seconds, as it asked


@dataclass(frozen=True, slots=True)
class Transient:
    """It may work later: a server error, or no answer at all (`response.status` is None).

    After a time-out the events may have arrived all the same; they are sent again.
    """

    response: Response
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The request was too big, not wrong."""

    response: Response


@dataclass(frozen=True, slots=True)
class Rejected:
    """The payload was refused, and nothing says which event is to blame."""

    response: Response


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """Our credentials, address, method or certificate are refused: the events are not to blame."""

    response: Response


@dataclass(frozen=True, slots=True)
class Rejection:
    """One event the destination refused by name."""

    index: int  # in the chunk
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Partial:
    """Some events arrived. Events in neither tuple have to be sent again.

    *rest* tells how the remaining ones failed; None means they were merely not looked at and can
    be sent at once.
    """

    response: Response
    delivered: tuple[int, ...]  # indices in the chunk, ascending
    rejected: tuple[Rejection, ...]
    rest: Throttled | Transient | None = None


Outcome = Delivered | Partial | Throttled | Transient | TooLarge | Rejected | Misconfigured


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why an event is never sent as it is: the other side would refuse it or silently mutilate it."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What `destinations test` and `check --probe` found, without sending an event where possible."""

    ok: bool
    detail: str  # one sentence; never a secret


class Destination(Protocol):
    """One configured SIEM. Owns its connections; shares nothing with other destinations."""

    @property
    def event_overhead(self) -> int:
        """Bytes that wrapping adds to each event, for cutting chunks to the size limit."""
        ...

    def part(self, event: Event) -> bytes | Unfit:
        """What `send` writes for *event*, without what stands around all events of a request.

        Where events share one text, e.g. a message for people, the text for this one alone. Holds no
        credential, and needs no `open`.
        """
        ...

    async def open(self) -> None:
        """Acquire what sending needs. Never contacts the destination."""
        ...

    async def send(self, chunk: Chunk) -> Outcome:
        """Send the chunk as one request. Returns an outcome for every failure of the other side.

        Only cancellation is raised; bounded by the destination's own time-outs.
        """
        ...

    async def probe(self) -> ProbeReport:
        """Contact the destination in the cheapest honest way its contract offers."""
        ...

    async def close(self) -> None: ...
