"""What is counted and not stored yet, together with what is stored: no event twice at any moment."""

from __future__ import annotations

import asyncio

import pytest

from relay.errors import QueueError
from relay.queue.jetstream import link
from relay.queue.jetstream.bucket import Entry
from relay.queue.jetstream.holding import Holding
from relay.queue.jetstream.letters import change_of
from relay.queue.jetstream.record import Mark
from relay.queue.ranges import Tally
from tests.contract.jetstream.desk import LIMIT, Desk, Desks, letter
from tests.fakes.process import until


def holding_of(desk: Desk) -> Holding:
    async def stored(reader: int, mark: Mark) -> None:
        del reader, mark

    return Holding("siem", desk.accounts, fence=desk.check, stored=stored)


async def stored_account(desk: Desk) -> Entry:
    entry = await desk.bucket.get("destination.siem")
    assert entry is not None
    return entry


async def test_the_watch_may_be_faster_than_the_acknowledgement(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by a cut-off server: until the next commit, everything since the last one was there twice."""
    desk, other = await desks.add(), await desks.add()
    await desk.open("siem")
    holding = holding_of(desk)
    dead = letter(7)
    holding.book(
        Tally(delivered=3, delivered_bytes=300, dead=(dead,)), [change_of("siem", dead, 7, desk.clock.now())]
    )
    before = desk.accounts.revision("siem")
    desk.wire.swallow_commit = True
    monkeypatch.setattr(link, "_ANSWER_SECONDS", 3.0)  # time enough for what follows, before it is given up
    storing = asyncio.ensure_future(holding.store())

    async def is_stored() -> bool:
        return (await stored_account(other)).revision != before

    await until(is_stored, LIMIT, "the commit")
    desk.accounts.seen(await stored_account(other))
    assert (holding.account().delivered, holding.account().dead) == (3, 1)
    holding.book(Tally(delivered=2, delivered_bytes=200), [])
    assert holding.account().delivered == 5
    with pytest.raises(QueueError):
        await storing

    desk.wire.heal()
    await holding.store()
    account = desk.accounts["siem"]
    assert (account.delivered, account.dead, holding.account()) == (5, 1, account)
    assert await desk.numbers() == [7]
