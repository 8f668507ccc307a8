"""`http` with one event in each request: what becomes of a chunk that fails half-way."""

from __future__ import annotations

import pytest

from relay.destinations.base import Delivered, Misconfigured, Outcome, Partial, Throttled, Transient
from relay.model import Reason
from tests.contract.destinations.kit import NOW, Kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.clock import FakeClock
from tests.fakes.siem import Answer, Received, Siem

LINES = sample("cef")[:5]
CHUNK = chunk_of(LINES[:2], LINES[2:])
ONE = Kind("http-one", "http", {"framing": "one_per_request", "bearer": "bearer-t0ken"})


async def sent(siem: Siem) -> Outcome:
    async with siem, opened(ONE.config(siem)) as destination:
        return await destination.send(CHUNK)


async def test_all_delivered() -> None:
    """Each event is a body of its own, in order."""
    siem = Siem()

    outcome = await sent(siem)

    assert isinstance(outcome, Delivered)
    assert [request.body for request in siem.requests] == LINES


@pytest.mark.parametrize(("status", "kind"), [(503, Transient), (429, Throttled)])
async def test_failure_in_the_middle(status: int, kind: type[Throttled | Transient]) -> None:
    """What went through is delivered; the rest waits as the answer asks."""
    siem = Siem().answer(200, times=2).answer(status, headers={"Retry-After": "9"})

    outcome = await sent(siem)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 1)
    assert outcome.rejected == ()
    assert isinstance(outcome.rest, kind)
    assert outcome.rest.retry_after == 9.0
    assert len(siem.requests) == 3


@pytest.mark.parametrize(("status", "reason"), [(400, Reason.REJECTED), (413, Reason.TOO_LARGE)])
@pytest.mark.parametrize("before", [0, 3])
async def test_refused_event(status: int, reason: Reason, before: int) -> None:
    """The refused event is known by name; those behind it can be sent at once."""
    siem = Siem().answer(200, times=before).answer(status)

    outcome = await sent(siem)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == tuple(range(before))
    assert [(r.index, r.reason) for r in outcome.rejected] == [(before, reason)]
    assert outcome.rest is None


async def test_failure_at_once() -> None:
    """Where nothing went through, the answer speaks for the whole chunk."""
    assert isinstance(await sent(Siem().answer(503)), Transient)
    assert isinstance(await sent(Siem().answer(401)), Misconfigured)


async def test_credentials_refused_in_the_middle() -> None:
    """What went through is delivered; the next send meets the refusal with nothing before it."""
    siem = Siem().answer(200).then(401)
    async with siem, opened(ONE.config(siem)) as destination:
        outcome = await destination.send(CHUNK)
        again = await destination.send(CHUNK.cut(1)[1])

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0,)
    assert outcome.rejected == ()
    assert outcome.rest is None
    assert isinstance(again, Misconfigured)


async def test_a_send_is_bounded() -> None:
    """A send that takes longer than the time-out stops between two events and reports what it did."""
    clock = FakeClock(NOW)

    def slow(_: Received) -> Answer:
        clock._elapsed += 12.0
        return Answer()

    async with Siem().then(slow) as siem, opened(ONE.config(siem, timeout=30), clock) as destination:
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 1, 2)
    assert outcome.rest is None
