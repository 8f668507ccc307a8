"""Counts what happens and exposes it in Prometheus' text format.

Owns the process's counters and the exposition; the only module that knows prometheus_client.
What must survive a restart is not counted here but read from the queue's books (`ledger`).
Never asks the clock on its own and never blocks: callers pass the durations they measured.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from relay import __version__
from relay.clock import Clock
from relay.errors import QueueError
from relay.model import Format, Gap, Settlement
from relay.observe import catalog
from relay.observe.catalog import Family, Outcome, code_label
from relay.observe.ledger import Ledger, Sample, samples

# A `_created` series beside each counter would double the exposition and say nothing anyone asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it without annotations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _SourceSeries:
    """The series of one source, looked up once: a label lookup costs more than the count itself."""

    codes: Mapping[str, Counter]
    received_bytes: Counter
    duration: Histogram
    request_events: Histogram


@dataclass(frozen=True, slots=True)
class _DestinationSeries:
    """The series of one destination."""

    outcomes: Mapping[Outcome, Counter]
    codes: Mapping[str, Counter]
    retries: Counter
    duration: Histogram
    delivered_bytes: Counter
    unread: Counter
    latency: Histogram
    lease: Gauge


class Metrics:
    """Every metric of the relay, each series there from the start.

    Used from the event loop only. *sources* and *destinations* are the configured names; a request
    to none of them counts under the source `unknown`.
    """

    def __init__(self, sources: Sequence[str], destinations: Sequence[str]) -> None:
        self._registry = CollectorRegistry()
        self._books: _Books | None = None
        self._sources: dict[str, _SourceSeries] = {}
        self._destinations: dict[str, _DestinationSeries] = {}

        self._requests = self._counter(catalog.INGEST_REQUESTS)
        self._received_bytes = self._counter(catalog.INGEST_BYTES)
        self._ingest_duration = self._histogram(catalog.INGEST_DURATION)
        self._request_events = self._histogram(catalog.INGEST_REQUEST_EVENTS)
        self._signatures = self._counter(catalog.SIGNATURES)
        self._recovered = self._counter(catalog.RECOVERED)
        self._silence_limit = self._gauge(catalog.SOURCE_SILENCE_LIMIT)
        self._echo_missing = self._gauge(catalog.SOURCE_ECHO_MISSING)
        self._commit_duration = self._histogram(catalog.COMMIT_DURATION)
        self._commit_batches = self._histogram(catalog.COMMIT_BATCHES)
        self._corrupt = self._counter(catalog.QUEUE_CORRUPT)
        self._attempts = self._counter(catalog.ATTEMPTS)
        self._responses = self._counter(catalog.RESPONSES)
        self._retries = self._counter(catalog.RETRIES)
        self._delivery_duration = self._histogram(catalog.DELIVERY_DURATION)
        self._delivered_bytes = self._counter(catalog.DELIVERED_BYTES)
        self._unread = self._counter(catalog.UNREAD)
        self._latency = self._histogram(catalog.DELIVERY_LATENCY)
        self._lease = self._gauge(catalog.LEASE)
        self._per_source: tuple[MetricWrapperBase, ...] = (
            self._requests,
            self._received_bytes,
            self._ingest_duration,
            self._request_events,
            self._signatures,
            self._recovered,
            self._silence_limit,
            self._echo_missing,
        )
        self._per_destination: tuple[MetricWrapperBase, ...] = (
            self._attempts,
            self._responses,
            self._retries,
            self._delivery_duration,
            self._delivered_bytes,
            self._unread,
            self._latency,
            self._lease,
        )
        self._gauge(catalog.BUILD_INFO).labels(__version__, platform.python_version()).set(1)

        self._recovered_sources: Collection[str] = ()
        self.set_targets(sources, destinations)

    def bind(self, ledger: Ledger, *, clock: Clock) -> None:
        """Read the durable figures from *ledger* at every scrape from now on."""
        self._books = _Books(ledger, clock)
        self._registry.register(self._books)

    def set_recovered(self, sources: Collection[str]) -> None:
        """The sources whose gaps the relay is to close; none until this is called."""
        self._recovered_sources = sources

    def set_targets(self, sources: Sequence[str], destinations: Sequence[str]) -> None:
        """Follow a changed configuration: new names start at zero, series of removed ones go."""
        wanted = (*sources, catalog.UNKNOWN_SOURCE)
        for gone in self._sources.keys() - set(wanted):
            del self._sources[gone]
            for metric in self._per_source:
                metric.remove_by_labels({"source": gone})
        for name in wanted:
            if name not in self._sources:
                self._sources[name] = self._new_source(name)
        for gone in self._destinations.keys() - set(destinations):
            del self._destinations[gone]
            for metric in self._per_destination:
                metric.remove_by_labels({"destination": gone})
        for name in destinations:
            if name not in self._destinations:
                self._destinations[name] = self._new_destination(name)

    # -- ingest

    def request(self, source: str, code: int | None, seconds: float, received_bytes: int) -> None:
        """A request was answered with *code*; None when the sender left before its answer."""
        series = self._sources.get(source) or self._sources[catalog.UNKNOWN_SOURCE]
        series.codes[code_label(code)].inc()
        series.received_bytes.inc(received_bytes)
        series.duration.observe(seconds)

    def accepted(self, source: str, formats: Iterable[tuple[Format, int]]) -> None:
        """A request's events are durable.

        Only the request's size is observed here, duplicates included; the events are in the queue's books.
        """
        series = self._sources.get(source)
        if series is not None:
            series.request_events.observe(sum([count for _, count in formats]))

    def signatures(self, source: str, results: Iterable[tuple[str, int]]) -> None:
        """So many events of *source* were checked with each result."""
        if source in self._sources:
            for result, count in results:
                self._signatures.labels(source, result).inc(count)

    # -- recovery

    def recovered(self, source: str, events: int) -> None:
        """Recovery brought new events."""
        if source in self._sources:
            self._recovered.labels(source).inc(events)

    def silence(self, source: str, limit: float | None, *, echo_missing: bool) -> None:
        """How long the source may be silent, in seconds, and whether our own calls were not heard of."""
        if source in self._sources:
            self._silence_limit.labels(source).set(limit or 0.0)
            self._echo_missing.labels(source).set(echo_missing)

    # -- queue

    def commit(self, batches: int, seconds: float) -> None:
        """One commit made *batches* durable."""
        self._commit_duration.observe(seconds)
        self._commit_batches.observe(batches)

    def corrupt(self, batches: int = 1) -> None:
        """Batches were found not to match their checksum."""
        self._corrupt.inc(batches)

    # -- delivery

    def attempt(
        self, destination: str, outcome: Outcome, status: int | None, seconds: float, is_retry: bool
    ) -> None:
        """An attempt ended. Attempts cancelled by a shutdown are not counted."""
        series = self._destinations.get(destination)
        if series is None:  # taken out of the configuration while its last request was in flight
            return
        series.outcomes[outcome].inc()
        series.codes[code_label(status)].inc()
        series.duration.observe(seconds)
        if is_retry:
            series.retries.inc()

    def settled(self, destination: str, settlement: Settlement, latency: float | None) -> None:
        """A range was settled; *latency* in seconds for its oldest delivered event, if it has any."""
        series = self._destinations.get(destination)
        if series is None:
            return
        series.delivered_bytes.inc(settlement.delivered_bytes)
        if settlement.unread:
            series.unread.inc(settlement.unread)
        if latency is not None:
            series.latency.observe(max(0.0, latency))

    def lease(self, destination: str, *, held: bool) -> None:
        """Whether this process is the one that delivers."""
        series = self._destinations.get(destination)
        if series is not None:
            series.lease.set(held)

    # -- exposition

    async def exposition(self) -> bytes:
        """Everything in Prometheus' text format 0.0.4."""
        if self._books is not None:
            sources = [name for name in self._sources if name != catalog.UNKNOWN_SOURCE]
            await self._books.read(sources, list(self._destinations), self._recovered_sources)
        return generate_latest(self._registry)

    # -- making and dropping series

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.help, family.labels, registry=self._registry)

    def _gauge(self, family: Family) -> Gauge:
        return Gauge(family.name, family.help, family.labels, registry=self._registry)

    def _histogram(self, family: Family) -> Histogram:
        return Histogram(
            family.name, family.help, family.labels, buckets=family.buckets, registry=self._registry
        )

    def _new_source(self, name: str) -> _SourceSeries:
        if name != catalog.UNKNOWN_SOURCE:
            for metric in (self._recovered, self._silence_limit, self._echo_missing):
                metric.labels(name)
            for result in catalog.SIGNATURE_RESULTS:
                self._signatures.labels(name, result)
        return _SourceSeries(
            {code: self._requests.labels(name, code) for code in catalog.CODES},
            self._received_bytes.labels(name),
            self._ingest_duration.labels(name),
            self._request_events.labels(name),
        )

    def _new_destination(self, name: str) -> _DestinationSeries:
        return _DestinationSeries(
            {outcome: self._attempts.labels(name, outcome) for outcome in catalog.OUTCOMES},
            {code: self._responses.labels(name, code) for code in catalog.CODES},
            self._retries.labels(name),
            self._delivery_duration.labels(name),
            self._delivered_bytes.labels(name),
            self._unread.labels(name),
            self._latency.labels(name),
            self._lease.labels(name),
        )


class _Books(Collector):
    """What the queue said when it was last asked, in the form prometheus_client collects."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._started_at = clock.now()
        self._gaps: Sequence[Gap] = ()
        self._samples: tuple[Sample, ...] = ()

    async def read(
        self, sources: Sequence[str], destinations: Sequence[str], recovered: Collection[str]
    ) -> None:
        """Ask the queue again."""
        # Metrics matter most while the queue is sick: gaps that cannot be read keep their last value.
        with suppress(QueueError):
            self._gaps = await self._ledger.gaps(include_closed=True)
            # Counters that were seen must not be lower after a crash: Prometheus would take that for
            # a reset and count everything once more.
            await self._ledger.flush()
        self._samples = tuple(
            samples(
                self._ledger,
                self._gaps,
                sources=sources,
                destinations=destinations,
                recovered=recovered,
                now=self._clock.now(),
                started_at=self._started_at,
            )
        )

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for family, labels, value in self._samples:
            metric = families.get(family.name)
            if metric is None:
                kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                metric = families[family.name] = kind(family.name, family.help, labels=family.labels)
            metric.add_metric(labels, value)
        yield from families.values()
