"""A Konnect on loopback and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.config.secret import Secret
from relay.recovery.api import Hosts, KonnectApi
from tests.contract.recovery.commands import Commands
from tests.contract.recovery.running import Running
from tests.contract.recovery.scenes import bind
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import TOKEN, FakeKonnect, Maker
from tests.fakes.siem import Siem


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


@pytest.fixture
async def siem() -> AsyncIterator[Siem]:
    async with Siem() as siem:
        yield siem


@pytest.fixture
async def running(
    tmp_path: Path, clock: FakeClock, konnect: FakeKonnect, siem: Siem
) -> AsyncIterator[Running]:
    """A relay that Konnect sends to. Its replays repeat the lines in other batches."""
    konnect.sender.restamps = False
    async with Running(tmp_path, clock, konnect, siem) as running:
        bind(running)
        yield running


def client(konnect: FakeKonnect, clock: FakeClock, *, token: str = TOKEN, timeout: float = 5.0) -> KonnectApi:
    """A client of the fake's first region, not opened yet."""
    hosts = Hosts(konnect.url(), konnect.url("global"))
    return KonnectApi(hosts, Secret(token), clock=clock, timeout=timeout)
