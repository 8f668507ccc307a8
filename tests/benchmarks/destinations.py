"""What one core sends to each type of destination: `python -m tests.benchmarks.destinations`.

Chunks of a thousand events of the samples' shape, one after another, to receivers in a process of their own
(tests/fakes/receivers.py, moto). Counted is the CPU time of this process, so what the receivers cost, and
what else runs on the machine, does not matter much: conversion, wrapping, compression and the HTTP client.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvloop

from relay import gzipped
from relay.batch import Chunk, RewrittenBatch, Slice, StoredBatch
from relay.clock import SystemClock
from relay.delivery.views import rewriting
from relay.destinations.base import Delivered, Destination, Partial
from relay.destinations.registry import CONFIG_TYPES, build
from tests.benchmarks.report import Figure, environment, plain, table
from tests.fakes.chunks import RECEIVED_AT, sample
from tests.fakes.receiving import vendors

EVENTS = 1_000
FORMATS = ("source", "cef", "json", "cps", "ecs", "ocsf")


def _batch(first: int) -> StoredBatch:
    """A thousand events, none like another."""
    kinds = sample("cef")
    lines = []
    for n in range(first, first + EVENTS):
        head, rt, rest = kinds[n % len(kinds)].partition(b"rt=")
        lines.append(head + rt + b"%d" % (1_750_280_466_889 + n) + rest[13:])
    payload = gzipped.compress(b"\n".join([*lines, b""]))
    return StoredBatch(
        sequence=first + 1, source="us", received_at=RECEIVED_AT, count=EVENTS, payload=payload
    )


def _cases(settings: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every type with the lines as received, and one with each format."""
    for each in settings:
        yield f"{each['type']}, source", {**each, "format": "source", "redact": None}
    http = next(each for each in settings if each["type"] == "http")
    for form in FORMATS[1:]:
        yield f"http, {form}", {**http, "format": form, "redact": None}
    yield "http, source, redacted", {**http, "format": "source", "redact": ["user_agent", "src"]}


async def _send(destination: Destination, batch: StoredBatch) -> None:
    """All of it, in as many requests as it takes."""
    chunk = Chunk((Slice.whole(batch),))
    while True:
        outcome = await destination.send(chunk)
        if isinstance(outcome, Delivered):
            return
        if not isinstance(outcome, Partial):
            raise SystemExit(f"{destination}: {outcome}")
        chunk = chunk.cut(len(outcome.delivered))[1]


async def _rate(settings: Mapping[str, Any], rounds: int) -> float:
    """Events for each second of CPU time."""
    config = CONFIG_TYPES[settings["type"]].model_validate(settings)
    wanted = rewriting(config)
    destination = build(config, clock=SystemClock())
    await destination.open()
    try:
        await _send(destination, _batch(0))  # connections, tokens, caches
        batches = [_batch((n + 1) * EVENTS) for n in range(rounds)]
        start = time.process_time()
        for batch in batches:
            await _send(destination, RewrittenBatch(batch, wanted) if wanted else batch)
        return rounds * EVENTS / (time.process_time() - start)
    finally:
        await destination.close()


async def measure(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with vendors(Path(folder)) as receiving:
            return [
                plain(title, await _rate(settings, rounds), unit=" events/s")
                for title, settings in _cases(receiving.destinations())
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="chunks for each figure")
    given = parser.parse_args()
    print(environment())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(table(runner.run(measure(given.rounds))))


if __name__ == "__main__":
    main()
