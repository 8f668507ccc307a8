"""A destination's filter, made into one function over stored batches.

Owns the rule for doubt: an event is filtered only where the line proves that the filter excludes it. A
line that cannot be read, a name Konnect has not documented, a missing field: all of these are
delivered, because the user cannot miss what never shows up. `sources` is exact: it needs no line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from fnmatch import translate

from relay.batch import StoredBatch
from relay.config.destination import Filter
from relay.delivery.chunking import Stretch
from relay.konnect.alerts import LEAST_SEVERITY, LOGIN_SUCCEEDED, Bursts, alert, is_failed_login
from relay.konnect.parse import parse
from relay.konnect.peek import EventType, Glance, event_type, glance
from relay.konnect.times import happened_at
from relay.queue.fates import Wanted

Sieve = Callable[[StoredBatch, int], Stretch]
"""Takes a batch and the first event that matters; says which events from there on are wanted."""

_Test = Callable[[Glance], bool]  # True where the line proves that the event is not wanted


def sieve(filter: Filter) -> Sieve:  # noqa: A002 - the word of the configuration
    """Compile *filter*. All conditions it names must be met; without any, events are not looked at."""
    sources = None if filter.sources is None else frozenset(filter.sources)
    tests = _tests(filter)
    if sources is None and not tests and not filter.alerts:
        return Stretch.of

    lane = _AlertsLane() if filter.alerts else None

    def sift(batch: StoredBatch, start: int) -> Stretch:
        if sources is not None and batch.source not in sources:
            return Stretch(batch, start, batch.count, ())
        if not tests and lane is None:
            return Stretch.of(batch, start)
        lines = batch.lines
        kept = tuple([i for i in range(start, batch.count) if not _excluded(lines[i], tests)])
        if lane is not None:
            kept = tuple([i for i in kept if lane.wants(batch, i)])
        if len(kept) == batch.count - start:
            return Stretch.of(batch, start)
        return Stretch(batch, start, batch.count, kept)

    return sift


def wanted(filter: Filter) -> Wanted:  # noqa: A002 - as above
    """*filter* for who asks about whole batches afterwards. Batches have to come in the log's order."""
    sift = sieve(filter)

    def kept(batch: StoredBatch) -> Collection[int]:
        found = sift(batch, 0).kept
        return found if isinstance(found, range) else frozenset(found)

    return kept


class _AlertsLane:
    """The filter `alerts`; the only one for which an event's neighbours matter."""

    def __init__(self) -> None:
        self._bursts = Bursts()

    def wants(self, batch: StoredBatch, index: int) -> bool:
        if _is_no_alert(glance(batch.line(index))):  # nearly all are told apart by their headers
            return False
        event = batch.original(index)
        record = parse(event.line)
        if record is None or alert(record) is not None:
            return True
        return is_failed_login(record) and self._bursts.completes(record, event.id, happened_at(event))


def _is_no_alert(seen: Glance) -> bool:
    """Whether the header proves that the event alone is none, and no failed login either."""
    if seen.name is None or seen.severity is None or seen.severity >= LEAST_SEVERITY:
        return False
    kind = event_type(seen.name)
    return kind is not EventType.UNKNOWN and (
        kind is not EventType.AUTHENTICATION or seen.name == LOGIN_SUCCEEDED
    )


def _excluded(line: bytes, tests: tuple[_Test, ...]) -> bool:
    seen = glance(line)
    return any(test(seen) for test in tests)


def _tests(filter: Filter) -> tuple[_Test, ...]:  # noqa: A002 - as above
    tests: list[_Test] = []
    if filter.types is not None:
        types = frozenset(filter.types)
        tests.append(lambda seen: _of_another_type(seen.name, types))
    if filter.min_severity > 0:
        least = filter.min_severity
        tests.append(lambda seen: seen.severity is not None and seen.severity < least)
    if filter.products is not None:
        products = frozenset(filter.products)
        tests.append(lambda seen: seen.product is not None and seen.product not in products)
    if filter.names is not None:
        matches = re.compile("|".join(map(translate, filter.names))).match
        tests.append(lambda seen: seen.name is not None and matches(seen.name) is None)
    if filter.exclude_kong_initiated:
        tests.append(lambda seen: seen.kong_initiated)
    return tuple(tests)


def _of_another_type(name: str | None, types: frozenset[str]) -> bool:
    kind = EventType.UNKNOWN if name is None else event_type(name)
    return kind is not EventType.UNKNOWN and kind not in types
