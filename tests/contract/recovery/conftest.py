"""A Konnect on loopback and a client of it; a SIEM, and a relay between the two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.config.secret import Secret
from relay.recovery.api import Hosts, KonnectApi
from tests.contract.recovery.commands import Commands
from tests.contract.recovery.engines import Engine, JetStreamEngine, SqliteEngine
from tests.contract.recovery.running import Running
from tests.contract.recovery.scenes import bind
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import TOKEN, FakeKonnect, Maker
from tests.fakes.nats import NatsServer
from tests.fakes.siem import Answer, Siem


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Belongs to no event loop: every test may connect to it."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
async def konnect(clock: FakeClock) -> AsyncIterator[FakeKonnect]:
    async with FakeKonnect(clock) as konnect:
        yield konnect


@pytest.fixture
async def api(konnect: FakeKonnect, clock: FakeClock) -> AsyncIterator[KonnectApi]:
    async with client(konnect, clock) as api:
        yield api


@pytest.fixture
def command(
    konnect: FakeKonnect, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Commands:
    """`konnect-relay konnect …`, as if run beside the relay."""
    for name in ("KONNECT_TOKEN", "RELAY_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Commands(konnect, tmp_path, capsys)


def client(
    konnect: FakeKonnect, clock: FakeClock, *, token: str = TOKEN, timeout: float = 30.0
) -> KonnectApi:
    """A client of the fake's first region, not opened yet."""
    hosts = Hosts(konnect.url(), konnect.url("global"))
    return KonnectApi(hosts, Secret(token), clock=clock, timeout=timeout)


@pytest.fixture
async def siem() -> AsyncIterator[Siem]:
    async with Siem() as siem:
        yield siem


@pytest.fixture
async def flapping() -> AsyncIterator[Siem]:
    """A SIEM that refuses every third request."""
    async with Siem() as siem:
        siem.then(lambda _: Answer(503 if len(siem.requests) % 3 == 0 else 200))
        yield siem


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """SQLite, where a test does not ask for more. Not async: the NATS server is one for all tests."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return SqliteEngine(tmp_path)
    return JetStreamEngine(request.getfixturevalue("nats_server"))


@pytest.fixture
async def running(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem, flapping: Siem, engine: Engine
) -> AsyncIterator[Running]:
    """A relay that Konnect sends to. Its replays repeat the lines in other batches."""
    konnect.sender.restamps = False
    async with Running(tmp_path, clock, konnect, siem, flapping, engine=engine) as running:
        bind(running)
        yield running
