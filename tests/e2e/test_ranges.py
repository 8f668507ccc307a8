"""Redrive, replay and back-fill: interrupted by SIGKILL they go on, and live events never wait behind them.

Each test sends a range of forty requests to a SIEM, kills the relay while the sixth is in the air,
starts it again, holds one request of the range back, and posts a live batch meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.e2e.support import DELIVERY_LIMIT, Traffic, Trail, books, configuration, destination, drained
from tests.fakes.process import RelayProcess, until
from tests.fakes.siem import Siem

_BATCHES = 40
_EVENTS = 10  # per batch, and per request to the SIEM
_ALL = _BATCHES * _EVENTS
_BEFORE_THE_KILL = 5  # requests of the range that are answered


def _small_chunks(name: str, siem: Siem, **settings: Any) -> dict[str, Any]:
    return destination(name, siem, batch={"max_events": _EVENTS}, **settings)


async def _ask(relay: RelayProcess, path: str, document: dict[str, Any]) -> dict[str, Any]:
    url = f"http://127.0.0.1:{relay.admin_port}/api/v1/{path}"
    async with relay.session.post(url, json=document) as response:
        text = await response.text()
        assert response.status < 300, text
        answer: dict[str, Any] = json.loads(text)
        return answer


def _stop_in_the_middle(siem: Siem) -> int:
    """Let some requests of the range through and keep the next one; how many will have come by then."""
    siem.answer(200, times=_BEFORE_THE_KILL).answer(503, after=asyncio.Event()).then(200)
    return len(siem.requests) + _BEFORE_THE_KILL + 1


async def _killed_and_overtaken(relay: RelayProcess, siem: Siem, trail: Trail, seen: int) -> None:
    """The middle of each test: kill in mid-flight, start again, let a live batch overtake the range."""
    await siem.received(seen)
    await relay.kill()

    gate = asyncio.Event()
    siem.answer(200, after=gate)
    await relay.start()
    await siem.received(seen + 1)  # one request of the range, which we keep
    live = set(await trail.post(relay, 7))
    gate.set()
    await siem.received(seen + 3)
    # Whoever was in the air goes first; of the two requests behind it the live one is the first.
    assert set(siem.requests[seen + 1].lines()) == live
    assert not live & set(siem.requests[seen + 2].lines())


async def test_redrive_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Dead letters sent again once the SIEM is mended all arrive, and leave the books as delivered."""
    trail = Trail(Traffic(11))
    async with Siem() as siem:
        siem.then(500)
        retry = {"min_wait": "1ms", "max_wait": "1ms", "max_retries": 0, "on_exhausted": "dead_letter"}
        config = configuration(tmp_path, [_small_chunks("siem", siem, retry=retry)])
        async with RelayProcess(config, tmp_path) as relay:
            for _ in range(_BATCHES):
                await trail.post(relay, _EVENTS)
            await drained(relay, "siem")
            assert (await books(relay, "siem")).dead_letters == _ALL

            seen = _stop_in_the_middle(siem)
            asked = await _ask(relay, "dead-letters/redrive", {"destination": "siem"})
            assert asked == {"events": _ALL}
            await _killed_and_overtaken(relay, siem, trail, seen)
            await drained(relay, "siem")

            trail.check(siem.lines())
            account = await books(relay, "siem")
            assert (account.dead_letters, account.delivered) == (0, _ALL + 7)


async def test_replay_goes_on_after_a_kill(tmp_path: Path) -> None:
    """A range of delivered events is sent once more, on top of the books."""
    trail = Trail(Traffic(12))
    async with Siem() as siem:
        config = configuration(tmp_path, [_small_chunks("siem", siem)])
        async with RelayProcess(config, tmp_path) as relay:
            for _ in range(_BATCHES):
                await trail.post(relay, _EVENTS)
            await drained(relay, "siem")
            assert len(siem.lines()) == _ALL
            # A clean stop stores the watermark; after a kill the last second would be delivered again.
            assert await relay.stop() == 0
            await relay.start()

            seen = _stop_in_the_middle(siem)
            asked = {"destination": "siem", "from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
            assert (await _ask(relay, "replays", asked))["total"] == _ALL
            await _killed_and_overtaken(relay, siem, trail, seen)
            await drained(relay, "siem")

            trail.check(siem.lines()[_ALL:])
            account = await books(relay, "siem")
            assert account.delivered == _ALL + 7
            series = await relay.metrics()
            assert series['relay_replayed_events_total{destination="siem"}'] == _ALL


async def test_backfill_of_a_new_destination_goes_on_after_a_kill(tmp_path: Path) -> None:
    """A destination added with `start_from: earliest` gets everything retained, live events first."""
    trail = Trail(Traffic(13))
    async with Siem() as old, Siem() as new:
        config = configuration(tmp_path, [_small_chunks("old", old)])
        async with RelayProcess(config, tmp_path) as relay:
            for _ in range(_BATCHES):
                await trail.post(relay, _EVENTS)
            await drained(relay, "old")
            assert await relay.stop() == 0

            seen = _stop_in_the_middle(new)
            config["destinations"].append(_small_chunks("new", new, start_from="earliest"))
            relay.configure(config)
            await relay.start()
            await _killed_and_overtaken(relay, new, trail, seen)
            await drained(relay, "old", "new")

            trail.check(new.lines())
            trail.check(old.lines())
            assert (await books(relay, "new")).delivered == _ALL + 7


async def test_a_slow_range_keeps_its_rate(tmp_path: Path) -> None:
    """A replay with a rate leaves live events alone and is refused nothing; it just takes its time."""
    trail = Trail(Traffic(14))
    async with Siem() as siem:
        config = configuration(tmp_path, [_small_chunks("siem", siem)])
        async with RelayProcess(config, tmp_path) as relay:
            for _ in range(4):
                await trail.post(relay, _EVENTS)
            await drained(relay, "siem")
            asked = {"destination": "siem", "from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
            await _ask(relay, "replays", {**asked, "rate": 5})
            live = await trail.post(relay, 7)
            await until(lambda: set(live) <= set(siem.lines()), DELIVERY_LIMIT, "the live batch")
            status = await relay.status()
            assert status["destinations"][0]["readers"][0]["backlog"] > 0
            await drained(relay, "siem")
            trail.check(siem.lines()[_EVENTS * 4 :])
