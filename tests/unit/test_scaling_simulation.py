"""The simulation behind docs/scaling.md: right where theory knows the answer, and what it is quoted for."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest

from tests.benchmarks.scaling.__main__ import row, scenarios
from tests.benchmarks.scaling.engine import Engine, Station
from tests.benchmarks.scaling.model import Cluster, Costs, Result, Setting, bounds, limit, waiting_time

LAZY = Costs(sync=0.0)
QUICK = 0.2  # simulated seconds that count
SETTINGS = {
    f"{title}: {label}": setting
    for title, settings in scenarios(Costs()).items()
    for label, setting in settings
}


def play(setting: Setting, seconds: float = QUICK) -> Result:
    return Cluster(setting).run(seconds, warm_up=0.2)


# -- against theory


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_one_server_waits_as_long_as_theory_says(load: float) -> None:
    """Arrivals at random before one core: the mean of Pollaczek and Khinchine, within five per cent."""
    setting = Setting(destinations=0, costs=Costs(store_message=0.0, store_event=0.0, sync=0.0))
    setting = replace(setting, rate=load / setting.intake)

    answers = Cluster(setting).run(60.0, warm_up=5.0).answer

    fixed = setting.intake + 2 * setting.round_trip
    assert mean(answers) - fixed == pytest.approx(
        waiting_time(load / setting.intake, setting.intake), rel=0.05
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_beats_the_limit_and_saturation_reaches_it(name: str) -> None:
    """The part that limits on paper is the one that limits in play, within a twentieth."""
    setting = SETTINGS[name]
    most = limit(setting)[1]

    result = play(setting)

    # What was under way when counting began may be counted: a queue's length, hence the absolute part.
    reached = min(result.accepted, result.delivered)
    per_request = max(1, setting.siem_events // setting.events)
    assert reached <= 1.01 * most + 2 * per_request / QUICK
    assert reached >= 0.95 * most - 2 * per_request / QUICK


def test_a_station_serves_in_order_and_one_at_a_time() -> None:
    """Whoever comes while it is busy waits for those before."""
    engine = Engine()
    station = Station(engine)
    done: list[tuple[str, float]] = []
    station.use(2.0, lambda: done.append(("a", engine.now)))
    station.use(1.0, lambda: done.append(("b", engine.now)))
    engine.run(10.0)
    station.use(1.0, lambda: done.append(("c", engine.now)))
    engine.run(20.0)

    assert done == [("a", 2.0), ("b", 3.0), ("c", 11.0)]
    assert station.busy == 4.0


def test_the_same_seed_plays_the_same_game() -> None:
    """A figure in the documentation can be had again."""
    setting = Setting(replicas=4, destinations=3, rate=2_000.0)

    assert play(setting) == play(setting)


# -- what docs/scaling.md says


def accepted(setting: Setting) -> float:
    result = play(setting)
    return min(result.accepted, result.delivered) * setting.events


def test_replicas_help_until_following_and_the_leader_limit() -> None:
    """From one to four they more than double the rate; from eight to sixteen they add less than a fifth."""
    rates = {n: accepted(Setting(replicas=n, destinations=3)) for n in (1, 4, 8, 16)}

    assert rates[4] > 2 * rates[1]
    assert rates[8] < rates[16] < 1.2 * rates[8]


def test_more_replicas_than_destinations_do_not_help_a_destination() -> None:
    """One lease is one replica: its core is the limit of a destination, however many stand beside it."""
    heavy = Costs(deliver_event=4e-6)
    few, many = (Setting(replicas=n, destinations=1, costs=heavy, even=False) for n in (4, 16))

    assert limit(few)[0] == limit(many)[0] == "replica"
    assert accepted(many) == pytest.approx(accepted(few), rel=0.05)


def test_destinations_cost_nothing_more_while_there_are_replicas_for_them() -> None:
    """Three on four replicas are as fast as one; ten are not."""
    one, three, ten = (accepted(Setting(replicas=4, destinations=n)) for n in (1, 3, 10))

    assert three == pytest.approx(one, rel=0.02)
    assert ten < 0.6 * three


def test_small_requests_are_limited_by_the_disk_and_not_by_replicas() -> None:
    """A sync per request: with one event in each, sixteen replicas accept what four do."""
    few, many = (Setting(replicas=n, events=1, destinations=3) for n in (4, 16))

    assert limit(many)[0] in ("leader", "disk")
    assert accepted(many) == pytest.approx(accepted(few), rel=0.02)


def test_distance_costs_answer_time_and_no_throughput() -> None:
    """As long as enough requests are in the air: the rate is theirs by the time of a round."""
    near, far, starved = (
        Setting(replicas=4, destinations=3, round_trip=seconds, connections=connections)
        for seconds, connections in ((0.2e-3, 256), (10e-3, 256), (10e-3, 16))
    )

    assert accepted(far) == pytest.approx(accepted(near), rel=0.02)
    assert limit(starved)[0] == "connections"
    assert accepted(starved) < 0.2 * accepted(near)


def test_groups_multiply_as_far_as_their_disks_do() -> None:
    """Four on the same servers end at the disk; four on servers of their own are four times one."""
    one = Setting(replicas=4, destinations=3)
    shared = replace(one, replicas=16, streams=4, connections=1024)
    apart = replace(shared, disks=4)

    assert limit(shared)[0] == "disk"
    assert accepted(apart) == pytest.approx(4 * accepted(one), rel=0.02)
    assert accepted(shared) < 2 * accepted(one)


def test_the_least_busy_replica_is_the_better_choice() -> None:
    """Those that hold leases have less room for requests; whoever sees that gains a tenth at least."""
    even = Setting(replicas=4, destinations=3)

    assert accepted(replace(even, even=False)) > 1.1 * accepted(even)


def test_the_default_sync_interval_buys_less_than_it_risks() -> None:
    """With requests of a hundred events and a disk like this one, four replicas are the limit either way."""
    safe = Setting(replicas=4, destinations=3)

    assert accepted(replace(safe, costs=LAZY)) == pytest.approx(accepted(safe), rel=0.02)


def test_a_take_over_is_made_up_in_the_time_the_queue_says() -> None:
    """Seven seconds without a holder at half load: the lag peaks at them and is gone after λT/(μ-λ)."""
    stalled = 7.0
    setting = Setting(replicas=1, destinations=1, siem_seconds=50e-3, siem_events=1_000)
    most = bounds(setting)["siem"]
    cluster = Cluster(replace(setting, rate=most / 2))
    cluster.groups[0].destinations[0].stall(stalled)

    during = cluster.run(2 * stalled)
    assert during.lag[-1] == pytest.approx(stalled, rel=0.05)

    made_up = stalled * (most / 2) / (most - most / 2)  # after the take-over
    later = Cluster(replace(setting, rate=most / 2))
    later.groups[0].destinations[0].stall(stalled)
    after = later.run(1.0, warm_up=stalled + 1.2 * made_up)
    assert after.lag[-1] < 0.5


def test_a_table_row_tells_limit_rate_and_lag() -> None:
    """What `python -m tests.benchmarks.scaling` prints fits under its heading."""
    cells = row("four", Setting(replicas=4, destinations=3)).strip("| ").split(" | ")

    assert cells[:2] == ["four", "replica"]
    assert float(cells[3].replace(",", "")) <= 1.01 * float(cells[2].replace(",", ""))
    assert len(cells) == 6
