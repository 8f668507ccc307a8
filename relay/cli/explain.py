"""`check --explain`: what each destination would make of some lines, without sending anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.batch import RewrittenBatch, StoredBatch
from relay.clock import SystemClock
from relay.config.destination import DestinationConfig
from relay.delivery.filter import Sieve
from relay.delivery.views import rewriting
from relay.destinations.base import Destination, Unfit
from relay.destinations.registry import build
from relay.errors import ConfigError
from relay.ingest.body import TooLarge, Undecodable, unpack
from relay.model import Event

_MOST_BYTES = 64 * 1024 * 1024
_UNREADABLE = "it cannot be read, so nobody can tell whether it holds what must not leave"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one line at one destination."""

    destination: str
    outcome: str  # `sent`, `filtered`, or `dead_lettered` where it cannot be put into the form asked for
    text: str = ""  # what `Destination.part` says: what goes out for this event, or why nothing does


@dataclass(frozen=True, slots=True)
class Explained:
    """One line and its fates."""

    line: str
    fates: tuple[Fate, ...]


def explain(path: Path, source: str, destinations: Sequence[DestinationConfig]) -> list[Explained]:
    """Every line of the file *path*, as if *source* had sent it. Raises `ConfigError`."""
    lines = [line for batch in _batches(path, source) for line in batch.lines]
    fates = [list(_fates(config, _batches(path, source))) for config in destinations]
    return [
        Explained(line.decode(errors="replace"), tuple(each))
        for line, *each in zip(lines, *fates, strict=True)
    ]


def _batches(path: Path, source: str) -> list[StoredBatch]:
    try:
        raw = path.read_bytes()
        unpacked = unpack(raw, source=source, received_at=SystemClock().now(), max_decoded=_MOST_BYTES)
    except OSError as error:
        raise ConfigError([f"cannot read {path}: {error.strerror}"]) from error
    except (TooLarge, Undecodable) as error:
        raise ConfigError([f"cannot read {path}: {error}"]) from error
    batches = []
    sequence = 1
    for each in unpacked.batches:
        batches.append(
            StoredBatch(
                sequence=sequence,
                source=source,
                received_at=each.received_at,
                count=each.count,
                payload=each.payload,
            )
        )
        sequence += each.count
    return batches


def _fates(config: DestinationConfig, batches: Sequence[StoredBatch]) -> Iterator[Fate]:
    sift, wanted = Sieve(config.filter), rewriting(config)
    destination = build(config, clock=SystemClock())  # not opened: nothing is contacted
    for batch in batches:
        kept = frozenset(sift(batch, 0).kept)
        view = RewrittenBatch(batch, wanted) if wanted else batch
        for index in range(batch.count):
            if index not in kept:
                yield Fate(config.name, "filtered")
            elif view.unfit((index,)):
                yield Fate(config.name, "dead_lettered", _UNREADABLE)
            else:
                yield _sent(config.name, destination, view.event(index))


def _sent(name: str, destination: Destination, event: Event) -> Fate:
    text = destination.part(event)
    if isinstance(text, Unfit):
        return Fate(name, "dead_lettered", text.detail)
    return Fate(name, "sent", text.decode(errors="replace"))
