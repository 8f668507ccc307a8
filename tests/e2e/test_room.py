"""No room: nothing is acknowledged that is not stored, and the intake resumes by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.support import (
    DELIVERY_LIMIT,
    HEADERS,
    SOURCE,
    Traffic,
    Trail,
    body_of,
    books,
    configuration,
    destination,
    drained,
)
from tests.fakes.disk import SmallDisk, small_disk
from tests.fakes.process import RelayProcess, until
from tests.fakes.siem import Siem

_DISK = 8 << 20
_BALLAST = 4 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Eight megabytes, half of which are taken."""
    with small_disk(tmp_path, _DISK) as disk:
        disk.load(_BALLAST)
        yield disk


async def _fill(relay: RelayProcess, trail: Trail) -> None:
    """Send until something is refused, and then a little more."""
    refused = 0
    for _ in range(3000):
        status = await trail.offer(relay, trail.traffic.lines(100))
        assert status in (200, 429, 500)
        refused += status != 200
        if refused == 20:
            return
    raise AssertionError("the disk never became full")


async def _accepts_again(relay: RelayProcess, trail: Trail) -> None:
    async def accepted() -> bool:
        return await trail.offer(relay, trail.traffic.lines(10)) == 200

    await until(accepted, DELIVERY_LIMIT, "an accepted batch")


@pytest.mark.parametrize("floor", [0, 1 << 20], ids=["no floor", "1 MiB floor"])
async def test_a_full_disk_loses_nothing(tmp_path: Path, disk: SmallDisk, floor: int) -> None:
    """A full disk refuses, keeps what it promised even over a kill, and comes back with the space."""
    trail = Trail(Traffic(6))
    async with Siem() as siem:
        siem.then(503)
        config = configuration(
            disk.path, [destination("siem", siem)], min_free_disk=floor, when_full="reject"
        )
        async with RelayProcess(config, tmp_path) as relay:
            await _fill(relay, trail)
            assert trail.codes[200] > 10
            assert (await books(relay, "siem")).accepted == len(trail.owed)
            # A crash on the full disk must not turn an answer given into a lie either.
            await relay.kill()
            disk.unload()
            await relay.start()
            assert (await books(relay, "siem")).accepted >= len(trail.owed)
            await _accepts_again(relay, trail)
            siem.then(200)
            await drained(relay, "siem")
            trail.check(siem.lines())


async def test_a_running_relay_takes_up_freed_disk_space(tmp_path: Path, disk: SmallDisk) -> None:
    """Without a restart: space comes back, the next batches are accepted, readiness follows."""
    trail = Trail(Traffic(7))
    async with Siem() as siem:
        siem.then(503)  # or what is delivered makes room as fast as it is filled
        config = configuration(disk.path, [destination("siem", siem)], when_full="reject")
        async with RelayProcess(config, tmp_path) as relay:
            await _fill(relay, trail)
            assert (await relay.get("/healthz"))[0] == 200
            disk.unload()
            await _accepts_again(relay, trail)
            await relay.ready()
            siem.then(200)
            await drained(relay, "siem")
            trail.check(siem.lines())


async def test_the_size_limit_refuses_and_gives_way(tmp_path: Path) -> None:
    """At `max_bytes` the intake answers 429 with Retry-After and a gap; delivery makes room again."""
    trail = Trail(Traffic(8))
    async with Siem() as siem:
        siem.then(503)
        limits = {"max_bytes": "2MiB", "retention": "1ms", "when_full": "reject"}
        config = configuration(tmp_path, [destination("siem", siem)], **limits)
        config["sources"][0]["deduplicate"] = "off"
        async with RelayProcess(config, tmp_path) as relay:
            await _fill(relay, trail)
            assert trail.codes[500] == 0
            url = f"http://127.0.0.1:{relay.port}/audit-logs/{SOURCE}"
            body = body_of(trail.traffic.lines(100))
            plain = {name: value for name, value in HEADERS.items() if name != "Content-Encoding"}
            async with relay.session.post(url, data=body, headers=plain) as response:
                assert response.status == 429
                assert int(response.headers["Retry-After"]) > 0
            status, gaps = await relay.get("/api/v1/gaps")
            assert status == 200
            assert b'"429"' in gaps
            siem.then(200)
            await _accepts_again(relay, trail)
            await drained(relay, "siem")
            trail.check(siem.lines())


async def test_a_hopeless_destination_does_not_stop_the_others(tmp_path: Path) -> None:
    """With `release_laggards` the one far behind loses its oldest events, counted as expired."""
    trail = Trail(Traffic(9))
    async with Siem() as well, Siem() as dead:
        dead.then(503)
        limits = {"max_bytes": "2MiB", "retention": "1ms", "when_full": "release_laggards"}
        config = configuration(tmp_path, [destination("well", well), destination("dead", dead)], **limits)
        config["sources"][0]["deduplicate"] = "off"
        async with RelayProcess(config, tmp_path) as relay:
            expired = 'relay_dead_lettered_events_total{destination="dead",reason="expired"}'
            # Paced by delivery: whoever is up to date is what entitles the relay to give up the other.
            async with asyncio.timeout(DELIVERY_LIMIT):
                while not (await relay.metrics())[expired]:
                    for _ in range(20):
                        await trail.offer(relay, trail.traffic.lines(100))
                    await drained(relay, "well")
            await _accepts_again(relay, trail)
            await drained(relay, "well")
            trail.check(well.lines())
            account = await books(relay, "dead")
            account.check()
            assert account.dead_letters > 0
