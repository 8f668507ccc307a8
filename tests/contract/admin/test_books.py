"""The books in /metrics: what must agree, and go on agreeing after a restart."""

from __future__ import annotations

import pytest

from relay.admin.control import KonnectAccess
from relay.model import DestinationState, Hold, HoldReason, Replica, RetryState
from tests.contract.admin.conftest import Admined
from tests.fakes.events import NOW


async def assert_identity(admin: Admined, destination: str) -> None:
    """accepted = delivered + filtered + dead-lettered + backlog, as a scraper sees it."""
    series = await admin.series()

    def of(name: str) -> float:
        return series[f'relay_{name}{{destination="{destination}"}}']

    accepted = sum(value for name, value in series.items() if name.startswith("relay_ingest_events_total"))
    settled = of("delivered_events_total") + of("filtered_events_total")
    dead = of("dead_letters") + of("discarded_events_total")
    assert accepted == of("destination_owed_events_total")
    assert accepted == settled + dead + of("destination_backlog_events")
    assert all(value >= 0 for value in series.values())


async def test_the_identity_holds_through_everything_and_after_a_restart(admin: Admined) -> None:
    """Delivered, filtered, dead, discarded and waiting events add up to the accepted ones."""
    await assert_identity(admin, "sumo")
    await admin.accept(10)
    await assert_identity(admin, "sumo")
    await admin.settle("sumo", delivered=3, dead=2, filtered=1)
    await assert_identity(admin, "sumo")
    first = (await admin.get("/api/v1/dead-letters"))["data"][0]["id"]
    await admin.ask("POST", "/api/v1/dead-letters/discard", {"ids": [first]})
    await admin.accept(5, first=100, source="us")
    before = await admin.series()

    await admin.restart()

    after = await admin.series()
    for destination in ("sumo", "splunk"):
        await assert_identity(admin, destination)
    books = (
        "ingest_events",
        "ingest_dup",
        "delivered_events",
        "filtered",
        "dead_",
        "discarded",
        "destination_o",
    )
    for name in before:
        if name.removeprefix("relay_").startswith(books):
            assert (name, before[name]) == (name, after[name])


async def test_a_duplicate_is_counted_as_such(admin: Admined) -> None:
    """The second copy is in no destination's books."""
    await admin.accept(4)
    await admin.accept(4)

    series = await admin.series()

    assert series['relay_ingest_duplicate_events_total{source="eu"}'] == 4
    assert series['relay_ingest_events_total{format="cef",source="eu"}'] == 4
    await assert_identity(admin, "sumo")


async def test_ages_grow_with_the_clock_and_never_below_zero(admin: Admined) -> None:
    """An empty backlog has age zero; a clock set back makes nothing negative."""
    await admin.clock.advance(5)
    await admin.accept(2)
    await admin.settle("splunk", delivered=2)
    await admin.queue.readers("sumo")[0].read(2)
    await admin.clock.advance(30)

    series = await admin.series()
    assert series['relay_destination_oldest_event_age_seconds{destination="sumo"}'] == 30
    assert series['relay_destination_oldest_event_age_seconds{destination="splunk"}'] == 0
    assert series['relay_source_last_event_age_seconds{source="eu"}'] == 30
    assert series['relay_source_last_event_age_seconds{source="us"}'] == 35

    admin.clock.jump(-3600)
    assert all(value >= 0 for value in (await admin.series()).values())


async def test_a_destination_is_in_one_state(admin: Admined) -> None:
    """The one that is stored, so that every replica says the same."""
    reader = admin.queue.readers("sumo")[0]

    async def states() -> list[str]:
        series = await admin.series()
        name = 'relay_destination_state{{destination="sumo",state="{}"}}'
        return [state for state in DestinationState if series[name.format(state)]]

    assert await states() == ["active"]
    await reader.retry_later(RetryState(1, NOW))
    assert await states() == ["retrying"]
    await admin.queue.set_hold("sumo", Hold(HoldReason.EXHAUSTED, NOW, ""))
    assert await states() == ["held"]
    await admin.queue.set_hold("sumo", Hold(HoldReason.OPERATOR, NOW, ""))
    assert await states() == ["paused"]


async def test_live_replicas_are_counted(admin: Admined) -> None:
    """One at least, as soon as it has described itself."""
    assert (await admin.series())["relay_replicas"] == 0
    await admin.queue.announce(Replica("a1b2", "0.1", "all", NOW, "c0ffee"))
    assert (await admin.series())["relay_replicas"] == 1


async def test_open_gaps_have_a_deadline(admin: Admined) -> None:
    """Konnect deletes what the oldest gap misses seven days after it began."""
    await admin.queue.open_gap("eu", NOW - 86400, NOW - 80000, "429")

    series = await admin.series()

    assert series['relay_gaps_open{source="eu"}'] == 1
    assert series['relay_gap_loss_deadline_seconds{source="eu"}'] == 6 * 86400
    assert series['relay_gap_loss_deadline_seconds{source="us"}'] == 7 * 86400


@pytest.mark.parametrize(("recovered", "days"), [([], 7), (["eu"], 6)])
async def test_an_update_is_no_deadline_where_nobody_recovers(
    admin: Admined, recovered: list[str], days: int
) -> None:
    """A minute of down time is an open gap, and nothing to page anyone for a week later."""
    admin.metrics.set_recovered(recovered)
    await admin.queue.open_gap("eu", NOW - 86400, NOW - 86340, "downtime", refusals=0)

    series = await admin.series()

    assert series['relay_gaps_open{source="eu"}'] == 1
    assert series['relay_gap_loss_deadline_seconds{source="eu"}'] == days * 86400


@pytest.mark.parametrize(("recovered", "lost"), [([], 0), (["us"], 0), (["eu"], 1)])
async def test_only_what_the_relay_was_to_recover_counts_as_lost(
    admin: Admined, recovered: list[str], lost: int
) -> None:
    """Elsewhere an operator may have replayed it; the state stays lost."""
    admin.metrics.set_recovered(recovered)
    admin.control.access = KonnectAccess("eu", recovers=True, webhooks=dict.fromkeys(recovered))
    await admin.queue.open_gap("eu", NOW - 9 * 86400, NOW - 8 * 86400, "downtime", refusals=0)
    await admin.queue.close_gap(1, at=NOW, lost_until=NOW - 8 * 86400)

    (gap,) = (await admin.get("/api/v1/gaps?include_closed=true"))["data"]
    eu, _ = (await admin.get("/api/v1/status"))["sources"]

    assert gap["state"] == "lost"
    assert (await admin.series())['relay_gaps_lost{source="eu"}'] == eu["lost_gaps"] == lost


async def test_a_removed_destination_stays_in_the_books_until_it_is_forgotten(admin: Admined) -> None:
    """Its backlog keeps space in the queue, so it must not vanish from sight."""
    await admin.accept(3)
    admin.metrics.set_targets(["eu", "us"], ["splunk"])

    assert (await admin.series())['relay_destination_backlog_events{destination="sumo"}'] == 3
    await admin.queue.forget("sumo")
    assert not [name for name in await admin.series() if '"sumo"' in name]


async def test_a_process_that_only_accepts_says_nothing_of_destinations(admin: Admined) -> None:
    """It does not see the other process settle: its backlog would grow for ever."""
    await admin.restart("ingest")
    await admin.accept(2)

    series = await admin.series()

    assert series['relay_ingest_events_total{format="cef",source="eu"}'] == 2
    said = [name for name in series if name.startswith(("relay_destination_", "relay_delivered_events"))]
    assert said == []
