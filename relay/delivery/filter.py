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
from relay.queue.fates import Wanted

_Test = Callable[[Glance], bool]  # True where the line proves that the event is not wanted


class Sieve:
    """A compiled filter: takes a batch and the first event that matters, says which from there on are wanted.

    All conditions must be met. Used by one thread at a time.
    """

    def __init__(self, filter: Filter) -> None:  # noqa: A002 - the word of the configuration
        self._sources = None if filter.sources is None else frozenset(filter.sources)
        self._tests = _tests(filter)
        self._alerts = _AlertsLane() if filter.alerts else None

    @property
    def looks_at_events(self) -> bool:
        """Whether each event has to be looked at, which takes some ten microseconds."""
        return bool(self._tests) or self._alerts is not None

    def __call__(self, batch: StoredBatch, start: int) -> Stretch:
        if self._sources is not None and batch.source not in self._sources:
            return Stretch(batch, start, batch.count, ())
        if not self.looks_at_events:
            return Stretch.of(batch, start)
        lines = batch.lines
        kept = tuple([i for i in range(start, batch.count) if not _excluded(lines[i], self._tests)])
        if self._alerts is not None:
            kept = tuple([i for i in kept if self._alerts.wants(batch, i)])
        if len(kept) == batch.count - start:
            return Stretch.of(batch, start)
        return Stretch(batch, start, batch.count, kept)


# What would make an alert of an event in spite of its low severity; that it really is the field is told
# later.
_FAILED = (b"success=false", b'"success":false', b'"success":"false"')
_DENIED = (
    b"granted=false",
    b'"granted":false',
    b'"granted":"false"',
    b"status=401",
    b"status=403",
    b'"status":401',
    b'"status":403',
    b'"status":"401"',
    b'"status":"403"',
)


def wanted(filter: Filter) -> Wanted:  # noqa: A002 - as above
    """*filter* for who asks about whole batches afterwards. Batches have to come in the log's order."""
    sift = Sieve(filter)

    def kept(batch: StoredBatch) -> Collection[int]:
        found = sift(batch, 0).kept
        return found if isinstance(found, range) else frozenset(found)

    return kept


class _AlertsLane:
    """The filter `alerts`; the only one for which an event's neighbours matter."""

    def __init__(self) -> None:
        self._bursts = Bursts()

    def wants(self, batch: StoredBatch, index: int) -> bool:
        line = batch.line(index)
        if _is_no_alert(glance(line), line):  # nearly all are told apart by their headers
            return False
        event = batch.original(index)
        record = parse(event.line)
        if record is None or alert(record) is not None:
            return True
        return is_failed_login(record) and self._bursts.completes(record, event)


def _is_no_alert(seen: Glance, line: bytes) -> bool:
    """Whether a look proves that the event alone is none, and no failed login either."""
    if seen.name is None or seen.severity is None or seen.severity >= LEAST_SEVERITY:
        return False
    match event_type(seen.name):
        case EventType.AUTHENTICATION:
            return seen.name == LOGIN_SUCCEEDED and not any(sign in line for sign in _FAILED)
        case EventType.AUTHORIZATION | EventType.ACCESS:
            return not any(sign in line for sign in _DENIED)
        case EventType.UNKNOWN:
            return False


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
