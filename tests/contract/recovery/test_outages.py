"""The relay, its disk, its certificate or the network fails: recovery fills the gap.

After each trouble everything that Konnect still has is at every SIEM exactly once, and the list of gaps is
empty or says truthfully what is lost for ever: `scenes.all_is_well`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from tests.contract.recovery.engines import Engine, JetStreamEngine
from tests.contract.recovery.running import AUTHORIZATION, Running
from tests.contract.recovery.scenes import (
    DAY,
    HOUR,
    MINUTE,
    all_is_well,
    bind,
    down,
    failing_batch,
    on_both,
    some,
    until_refused,
)
from tests.fakes.clock import FakeClock
from tests.fakes.disk import small_disk
from tests.fakes.konnect import FakeKonnect, Maker, Place
from tests.fakes.nats import NatsServer
from tests.fakes.proxy import TcpProxy
from tests.fakes.siem import Siem


@on_both
@pytest.mark.parametrize("seconds", [MINUTE, HOUR])
async def test_down_for_a_while(running: Running, maker: Maker, seconds: float) -> None:
    """Killed and started again: down time is a gap, the webhook is switched on, a replay closes the gap."""
    await some(running, maker)
    await down(running, maker, seconds, every=seconds / 7)

    await all_is_well(running)
    gaps = await running.gaps()
    assert {gap.cause for gap in gaps} == {"downtime", "inactive"}
    assert all(gap.lost_until is None for gap in gaps)
    assert len(running.log.named("webhook.switched_on")) == 1
    assert await running.metric('relay_recovered_events_total{source="konnect"}') >= 21
    assert await running.metric('relay_gaps_open{source="konnect"}') == 0


@on_both
async def test_down_for_eight_days(running: Running, maker: Maker) -> None:
    """What Konnect has deleted is lost and stays visible; everything else comes."""
    await some(running, maker)
    began = running.clock.now()
    await down(running, maker, 8 * DAY, every=6 * HOUR)
    started = running.clock.now()

    await all_is_well(running)
    (gap,) = [gap for gap in await running.gaps() if gap.cause == "downtime"]
    assert gap.start <= began
    assert gap.lost_until is not None
    assert started - 7 * DAY <= gap.lost_until <= running.clock.now() - 7 * DAY + 2 * MINUTE
    assert running.log.named("recovery.lost")
    assert await running.metric('relay_gaps_lost{source="konnect"}') >= 1


@on_both
async def test_a_short_restart_is_no_gap(running: Running, maker: Maker) -> None:
    """Konnect tries for fifteen seconds; who is back before that has missed nothing."""
    await some(running, maker)
    await running.stop()
    await running.clock.advance(5.0)
    await running.start()
    await running.through(60.0)

    assert await running.gaps() == []
    assert running.konnect.called("PUT", "/audit-log-replay-job") == []


@on_both
async def test_killed_while_a_replay_runs(running: Running, maker: Maker) -> None:
    """What was known of the job is gone with it, and what the job sends finds nobody: another one does it."""
    await some(running, maker)
    running.konnect.replays.pace = 10.0
    await down(running, maker, HOUR, every=MINUTE)
    await running.until(lambda: running.konnect.organisation.job(Place()).status == "running", "the replay")
    await running.kill()
    running.clock.jump(MINUTE)
    await running.start()

    await all_is_well(running)
    assert len(running.log.named("recovery.replaying")) >= 2
    assert running.log.named("recovery.replayed")


@on_both
async def test_the_queue_is_full(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem, engine: Engine
) -> None:
    """429 until there is room again: what was refused comes by a replay, once it can be kept."""
    maker = Maker()
    konnect.sender.restamps = False
    siem.then(503)
    running = Running(tmp_path, clock, konnect, siem, engine=engine)
    running.config["queue"] = engine.settings(max_bytes="256KiB", when_full="reject")
    running.config["recovery"]["konnect"]["margin"] = "10s"
    async with running:
        bind(running)
        await until_refused(running, maker)
        await running.through(5 * MINUTE)
        assert {gap.cause for gap in await running.queue.gaps()} == {"429", "inactive"}
        assert len(konnect.called("PUT", "/audit-log-replay-job")) < 8
        siem.then(200)

        await all_is_well(running)
        assert all(gap.lost_until is None for gap in await running.gaps())


async def test_the_disk_is_full(tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem) -> None:
    """Nothing more can be stored, not even the gap: 429 or 500, until somebody makes room."""
    maker = Maker()
    konnect.sender.restamps = False
    siem.then(503)
    with small_disk(tmp_path, 4 << 20) as disk:
        disk.load(disk.free - (768 << 10))
        running = Running(disk.path, clock, konnect, siem)
        running.config["queue"] |= {"max_bytes": "2MiB", "when_full": "reject"}
        async with running:
            bind(running)
            await until_refused(running, maker)
            konnect.record(maker.some(10, at=clock.now()))
            await running.through(5 * MINUTE)
            assert disk.free < 64 << 10
            causes = {gap.cause for gap in await running.queue.gaps()}
            assert {"inactive"} < causes <= {"429", "500", "inactive"}
            assert len(konnect.called("PUT", "/audit-log-replay-job")) < 8
            disk.unload()
            siem.then(200)

            await all_is_well(running)
            assert all(gap.lost_until is None for gap in await running.gaps())


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def konnect_that_checks(clock: FakeClock, authority: trustme.CA) -> AsyncIterator[FakeKonnect]:
    """It trusts one authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with FakeKonnect(clock, trust=context) as konnect:
        yield konnect


async def test_the_certificate_expires(
    tmp_path: Path, clock: FakeClock, konnect_that_checks: FakeKonnect, siem: Siem, authority: trustme.CA
) -> None:
    """Konnect sends to nobody whose certificate is not valid; a renewed one is taken up from its files."""
    konnect, maker = konnect_that_checks, Maker()
    konnect.sender.restamps = False
    running = Running(tmp_path, clock, konnect, siem)
    running.config["server"]["tls"] = certify(authority, tmp_path)
    async with running:
        konnect.organisation.bind(f"https://localhost:{running.port}/audit-logs/konnect", AUTHORIZATION)
        await some(running, maker)
        certify(authority, tmp_path, not_after=datetime(2025, 1, 1, tzinfo=UTC))
        await running.until(
            lambda: bool(running.log.named("ingest.certificate_renewed")), "the reading of it"
        )
        for _ in range(3):
            await some(running, maker, 10)
            await running.through(2 * MINUTE)  # switched on again now and then, and in vain
        refused = [each for each in konnect.sender.sendings if each.refused_certificate]
        assert refused
        assert {gap.cause for gap in await running.queue.gaps()} == {"inactive"}
        certify(authority, tmp_path)

        await all_is_well(running)
        await some(running, maker)
        await all_is_well(running)
        assert konnect.sender.sendings[-1].answers == [200]
        assert all(gap.lost_until is None for gap in await running.gaps())


def certify(authority: trustme.CA, folder: Path, *, not_after: datetime | None = None) -> dict[str, str]:
    """A certificate for localhost, written where the relay looks; the section `server.tls`."""
    made = authority.issue_cert("localhost", not_before=datetime(2024, 1, 1, tzinfo=UTC), not_after=not_after)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return {"cert": str(cert), "key": str(key)}


@on_both
@pytest.mark.parametrize("disables", [False, True], ids=["failing", "switched off"])
async def test_konnect_gives_up_on_the_webhook(running: Running, maker: Maker, disables: bool) -> None:
    """The network fails, not the relay: nothing was refused, Konnect's own word tells, in either form."""
    running.konnect.sender.disables = disables
    await some(running, maker)
    await running.through(MINUTE)
    await failing_batch(running, maker)
    running.konnect.record(maker.some(5, at=running.clock.now()))

    await running.until(lambda: bool(running.log.named("webhook.inactive")), "the relay noticing")
    await all_is_well(running)
    assert {gap.cause for gap in await running.gaps()} == {"inactive"}
    assert len(running.log.named("webhook.switched_on")) == 1
    await some(running, maker)
    await all_is_well(running)


async def test_the_replica_that_konnect_was_sent_to_dies(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem, nats_server: NatsServer
) -> None:
    """The other one was there all the time: no down time. It sees the webhook fail, and recovers."""
    maker = Maker()
    konnect.sender.restamps = False
    engine = JetStreamEngine(nats_server)
    other = JetStreamEngine(nats_server, engine.stream)
    one = Running(tmp_path, clock, konnect, siem, engine=engine)
    two = Running(tmp_path, clock, konnect, siem, engine=other, beside=one)
    async with one, TcpProxy(one.port) as balancer:
        endpoint = f"http://127.0.0.1:{balancer.port}/audit-logs/konnect"
        konnect.organisation.bind(endpoint, AUTHORIZATION)
        async with two:
            await some(one, maker)
            await two.through(MINUTE)
            assert two.relay.replicas()[0].recovering is None  # the older one does it

            await one.kill()
            await some(two, maker)
            konnect.record(maker.some(5, at=clock.now()))
            await two.until(lambda: bool(two.log.named("webhook.inactive")), "the other one noticing")
            balancer.target = two.port

            await all_is_well(two)
            assert {gap.cause for gap in await two.gaps()} == {"inactive"}
            assert len(konnect.called("PUT", "/audit-log-replay-job")) == 1


async def test_every_replica_dies(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem, nats_server: NatsServer
) -> None:
    """They come back together, and one of them recovers: every event is there once, and one job did it."""
    maker = Maker()
    konnect.sender.restamps = False
    engine = JetStreamEngine(nats_server)
    other = JetStreamEngine(nats_server, engine.stream)
    one = Running(tmp_path, clock, konnect, siem, engine=engine)
    two = Running(tmp_path, clock, konnect, siem, engine=other, beside=one)
    async with one:
        bind(one)
        async with two:
            await some(one, maker)
            await two.kill()
            await one.kill()
            await some(one, maker)
            clock.jump(HOUR)
            konnect.record(maker.some(10, at=clock.now()))
            await one.start()
            await two.start()

            await all_is_well(one)
            await all_is_well(two)
            assert {gap.cause for gap in await two.gaps()} == {"downtime", "inactive"}
            assert len(konnect.called("PUT", "/audit-log-replay-job")) == 1
