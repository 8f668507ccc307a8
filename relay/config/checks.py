"""What spans several sections: contradictions that are refused, and settings that are allowed but unwise.

Pure functions over a valid `Config`; each returns lines of the form `path: why`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from relay.config.destination import DestinationConfig
from relay.config.queue import WEEK, JetStreamQueueConfig, SqliteQueueConfig
from relay.config.schema import Config
from relay.config.secret import SecretUrl
from relay.config.types import format_size

_WILDCARDS = ("0.0.0.0", "::")
_FOR_PEOPLE = ("slack", "teams", "pagerduty")
_HUGE_CHUNK_EVENTS = 50_000
_HUGE_CHUNK_BYTES = 32 * 1024 * 1024


def problems(config: Config) -> Iterator[str]:
    """Contradictions between sections."""
    server, admin = config.server, config.admin
    same_host = server.host == admin.host or server.host in _WILDCARDS or admin.host in _WILDCARDS
    if server.port == admin.port != 0 and same_host:
        yield f"admin.port: expected another port than server.port, got {admin.port} for both"
    if server.max_in_flight_bytes < server.max_body:
        yield (
            f"server.max_in_flight_bytes: expected at least max_body ({format_size(server.max_body)}), "
            f"got {format_size(server.max_in_flight_bytes)}"
        )
    yield from _shared_files(config)
    known = [source.name for source in config.sources]
    yield from _recovery_sources(config, known)
    for index, destination in enumerate(config.destinations):
        for name in destination.filter.sources or ():
            if name not in known:
                yield (
                    f"destinations[{index}].filter.sources: expected names of sources "
                    f"({', '.join(known)}), got {name!r}"
                )


def _recovery_sources(config: Config, known: Sequence[str]) -> Iterator[str]:
    """Every webhook has a source of its own: nothing but the path tells them apart."""
    if config.recovery is None:
        return
    konnect = config.recovery.konnect
    names = f"the name of a source ({', '.join(known)})"
    if konnect.source is None and len(known) > 1:
        yield f"recovery.konnect.source: expected {names}"
    own = konnect.source or known[0]
    taken: set[str] = set()
    places = [("source", own), *((f"portals[{n}].source", it.source) for n, it in enumerate(konnect.portals))]
    for place, name in places:
        if name not in known:
            yield f"recovery.konnect.{place}: expected {names}, got {name!r}"
        elif name in taken:
            yield f"recovery.konnect.{place}: expected a source of its own, got {name!r} again"
        taken.add(name)


def _shared_files(config: Config) -> Iterator[str]:
    """A file that two parts write would be lost to both, and the queue to everybody."""
    queue = config.queue.path.resolve() if isinstance(config.queue, SqliteQueueConfig) else None
    taken: dict[Path, str] = {}
    for owner, key, path in _written_files(config):
        path = path.resolve()
        if queue and path.parent == queue.parent and path.name.startswith(queue.name):
            yield f"{owner}.{key}: expected another file than the queue's, got {path}"
        elif path in taken:
            yield f"{owner}.{key}: expected a file of its own, got that of {taken[path]}"
        taken[path] = owner


def _written_files(config: Config) -> Iterator[tuple[str, str, Path]]:
    for index, source in enumerate(config.sources):
        if source.signatures.cache is not None:
            yield f"sources[{index}]", "signatures.cache", source.signatures.cache
    for index, destination in enumerate(config.destinations):
        path = getattr(destination, "path", None)
        if isinstance(path, Path):
            yield f"destinations[{index}]", "path", path


def warnings(config: Config) -> Iterator[str]:
    """What works, but should be known to whoever runs it."""
    if isinstance(config.queue, JetStreamQueueConfig):
        for warning in _jetstream_warnings(config.queue):
            yield f"queue.{warning}"
        yield from _cacheless(config)
    yield from _repeated(config)
    for index, destination in enumerate(config.destinations):
        for warning in _destination_warnings(destination):
            yield f"destinations[{index}].{warning}"


def _cacheless(config: Config) -> Iterator[str]:
    for index, source in enumerate(config.sources):
        signatures = source.signatures
        if signatures.mode != "off" and signatures.cache is None and isinstance(signatures.jwks, SecretUrl):
            yield (
                f"sources[{index}].signatures.cache: without a file to keep them in, keys are missing "
                "whenever the relay starts while their URL cannot be reached"
            )


def _repeated(config: Config) -> Iterator[str]:
    """Recovery has whole spans sent once more and counts on it that what had come is recognised."""
    if config.recovery is None or config.recovery.konnect.token is None:
        return
    konnect = config.recovery.konnect
    recovered = {konnect.source or config.sources[0].name, *[portal.source for portal in konnect.portals]}
    for index, source in enumerate(config.sources):
        if source.name in recovered and (source.deduplicate is None or source.deduplicate < WEEK):
            window = "off" if source.deduplicate is None else "less than 7d"
            yield (
                f"sources[{index}].deduplicate: recovery has up to seven days sent once more; "
                f"with {window}, events that had come are delivered again"
            )


def _jetstream_warnings(queue: JetStreamQueueConfig) -> Iterator[str]:
    if queue.exposed:
        yield f"servers: events and credentials may go to {', '.join(queue.exposed)} unencrypted (nats)"
    if queue.tls is not None and not queue.tls.verify:
        yield (
            "tls.verify: the certificates of NATS are not checked; "
            "anyone on the way can read the events and the credentials"
        )
    if queue.replicas == 1:
        yield "replicas: with 1, events exist on one server only; accepted ones are lost with its disk"


def _destination_warnings(destination: DestinationConfig) -> Iterator[str]:
    if not destination.tls.verify:
        yield (
            f"tls.verify: the certificate of {destination.name} is not checked; "
            "anyone on the way can read the events and the credentials"
        )
    for name in type(destination).model_fields:
        value = getattr(destination, name)
        if isinstance(value, SecretUrl) and value.exposed:
            yield f"{name}: events and credentials go to {value.host} unencrypted (http)"
    if getattr(destination, "profile", None) in _FOR_PEOPLE and not destination.filter.alerts:
        yield "profile: every event becomes part of a message to people; usual is `filter: {alerts: true}`"
    batch = destination.batch
    if batch.max_events > _HUGE_CHUNK_EVENTS:
        yield f"batch.max_events: {batch.max_events} events in one request take much memory"
    if batch.max_bytes > _HUGE_CHUNK_BYTES:
        yield f"batch.max_bytes: {format_size(batch.max_bytes)} in one request take much memory"
