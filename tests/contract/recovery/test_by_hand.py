"""A pull that a person asks for: what passes is waited for, as recovery waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
import yaml

from relay.config.load import load
from relay.config.queue import SqliteQueueConfig
from relay.config.schema import Config
from relay.destinations.registry import CONFIG_TYPES
from relay.observe.metrics import Metrics
from relay.queue.sqlite import SqliteQueue
from relay.recovery.by_hand import PullByHand
from relay.recovery.errors import KonnectForbidden, KonnectThrottled, KonnectUnavailable
from relay.recovery.state import Window
from tests.contract.recovery.test_healing import LOG, turned
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import TOKEN, FakeKonnect, Fault, Maker


class ByHand:
    """A relay's pulling, and the organisation's log of the last hour."""

    def __init__(self, queue: SqliteQueue, clock: FakeClock, config: Config) -> None:
        self.clock = clock
        self._config = config
        log = structlog.wrap_logger(
            structlog.testing.CapturingLogger(), processors=[], wrapper_class=structlog.BoundLogger
        )
        metrics = Metrics(["us"], [])
        self._pulling = PullByHand(queue, clock=clock, tally=metrics, log=log)

    async def pull(self) -> tuple[int, int]:
        """Entries, and how many of them were new."""
        window = Window(self.clock.now() - 3600, self.clock.now())
        _, entries, accepted, reached = await turned(
            self.clock, self._pulling.pull(self._config, "us", window)
        )
        assert reached == window.start
        return entries, accepted


@pytest.fixture
async def by_hand(tmp_path: Path, clock: FakeClock, konnect: FakeKonnect) -> AsyncIterator[ByHand]:
    path = tmp_path / "relay.yaml"
    settings = {
        "region": "us",
        "token": TOKEN,
        "regional_url": konnect.url(),
        "global_url": konnect.url("global"),
    }
    document = {
        "sources": [{"name": "us", "authorization": "Bearer x"}],
        "destinations": [{"name": "audit", "type": "file", "path": str(tmp_path / "audit.ndjson")}],
        "recovery": {"konnect": settings},
    }
    path.write_text(yaml.safe_dump(document))
    queue = await SqliteQueue.open(
        SqliteQueueConfig(path=tmp_path / "relay.db", min_free_disk=0),
        clock=FakeClock(clock.now()),  # of its own: the queue's regular work would turn the other one on
        metrics=Metrics(["us"], []),
        deduplicate={"us": 3600.0},
    )
    yield ByHand(queue, clock, load(path, destination_types=CONFIG_TYPES).config)
    await queue.close()


async def test_what_passes_is_waited_for(by_hand: ByHand, konnect: FakeKonnect, clock: FakeClock) -> None:
    """A 503, and a 429 for as long as it asks; what was pulled before is not pulled again."""
    konnect.record(Maker().some(2500, at=clock.now() - 60))
    konnect.faults.add(Fault("GET", LOG, status=503))
    konnect.faults.add(Fault("GET", LOG, status=429, retry_after="90", after=1))
    before = clock.monotonic()

    assert await by_hand.pull() == (2500, 2500)
    assert clock.monotonic() - before == 2 + 90
    assert len(konnect.called("GET", "/v3/audit-logs")) == 5  # three pages, and one call for each failure


async def test_a_trouble_that_stays_is_told(by_hand: ByHand, konnect: FakeKonnect, clock: FakeClock) -> None:
    """After a minute or so; at once where Konnect wants to be left alone for longer than a call lasts."""
    konnect.faults.add(Fault("GET", LOG, status=503, times=6))
    before = clock.monotonic()
    with pytest.raises(KonnectUnavailable):
        await by_hand.pull()
    assert clock.monotonic() - before == 2 + 4 + 8 + 16 + 32

    konnect.faults.add(Fault("GET", LOG, status=429, retry_after="1000000"))
    with pytest.raises(KonnectThrottled):
        await by_hand.pull()
    assert clock.monotonic() - before == 62


async def test_what_does_not_pass_is_told_at_once(by_hand: ByHand, konnect: FakeKonnect) -> None:
    """Nothing is better for waiting."""
    konnect.faults.add(Fault("GET", LOG, status=403))

    with pytest.raises(KonnectForbidden):
        await by_hand.pull()
    assert len(konnect.called("GET", "/v3/audit-logs")) == 1
