"""Every metric the relay exposes, declared once: name, type, labels, meaning.

Owns names and closed label sets (contract in architecture.md section 10) and never a value.
docs/metrics.md is tested against `ALL`, so a metric without documentation cannot be merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from relay.model import Format

Kind = Literal["counter", "gauge", "histogram"]

# Label values. A metric whose labels are open grows without bound and starts somewhere other than zero.
UNKNOWN_SOURCE: Final = "unknown"  # a request to a path that belongs to no source
NO_CODE: Final = "none"  # no HTTP status at all: the connection failed, or the sender left
FORMATS: Final = tuple(map(str, Format))
Outcome = Literal["delivered", "partial", "throttled", "transient", "too_large", "rejected", "misconfigured"]
OUTCOMES: Final[tuple[Outcome, ...]] = (
    "delivered",
    "partial",
    "throttled",
    "transient",
    "too_large",
    "rejected",
    "misconfigured",
)
SIGNATURE_RESULTS: Final = ("verified", "failed", "absent", "no_key", "malformed")
_CODES_APART: Final = (200, 201, 202, 204, 400, 401, 403, 404, 405, 408, 413, 429, 500, 502, 503, 504)
_CODE_CLASSES: Final = ("2xx", "3xx", "4xx", "5xx")
CODES: Final = (*map(str, _CODES_APART), *_CODE_CLASSES, NO_CODE)


def code_label(status: int | None) -> str:
    """The label value of an HTTP status: itself where it is worth a series, else its class.

    A status outside 2xx-5xx counts as 5xx, as RFC 9110 section 15 asks for invalid ones.
    """
    if status is None:
        return NO_CODE
    if status in _CODES_APART:
        return str(status)
    return f"{status // 100}xx" if 200 <= status < 600 else "5xx"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its series."""

    name: str  # as exposed
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds, histograms only


ALL: Final[list[Family]] = []


def _counter(name: str, text: str, *labels: str) -> Family:
    return _declared(Family(f"relay_{name}", "counter", text, labels))


def _gauge(name: str, text: str, *labels: str) -> Family:
    return _declared(Family(f"relay_{name}", "gauge", text, labels))


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Family:
    return _declared(Family(f"relay_{name}", "histogram", text, labels, buckets))


def _declared(family: Family) -> Family:
    ALL.append(family)
    return family


# Seconds. Few buckets: an observation walks them, and every one of them is a series per label value.
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
_NETWORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0, 86400.0)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

# -- ingest
INGEST_REQUESTS = _counter("ingest_requests_total", "Requests answered.", "source", "code")
INGEST_EVENTS = _counter(
    "ingest_events_total", "Events accepted, that is durable, since the queue was made.", "source", "format"
)
INGEST_DUPLICATES = _counter(
    "ingest_duplicate_events_total",
    "Events not stored again because they had been accepted within the window, since the queue was made.",
    "source",
)
INGEST_BYTES = _counter("ingest_bytes_total", "Body bytes received, as sent over the wire.", "source")
INGEST_DURATION = _histogram(
    "ingest_duration_seconds", "From a request's first byte to its answer.", _FAST, "source"
)
INGEST_REQUEST_EVENTS = _histogram(
    "ingest_request_events", "Events in one accepted request, duplicates included.", _EVENTS, "source"
)
SOURCE_AGE = _gauge(
    "source_last_event_age_seconds",
    "Time since the source's last accepted event, or since the relay started if there was none.",
    "source",
)
SOURCE_SILENCE_LIMIT = _gauge(
    "source_silence_limit_seconds", "The source's `silence`; 0 where it has none.", "source"
)
SOURCE_ECHO_MISSING = _gauge(
    "source_echo_missing", "Whether no event has followed our own calls of Konnect's API in time.", "source"
)
SIGNATURES = _counter(
    "signatures_total", "Events by the result of their signature check.", "source", "result"
)

# -- queue
COMMIT_DURATION = _histogram("queue_commit_duration_seconds", "One commit of the queue.", _FAST)
COMMIT_BATCHES = _histogram("queue_commit_batches", "Batches made durable by one commit.", _BATCHES)
QUEUE_BYTES = _gauge("queue_bytes", "Bytes the queue uses on disk.")
QUEUE_MAX_BYTES = _gauge("queue_max_bytes", "Configured limit of relay_queue_bytes.")
QUEUE_DISK_FREE = _gauge("queue_disk_free_bytes", "Free bytes on the queue's file system.")
QUEUE_BATCHES = _gauge("queue_batches", "Batches in the queue, delivered but retained ones included.")
QUEUE_CORRUPT = _counter("queue_corrupt_batches_total", "Batches found not to match their checksum.")

# -- delivery
BACKLOG = _gauge("destination_backlog_events", "Accepted events not yet settled.", "destination")
OLDEST_AGE = _gauge(
    "destination_oldest_event_age_seconds",
    "Age of the oldest event in the backlog; 0 when it is empty.",
    "destination",
)
STATE = _gauge(
    "destination_state",
    "1 for the state the destination is in, 0 for the others; every replica says the same.",
    "destination",
    "state",
)
LEASE = _gauge(
    "lease_held", "1 while this process is the one that delivers to the destination.", "destination"
)
ATTEMPTS = _counter(
    "delivery_attempts_total", "Attempts, by what the destination said.", "destination", "outcome"
)
RESPONSES = _counter("delivery_responses_total", "Attempts, by HTTP status.", "destination", "code")
RETRIES = _counter("delivery_retries_total", "Attempts after the first for the same events.", "destination")
DELIVERY_DURATION = _histogram("delivery_duration_seconds", "One attempt.", _NETWORK, "destination")
DELIVERED = _counter(
    "delivered_events_total", "Events delivered since the destination's start.", "destination"
)
DELIVERED_BYTES = _counter("delivered_bytes_total", "Bytes of delivered lines, uncompressed.", "destination")
FILTERED = _counter(
    "filtered_events_total",
    "Events left out by the destination's own filter since its start.",
    "destination",
)
UNREAD = _counter(
    "unread_events_total",
    "Settled events that had to be read for the destination's `format` or `redact` and could not be.",
    "destination",
)
DEAD_LETTERED = _counter(
    "dead_lettered_events_total",
    "Events that became dead letters since the destination's start; redriven ones stay counted.",
    "destination",
    "reason",
)
DEAD_LETTERS = _gauge(
    "dead_letters", "Events in dead letters, neither redriven nor discarded.", "destination"
)
DELIVERY_LATENCY = _histogram(
    "delivery_latency_seconds",
    "From accepted to delivered, for the oldest event of each delivered range.",
    _LATENCY,
    "destination",
)
OWED = _counter(
    "destination_owed_events_total", "Events accepted since the destination's start.", "destination"
)
DISCARDED = _counter(
    "discarded_events_total", "Events in dead letters that someone discarded.", "destination"
)
REPLAYED = _counter(
    "replayed_events_total", "Events sent again by a replay, on top of the delivered.", "destination"
)

# -- recovery
GAPS_OPEN = _gauge("gaps_open", "Spans in which Konnect may have given up on us.", "source")
GAP_DEADLINE = _gauge(
    "gap_loss_deadline_seconds",
    "Time until Konnect deletes what the oldest open gap misses; 7 days while there is none.",
    "source",
)
GAPS_LOST = _gauge(
    "gaps_lost",
    "Remembered gaps that the relay was to close and of which Konnect had deleted events first.",
    "source",
)
RECOVERED = _counter(
    "recovered_events_total",
    "Events pulled, and new ones accepted while a replay job of ours ran, live ones included.",
    "source",
)

REPLICAS = _gauge("replicas", "Processes of the relay that are alive on this queue.")
BUILD_INFO = _gauge("build_info", "Always 1; the labels tell what runs.", "version", "python")
