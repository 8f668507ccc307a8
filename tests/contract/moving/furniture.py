"""A queue that holds one of everything, and a picture of all that can be seen of a queue."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from relay.model import (
    DeadLetter,
    Gap,
    Hold,
    HoldReason,
    Position,
    ReaderKind,
    Reason,
    Response,
    RetryState,
    Settlement,
)
from relay.queue.base import DeadLetterFilter, Queue, Reader
from tests.fakes.clock import FakeClock
from tests.fakes.events import batch, cef, lines

HOUR, DAY = 3600.0, 86400.0
RETENTION = DAY
SOURCES = {"eu": 7 * DAY, "us": None}
PURGED = 20  # events that are gone from the log, and remembered
MANY = 1100  # small batches, so that a move takes several steps
ODD = b"neither one nor the other"


def timed(number: int, now: float) -> bytes:
    """The event of one of the small batches."""
    return cef(number, at=now + number / 10)


async def attached(queue: Queue, destination: str) -> list[Reader]:
    """The readers of a destination this process delivers to, the live one first."""
    await queue.attach(destination, "earliest")
    await queue.lease(destination)
    return readers_of(queue, destination)


def readers_of(queue: Queue, destination: str) -> list[Reader]:
    """In the order of their kinds."""
    return sorted(queue.readers(destination), key=lambda reader: list(ReaderKind).index(reader.kind))


async def furnish(queue: Queue, clock: FakeClock) -> None:
    """Put one of everything into a new queue."""
    (siem,) = await attached(queue, "siem")
    for first in range(0, PURGED, 10):
        await queue.append([batch(lines(10, first=first))])
    await _settle(siem, PURGED)
    clock.jump(2 * RETENTION)
    await purged(queue, clock)

    now = clock.now()
    twins = [cef(100, at=now), cef(101, at=now), cef(100, at=now), cef(102, at=now)]
    await queue.append([batch(twins, at=now)])
    await queue.append([batch([cef(n, at=now) for n in (1, 2)], at=now), batch([cef(1, at=now)], at=now)])
    await queue.append([batch([*twins, *lines(6, first=110, at=now)], at=now + 1)])  # four of them again
    await queue.append([batch([b'{"event":{"rt":1}}', b'{"rt":2}'], source="us", at=now + 2)])
    # Neither when it happened nor what it is can be told of one of these; some queues keep that one apart.
    await queue.append([batch([*lines(2, first=120, at=now), ODD, *lines(2, first=122, at=now)], at=now + 2)])
    await queue.append([batch([*lines(3, first=130, at=now), ODD], at=now + 2, pulled=True)])
    await attached(queue, "late")  # owes from here on, and what is retained
    await asyncio.gather(
        *(queue.append([batch([timed(n, now)], at=now + 3)]) for n in range(1000, 1000 + MANY))
    )

    await _bury(siem, {0: Reason.REJECTED, 1: Reason.TOO_LARGE, 3: Reason.REJECTED})
    await _bury(siem, {1: Reason.UNCONVERTIBLE})
    await queue.redrive(DeadLetterFilter(reason=Reason.REJECTED))
    await queue.discard(DeadLetterFilter(reason=Reason.UNCONVERTIBLE))
    await _settle(siem, 40, filtered=2)
    await siem.retry_later(RetryState(3, now + 60.25))
    await queue.set_hold("siem", Hold(HoldReason.EXHAUSTED, now + 5.5, "503: be right back"))
    await queue.replay("siem", now, now + 2.5, 50.0)
    await queue.quarantine("eu", b"\x1f\x8bbroken", "gzip")
    await queue.open_gap("eu", now - HOUR, now - HOUR + 5, "429")
    await queue.open_gap("us", now, now, "500")
    await queue.open_gap("us", now - HOUR, now - HOUR, "downtime", refusals=0)
    await queue.beat(now - 7.5)
    await queue.flush()


async def _settle(reader: Reader, events: int, *, filtered: int = 0) -> None:
    """Deliver the next batches, until these are at least so many events; the first ones are filtered."""
    while events > 0:
        for stored, offset in await reader.read(1):
            count = stored.count - offset
            gone = min(filtered, count)
            filtered -= gone
            events -= count
            start, end = Position(stored.sequence, offset), Position(stored.sequence, stored.count)
            await reader.settle(Settlement(start, end, count - gone, len(stored.body), filtered=gone))


async def _bury(reader: Reader, reasons: dict[int, Reason]) -> None:
    ((stored, _),) = await reader.read(1)
    said = Response("it will not have it", 400, b"{}", attempt=2)
    letters = tuple(
        DeadLetter(Position(stored.sequence, i), stored.event(i), reason, said)
        for i, reason in reasons.items()
    )
    start, end = Position(stored.sequence), Position(stored.sequence, stored.count)
    await reader.settle(Settlement(start, end, stored.count - len(letters), 10, dead=letters))


async def purged(queue: Queue, clock: FakeClock) -> None:
    """Wait until upkeep has deleted what is too old."""
    async with asyncio.timeout(60):
        while queue.stats().events or queue.stats().batches:
            await clock.advance(1.0)
            await queue.flush()
            await queue.ping()


@dataclass(frozen=True, slots=True)
class Picture:
    """All that can be seen of a queue. Ids that each queue gives by itself are left out."""

    batches: int = field(compare=False)  # a queue may cut them
    figures: dict[str, Any]
    readers: dict[str, list[Any]]
    dead_letters: list[Any]
    events: list[Any]


async def picture(queue: Queue) -> Picture:
    """Look at everything; changes nothing, but for the readers' places in memory."""
    names = queue.destinations()
    return Picture(
        batches=queue.stats().batches,
        figures={
            "head": queue.stats().head,
            "events": queue.stats().events,
            "quarantined": queue.stats().quarantined_bodies,
            "accepted": dict(queue.accepted()),
            "duplicates": {name: n for name, n in queue.duplicates().items() if n},
            "last_received": dict(queue.last_received()),
            "destinations": sorted(names),
            "books": {name: queue.books(name) for name in names},
            "holds": {name: queue.hold(name) for name in names},
            "alive": await queue.last_beat(),
            "gaps": [replace(gap, id=0) for gap in sorted(await queue.gaps(include_closed=True), key=_start)],
        },
        readers={name: [await _reader(each) for each in await attached(queue, name)] for name in names},
        dead_letters=sorted(
            (replace(each, id=0) for each in await queue.dead_letters(DeadLetterFilter(), limit=10_000)),
            key=lambda letter: (letter.destination, letter.position),
        ),
        events=await _everything(queue),
    )


def _start(gap: Gap) -> float:
    return gap.start


async def _reader(reader: Reader) -> Any:
    place = None if reader.kind is ReaderKind.REDRIVE else reader.watermark
    return reader.kind, place, reader.backlog().events, reader.total, reader.rate, reader.retry


async def _everything(queue: Queue) -> list[Any]:
    """What each reader has before it, event by event."""
    found = []
    for name in sorted(queue.destinations()):
        for reader in readers_of(queue, name):
            redrive = reader.kind is ReaderKind.REDRIVE
            while pieces := await reader.read(1000):
                for stored, offset in pieces:
                    first = 0 if redrive else stored.sequence
                    found += [
                        (name, reader.kind, first + index, stored.pulled, stored.event(index))
                        for index in range(offset, stored.count)
                    ]
            reader.rewind()
    return found
