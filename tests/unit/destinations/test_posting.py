"""A request that holds fewer events than the chunk: whose fate its outcome is."""

from __future__ import annotations

import pytest
from yarl import URL

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    ProbeReport,
    Rejected,
    Rejection,
    Throttled,
    TooLarge,
    Transient,
    Unfit,
)
from relay.destinations.classify import Reply
from relay.destinations.http import HttpConfig
from relay.destinations.posting import Ask, Intake, PostingDestination
from relay.model import Event, Reason, Response
from tests.fakes.chunks import chunk_of
from tests.fakes.clock import FakeClock
from tests.fakes.siem import Siem

SAID = Response("said")
REFUSED = (Reason.REJECTED, "refused")
UNFIT = (Reason.UNCONVERTIBLE, "unfit")


async def no_probe(ask: Ask, now: float) -> ProbeReport:
    del ask, now
    return ProbeReport(ok=True, detail="")


def written(event: Event) -> bytes | Unfit:
    """Lines that begin with a question mark are unfit."""
    return Unfit(*UNFIT) if event.line.startswith(b"?") else event.line


async def sent(lines: list[bytes], verdict: Outcome, *, max_body: int | None = None) -> tuple[Outcome, bytes]:
    """What becomes of *lines* where the vendor's verdict is *verdict*, and the body it was given on."""

    def judge(reply: Reply, count: int, now: float) -> Outcome:
        del reply, count, now
        return verdict

    async with Siem() as siem:
        config = HttpConfig.model_validate({"name": "siem", "type": "http", "url": siem.url})
        intake = Intake(
            url=URL(siem.url),
            content_type="text/plain",
            part=written,
            body=b",".join,
            judge=judge,
            probe=no_probe,
            overhead=1,
            max_body=max_body,
        )
        destination = PostingDestination(config, intake, clock=FakeClock())
        await destination.open()
        try:
            outcome = await destination.send(chunk_of(lines))
        finally:
            await destination.close()
        return outcome, siem.requests[0].body


@pytest.mark.parametrize(
    "verdict", [Delivered(SAID), Rejected(SAID), Partial(SAID, (0,), (Rejection(1, *REFUSED),))]
)
async def test_whole_chunk(verdict: Outcome) -> None:
    """Where every event is in the request, the verdict stands as it is."""
    assert await sent([b"a", b"b"], verdict) == (verdict, b"a,b")


async def test_success_of_some() -> None:
    """A success counts for those that were sent, by their places in the chunk."""
    outcome, body = await sent([b"?", b"a", b"?", b"b"], Delivered(SAID))

    assert outcome == Partial(SAID, (1, 3), (Rejection(0, *UNFIT), Rejection(2, *UNFIT)))
    assert body == b"a,b"


async def test_partial_success_of_some() -> None:
    """The vendor's numbers are places in the request; what is reported are places in the chunk."""
    rest = Throttled(SAID, 3.0)
    verdict = Partial(SAID, (0, 2), (Rejection(1, *REFUSED),), rest)

    outcome, _ = await sent([b"?", b"a", b"b", b"?", b"c", b"d"], verdict)

    assert outcome == Partial(
        SAID, (1, 4), (Rejection(0, *UNFIT), Rejection(2, *REFUSED), Rejection(3, *UNFIT)), rest
    )


@pytest.mark.parametrize(
    "verdict", [Throttled(SAID), Transient(SAID), TooLarge(SAID), Rejected(SAID), Misconfigured(SAID)]
)
async def test_failure_of_some(verdict: Outcome) -> None:
    """A request that fails as a whole is the chunk's failure; the unfit wait for the next success."""
    outcome, _ = await sent([b"?", b"a"], verdict)

    assert outcome == verdict


@pytest.mark.parametrize(("max_body", "count"), [(1, 1), (4, 2), (5, 2), (6, 3), (None, 3)])
async def test_cut(max_body: int | None, count: int) -> None:
    """As many events are sent as fit, at least one; the others are left for the next request."""
    outcome, body = await sent([b"a", b"b", b"c"], Delivered(SAID), max_body=max_body)

    assert body == b",".join([b"a", b"b", b"c"][:count])
    assert outcome == (Delivered(SAID) if count == 3 else Partial(SAID, tuple(range(count)), ()))
