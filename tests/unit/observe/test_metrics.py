"""The process's own counters and the exposition."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.model import Format, Position, Settlement
from relay.observe import catalog
from relay.observe.metrics import Metrics

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "metrics.md"


async def exposed(metrics: Metrics) -> dict[str, float]:
    """Every series by name and label values, as a scraper reads them."""
    text = (await metrics.exposition()).decode()
    return {
        ",".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["eu", "us"], ["splunk", "sumo"])


@pytest.mark.parametrize(
    ("status", "label"),
    [
        (None, "none"),
        (0, "5xx"),
        (100, "5xx"),
        (200, "200"),
        (206, "2xx"),
        (302, "3xx"),
        (418, "4xx"),
        (429, "429"),
        (500, "500"),
        (599, "5xx"),
        (600, "5xx"),
    ],
)
def test_any_status_has_a_label_of_the_closed_set(status: int | None, label: str) -> None:
    """A SIEM that answers 299 or 999 makes no new series."""
    assert label == catalog.code_label(status)
    assert label in catalog.CODES


async def test_every_series_is_there_before_anything_happened(metrics: Metrics) -> None:
    """A rate over a counter that appears with its first event would miss that event."""
    series = await exposed(metrics)

    assert series["relay_ingest_requests_total,429,us"] == 0
    assert series["relay_ingest_requests_total,401,unknown"] == 0
    assert series["relay_signatures_total,failed,eu"] == 0
    assert series["relay_recovered_events_total,eu"] == 0
    assert series["relay_delivery_attempts_total,sumo,misconfigured"] == 0
    assert series["relay_delivery_latency_seconds_count,sumo"] == 0
    assert series["relay_queue_corrupt_batches_total"] == 0
    assert all(value == 0 for name, value in series.items() if "build_info" not in name)


async def test_nothing_that_happens_adds_a_series(metrics: Metrics) -> None:
    """The labels come from closed sets, whatever senders and SIEMs come up with."""
    before = await exposed(metrics)

    metrics.request("no-such-source", 404, 0.1, 10)
    metrics.request("eu", 418, 0.1, 10)
    metrics.accepted("gone", ((Format.CEF, 1),))
    metrics.attempt("gone", "delivered", 200, 0.1, is_retry=False)
    metrics.attempt("splunk", "transient", 999, 0.1, is_retry=True)
    metrics.lease("gone", held=True)
    metrics.settled("gone", Settlement(Position(1), Position(2)), None)

    assert before.keys() == (await exposed(metrics)).keys()


async def test_requests_count_by_source_and_code(metrics: Metrics) -> None:
    """A request to no source is counted as well, under a name of its own."""
    metrics.request("eu", 200, 0.002, 8500)
    metrics.request("eu", None, 1.0, 12)
    metrics.request("../etc/passwd", 404, 0.001, 3)
    metrics.accepted("eu", ((Format.CEF, 3), (Format.JSON, 2)))

    series = await exposed(metrics)

    assert series["relay_ingest_requests_total,200,eu"] == 1
    assert series["relay_ingest_requests_total,none,eu"] == 1
    assert series["relay_ingest_requests_total,404,unknown"] == 1
    assert series["relay_ingest_bytes_total,eu"] == 8512
    assert series["relay_ingest_request_events_sum,eu"] == 5
    assert series["relay_ingest_duration_seconds_count,eu"] == 2


async def test_attempts_count_by_outcome_and_status(metrics: Metrics) -> None:
    """A retry is an attempt too; no answer has the code `none`."""
    metrics.attempt("sumo", "transient", None, 30.0, is_retry=False)
    metrics.attempt("sumo", "delivered", 200, 0.2, is_retry=True)

    series = await exposed(metrics)

    assert series["relay_delivery_attempts_total,sumo,transient"] == 1
    assert series["relay_delivery_responses_total,none,sumo"] == 1
    assert series["relay_delivery_responses_total,200,sumo"] == 1
    assert series["relay_delivery_retries_total,sumo"] == 1
    assert series["relay_delivery_duration_seconds_count,sumo"] == 2
    assert series["relay_delivery_retries_total,splunk"] == 0


async def test_a_latency_is_never_negative(metrics: Metrics) -> None:
    """The wall clock may be set back between accepting and delivering."""
    settlement = Settlement(Position(1), Position(2), delivered=1, delivered_bytes=430)
    metrics.settled("sumo", settlement, -3600.0)
    metrics.settled("sumo", settlement, None)

    series = await exposed(metrics)

    assert series["relay_delivery_latency_seconds_sum,sumo"] == 0
    assert series["relay_delivery_latency_seconds_count,sumo"] == 1
    assert series["relay_delivered_bytes_total,sumo"] == 860


async def test_a_lease_is_held_or_not(metrics: Metrics) -> None:
    """So that one can see which process works for whom."""
    metrics.lease("sumo", held=True)
    metrics.lease("splunk", held=True)
    metrics.lease("splunk", held=False)

    series = await exposed(metrics)

    assert (series["relay_lease_held,sumo"], series["relay_lease_held,splunk"]) == (1, 0)


async def test_a_commit_counts_its_batches(metrics: Metrics) -> None:
    """Group commit shows as batches per commit."""
    metrics.commit(7, 0.004)
    metrics.corrupt(2)

    series = await exposed(metrics)

    assert series["relay_queue_commit_batches_sum"] == 7
    assert series["relay_queue_commit_duration_seconds_count"] == 1
    assert series["relay_queue_corrupt_batches_total"] == 2


async def test_a_changed_configuration_changes_the_series(metrics: Metrics) -> None:
    """Names that stay keep their counts, new ones start at zero, removed ones go."""
    metrics.request("eu", 200, 0.1, 1)
    metrics.attempt("sumo", "delivered", 200, 0.1, is_retry=False)

    metrics.set_targets(["eu", "au"], ["sumo", "s3"])
    series = await exposed(metrics)

    assert series["relay_ingest_requests_total,200,eu"] == 1
    assert series["relay_ingest_requests_total,200,au"] == 0
    assert series["relay_delivery_attempts_total,sumo,delivered"] == 1
    assert series["relay_delivery_attempts_total,s3,delivered"] == 0
    assert not [name for name in series if {"us", "splunk"} & set(name.split(","))]


def test_every_metric_is_documented() -> None:
    """docs/metrics.md names each metric, with its type and labels, and none that does not exist."""
    rows = [
        tuple(cell.strip() for cell in line.split("|")[1:4])
        for line in DOCUMENTATION.read_text().splitlines()
        if line.startswith("| `relay_")
    ]
    declared = [(f"`{family.name}`", family.kind, ", ".join(family.labels) or "–") for family in catalog.ALL]

    assert sorted(declared) == sorted(rows)
