"""A replay that Konnect stamps and signs anew brings nothing twice, and no forgery hides a true event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import get_args

import pytest

from relay.batch import StoredBatch
from relay.model import Receipt
from relay.queue.base import Queue
from relay.queue.dedup.judge import Judge
from relay.queue.dedup.opened import CONTENT_AFTER
from tests.contract.queue.conftest import Opener
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch
from tests.fakes.judging import Keys, Unchecked, forged, is_signed, unsigned
from tests.fakes.konnect import AuditEvent, Maker
from tests.fakes.konnect.writing import LogFormat, line

HOUR = 3600.0
FORMATS = get_args(LogFormat)
JUDGES: tuple[Callable[[], Judge], ...] = (Unchecked, Keys)

every_format = pytest.mark.parametrize("log_format", FORMATS)
every_judge = pytest.mark.parametrize("judge", JUDGES, ids=["unchecked", "checked"])


def written(events: Sequence[AuditEvent], log_format: LogFormat, *, stamp: float = NOW) -> list[bytes]:
    """As Konnect writes them at *stamp*."""
    return [line(event, log_format, stamp=stamp) for event in events]


async def stored(queue: Queue) -> list[StoredBatch]:
    return [each async for each in queue.received(0, NOW * 2)]


async def lines_of(queue: Queue) -> list[bytes]:
    return [line for each in await stored(queue) for line in each.lines]


@every_format
@every_judge
@pytest.mark.parametrize("restart", [False, True], ids=["same process", "after a restart"])
async def test_a_replay_that_is_signed_anew_is_recognised(
    queue: Queue, reopen: Opener, restart: bool, judge: Callable[[], Judge], log_format: LogFormat
) -> None:
    """Other stamps, signatures and boundaries; what is new among them is kept, and ids stay as they were."""
    queue.judge_by(judge())
    maker = Maker()
    events = maker.some(30, at=NOW)
    for n in range(0, 30, 10):
        await queue.append([batch(written(events[n : n + 10], log_format), at=NOW + n)])
    ids = [name for each in await stored(queue) for name in each.ids]
    later = maker.some(300, at=NOW + HOUR)
    for n in range(0, 300, 3):
        await queue.append([batch(written(later[n : n + 3], log_format), at=NOW + HOUR + n)])
    if restart:
        queue = await reopen()
        queue.judge_by(judge())

    missed = maker.some(3, at=NOW + 4)
    replayed = written([*events[5:15], *missed, *events[15:25]], log_format, stamp=NOW + 2 * HOUR)

    assert Receipt(3, 20) == await queue.append([batch(replayed, at=NOW + 2 * HOUR)])
    parts = [batch(replayed[:8], at=NOW + 3 * HOUR), batch(replayed[8:], at=NOW + 3 * HOUR)]
    assert Receipt(0, 23) == await queue.append(parts)
    assert ids == [name for each in await stored(queue) for name in each.ids][:30]


@every_format
@every_judge
async def test_a_copy_that_is_signed_anew_is_recognised_once_it_can_be_a_replay(
    queue: Queue, judge: Callable[[], Judge], log_format: LogFormat
) -> None:
    """What is recent is compared by what no new signature changes."""
    queue.judge_by(judge())
    events = Maker().some(10, at=NOW)
    await queue.append([batch(written(events, log_format))])

    again = written(events[5:], log_format, stamp=NOW + 1)
    assert Receipt(0, 5) == await queue.append([batch(again, at=NOW + CONTENT_AFTER)])


@every_format
@every_judge
@pytest.mark.parametrize("seconds", [0.0, CONTENT_AFTER - 0.5, -60.0], ids=["at once", "soon", "clock back"])
async def test_twins_in_two_requests_are_two_events(
    queue: Queue, judge: Callable[[], Judge], log_format: LogFormat, seconds: float
) -> None:
    """No replay comes that soon, so what says the same and has other bytes has happened twice."""
    queue.judge_by(judge())
    event = Maker().authorization(at=NOW)
    first, second, third = [written([event], log_format, stamp=NOW + n) for n in range(3)]
    await queue.append([batch(first)])

    assert Receipt(1, 0) == await queue.append([batch(second, at=NOW + seconds)])
    assert Receipt(1, 2) == await queue.append([batch([*third, *first, *second], at=NOW + seconds)])
    assert Receipt(0, 3) == await queue.append([batch([*second, *first, *third], at=NOW + seconds)])


@every_format
@every_judge
async def test_an_event_that_came_again_stands_for_no_twin(
    queue: Queue, judge: Callable[[], Judge], log_format: LogFormat
) -> None:
    """A replay of the same bytes brings a twin that was missed: its sister's copy is known, and it is not."""
    queue.judge_by(judge())
    event = Maker().authorization(at=NOW)
    first, second, third = [written([event], log_format, stamp=NOW + n) for n in range(3)]
    await queue.append([batch(second)])

    assert Receipt(1, 1) == await queue.append([batch([*first, *second], at=NOW + HOUR)])
    apart = [batch(third, at=NOW + HOUR), batch([*first, *second], at=NOW + HOUR)]
    assert Receipt(1, 2) == await queue.append(apart)


@every_format
@pytest.mark.parametrize("make", [forged, unsigned])
async def test_a_forgery_hides_no_true_event(
    queue: Queue, log_format: LogFormat, make: Callable[[bytes], bytes]
) -> None:
    """Sent first, with all that the true one says: the true one is stored, and its own copies are not."""
    judge = Keys()
    queue.judge_by(judge)
    events = Maker().some(5, at=NOW)
    true = written(events, log_format)
    await queue.append([batch([make(each) for each in true])])

    assert Receipt(5, 0) == await queue.append([batch(true, at=NOW + HOUR)])
    again = written(events, log_format, stamp=NOW + 9)
    assert Receipt(0, 5) == await queue.append([batch(again, at=NOW + 2 * HOUR)])
    assert [is_signed(each, judge.keys) for each in await lines_of(queue)] == [False] * 5 + [True] * 5


@every_format
async def test_where_nobody_looks_a_signature_makes_no_event(queue: Queue, log_format: LogFormat) -> None:
    """With `signatures` off the two say the same, and one is enough."""
    queue.judge_by(Unchecked())
    true = written(Maker().some(5, at=NOW), log_format)
    await queue.append([batch([forged(each) for each in true])])

    assert Receipt(0, 5) == await queue.append([batch(true, at=NOW + HOUR)])


async def test_without_a_key_both_are_kept(queue: Queue) -> None:
    """Nobody can tell which one is true: twice is better than never."""
    queue.judge_by(Keys(keys=()))
    events = Maker().some(5, at=NOW)
    await queue.append([batch(written(events, "cef"))])

    again = written(events, "cef", stamp=NOW + 9)
    assert Receipt(5, 0) == await queue.append([batch(again, at=NOW + HOUR)])
    assert Receipt(0, 5) == await queue.append([batch(written(events, "cef"), at=NOW + HOUR)])


async def test_until_there_is_a_judge_both_are_kept(queue: Queue) -> None:
    """A queue that was told nothing of signatures trusts none."""
    events = Maker().some(5, at=NOW)
    await queue.append([batch(written(events, "cef"))])

    again = written(events, "cef", stamp=NOW + 9)
    assert Receipt(5, 0) == await queue.append([batch(again, at=NOW + HOUR)])


async def test_equal_lines_need_no_judge(queue: Queue) -> None:
    """A retry costs no look at a signature."""
    judge = Keys()
    queue.judge_by(judge)
    lines = written(Maker().some(20, at=NOW), "cef")
    await queue.append([batch(lines)])

    assert Receipt(0, 20) == await queue.append([batch(lines, at=NOW + 1)])
    assert judge.asked == 0


@every_format
@every_judge
async def test_twins_are_recognised_under_new_signatures(
    queue: Queue, judge: Callable[[], Judge], log_format: LogFormat
) -> None:
    """As many as were sent together stay, alike in stamp and signature or not; one more is new."""
    queue.judge_by(judge())
    maker = Maker()
    alike, apart = maker.authorization(at=NOW), maker.authorization(at=NOW)
    first = [
        *written([alike] * 3, log_format),
        *written([apart], log_format),
        *written([apart], log_format, stamp=NOW + 1),
    ]

    assert Receipt(5, 0) == await queue.append([batch(first)])
    again = written([alike, apart] * 2, log_format, stamp=NOW + HOUR)
    assert Receipt(0, 4) == await queue.append([batch(again, at=NOW + HOUR)])
    more = written([alike] * 4 + [apart] * 3, log_format, stamp=NOW + 2 * HOUR)
    assert Receipt(2, 5) == await queue.append(
        [batch(more[:3], at=NOW + HOUR), batch(more[3:], at=NOW + HOUR)]
    )
    names = [name for each in await stored(queue) for name in each.ids]
    assert len(names) == len(set(names)) == 7


async def test_a_forgery_hides_no_twin(queue: Queue) -> None:
    """However many copies of it are sent first, each by itself or beside a true one."""
    judge = Keys()
    queue.judge_by(judge)
    event = Maker().authorization(at=NOW)
    (true,) = written([event], "cef")
    await queue.append([batch([forged(true), forged(true)])])
    await queue.append([batch([true, forged(true)], at=NOW + 1)])

    await queue.append([batch(written([event] * 2, "cef", stamp=NOW + 9), at=NOW + HOUR)])

    assert sum([is_signed(each, judge.keys) for each in await lines_of(queue)]) == 2


@pytest.mark.parametrize(
    ("judge", "receipt"),
    [(Unchecked, Receipt(1, 9)), (Keys, Receipt(10, 0))],
    ids=["unchecked", "checked"],
)
async def test_a_batch_that_is_given_back_leaves_what_it_said(
    reopen: Opener, clock: FakeClock, judge: Callable[[], Judge], receipt: Receipt
) -> None:
    """Where nobody looks that is enough; elsewhere no signature is left to stand for anything."""
    queue = await reopen(retention=60.0)
    queue.judge_by(judge())
    maker = Maker()
    events = maker.some(10, at=NOW)
    await queue.append([batch(written(events, "cef"))])
    async with asyncio.timeout(60):
        while await stored(queue):  # upkeep wakes up every second and works in its own thread
            await clock.advance(30)
            await queue.ping()
    queue = await reopen(retention=60.0)
    queue.judge_by(judge())

    assert Receipt(0, 10) == await queue.append([batch(written(events, "cef"), at=clock.now())])
    again = written([*events[1:], maker.access(at=NOW)], "cef", stamp=NOW + HOUR)
    assert receipt == await queue.append([batch(again, at=clock.now())])


@pytest.mark.parametrize("seed", range(4))
@every_judge
async def test_every_true_event_once(reopen: Opener, judge: Callable[[], Judge], seed: int) -> None:
    """Whatever order, boundaries, forgeries and restarts: each true event is there, and none twice."""
    rng = Random(seed)
    maker = Maker()
    events = [event for n in range(30) for event in maker.some(2, at=NOW + 10 * n)]
    sent: set[int] = set()
    queue = await reopen()
    queue.judge_by(judge())
    keys = Keys().keys
    for step in range(60):
        now = NOW + step * CONTENT_AFTER
        if rng.randrange(12) == 0:
            queue = await reopen()
            queue.judge_by(judge())
        start, count = rng.randrange(len(events)), rng.randrange(1, 12)
        which = range(start, min(start + count, len(events)))
        stamp = NOW + rng.choice((0, 0, step))
        log = written([events[n] for n in which], "cef", stamp=stamp)
        if rng.random() < 0.3 and judge is Keys:
            log = [rng.choice((forged, unsigned))(each) for each in log]
        else:
            sent.update(which)
        cuts = sorted({0, rng.randrange(len(log)), len(log)})
        await queue.append([batch(log[a:b], at=now) for a, b in pairwise(cuts)])

    true = [each for each in await lines_of(queue) if is_signed(each, keys)]
    assert sorted([each.partition(b"trace_id=")[2].split()[0] for each in true]) == sorted(
        [str(dict(events[n].extensions)["trace_id"]).encode() for n in sent]
    )
