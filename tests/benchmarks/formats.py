"""What parsing and writing an event costs: `python -m tests.benchmarks.formats`.

Konnect's sample lines, one after another on one core: the CPU time of the quickest round, in nanoseconds for
each event, since whatever else runs on the machine can only add to it.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from typing import get_args

from relay.formats.write import Writing, write
from relay.konnect.parse import parse
from relay.konnect.record import Record
from tests.benchmarks.report import Figure, at_most, environment, plain, table
from tests.fakes.chunks import sample

_CEF_TARGET = 10_000  # ns
_EVENT_ID = "0" * 32
_RECEIVED_AT = 1_750_280_500.25
_FORGED = b" user_agent=x act=GET status=200 org_id=evil trace_id=66 query={}"


def cost(work: Callable[[], object], events: int, rounds: int) -> float:
    """Nanoseconds for each event."""
    work()
    gc.disable()  # as timeit does: when it runs is chance
    try:
        return min(_took(work) for _ in range(rounds)) / events
    finally:
        gc.enable()


def _took(work: Callable[[], object]) -> int:
    start = time.thread_time_ns()
    work()
    return time.thread_time_ns() - start


def parsing(rounds: int, events: int) -> list[Figure]:
    figures = []
    for name in ("cef", "json", "cps"):
        lines = _filled(sample(name), events)
        value = cost(lambda lines=lines: _read(lines), events, rounds)  # type: ignore[misc]
        title = f"parse {name}"
        figures.append(
            at_most(title, value, _CEF_TARGET, unit=" ns")
            if name == "cef"
            else plain(title, value, unit=" ns")
        )
    forged = _filled([line.replace(b" user_agent=", _FORGED, 1) for line in sample("cef")], events)
    value = cost(lambda: _read(forged), events, rounds)
    return [
        *figures,
        plain("parse cef, forged", value, "every line with fields in its user agent", unit=" ns"),
    ]


def writing(rounds: int, events: int) -> list[Figure]:
    lines = _filled(sample("cef"), events)
    pairs = [(record, line) for line in lines if (record := parse(line)) is not None]
    return [
        plain(f"write {kind}", cost(lambda kind=kind: _write(pairs, kind), events, rounds), unit=" ns")  # type: ignore[misc]
        for kind in get_args(Writing)
    ]


# Nothing is kept: a thousand results at once would measure the allocator.
def _read(lines: list[bytes]) -> None:
    for line in lines:
        parse(line)


def _write(pairs: list[tuple[Record, bytes]], kind: Writing) -> None:
    for record, line in pairs:
        write(record, kind, event_id=_EVENT_ID, received=line, source="us", received_at=_RECEIVED_AT)


def _filled(lines: list[bytes], events: int) -> list[bytes]:
    return [lines[n % len(lines)] for n in range(events)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1000, help="in each round")
    parser.add_argument("--rounds", type=int, default=50)
    given = parser.parse_args()
    print(environment())
    print(table([*parsing(given.rounds, given.events), *writing(given.rounds, given.events)]))


if __name__ == "__main__":
    main()
