"""SIGKILL at any moment: what was answered 2xx arrives everywhere, and nothing else does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.e2e.support import DELIVERY_LIMIT, Traffic, Trail, books, configuration, destination, drained
from tests.fakes.process import RelayProcess
from tests.fakes.siem import Answer, Received, Siem

_KILLS = 6


def _flaky(rng: Random) -> Answer:
    """A SIEM on a bad day: half of its answers are failures of every kind."""
    kind = rng.randrange(10)
    if kind < 5:
        return Answer(200)
    if kind == 5:
        return Answer(429, headers={"Retry-After": "0"})
    if kind == 6:
        return Answer(cut_after=0, body=b"x")
    return Answer((500, 502, 503)[kind - 7])


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_promise_is_broken_by_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    """Under load, with one destination failing half the time, six kills lose and invent nothing."""
    print(f"seed {seed}")  # noqa: T201 - to repeat a failure
    rng = Random(seed)
    trail = Trail(Traffic(seed))
    async with Siem() as well, Siem() as sick:
        day = Random(seed + 1000)
        sick.then(lambda _: _flaky(day))
        config = configuration(
            tmp_path,
            [destination("well", well), destination("sick", sick, batch={"max_events": 40})],
        )
        async with RelayProcess(config, tmp_path) as relay:
            async with trail.flowing(relay):
                for _ in range(_KILLS):
                    await _some_progress(trail, rng)
                    await relay.kill()
                    await relay.start()
                    for name in ("well", "sick"):
                        (await books(relay, name)).check()
                await _some_progress(trail, rng)
            await drained(relay, "well", "sick")
            trail.check(well.lines())
            trail.check(sick.lines())
            assert len(trail.owed) > _KILLS * 10
            assert await relay.stop() == 0
            await relay.start()
            for name in ("well", "sick"):
                account = await books(relay, name)
                account.check()
                assert account.backlog == 0


async def _some_progress(trail: Trail, rng: Random) -> None:
    """Wait for a random number of acceptances and then a random moment, which is the point here."""
    async with asyncio.timeout(DELIVERY_LIMIT):
        for _ in range(rng.randint(1, 60)):
            trail.changed.clear()
            await trail.changed.wait()
    await asyncio.sleep(rng.uniform(0, 0.02))


async def test_a_batch_whose_answer_was_lost_is_stored_once(tmp_path: Path) -> None:
    """Konnect sends a batch again when a kill swallowed the answer; each event is still delivered once."""
    trail = Trail(Traffic(3))
    async with Siem() as siem:
        async with RelayProcess(configuration(tmp_path, [destination("siem", siem)]), tmp_path) as relay:
            lines = await trail.post(relay)
            await siem.received_lines(len(lines))
            await relay.kill()
            await relay.start()
            assert await trail.offer(relay, lines) == 200
            more = await trail.post(relay)
            await drained(relay, "siem")
            account = await books(relay, "siem")
            assert account.accepted == len(lines) + len(more)
        trail.check(siem.lines())


async def test_a_restart_remembers_how_far_a_retry_schedule_was(tmp_path: Path) -> None:
    """Attempts spent before a kill count after it: the destination is held after five in all."""
    trail = Trail(Traffic(4))
    retry = {"min_wait": "1ms", "max_wait": "1ms", "max_retries": 4, "probe_interval": "1h"}
    last = asyncio.Event()

    def count(_: Received) -> Answer:
        return Answer(503) if len(siem.requests) < 4 else Answer(503, after=last)

    async with Siem() as siem:
        siem.then(count)
        config = configuration(tmp_path, [destination("siem", siem, retry=retry)])
        async with RelayProcess(config, tmp_path) as relay:
            await trail.post(relay)
            await siem.received(4)  # three failed, the fourth is in the air
            await relay.kill()
            last.set()
            await relay.start()
            await relay.becomes("siem", "held")
            # The fourth was cut off by the kill and spent nothing; it and the fifth came after it.
            assert len(siem.requests) == 6
