"""Which pulled entries were received before, in another writing.

Owns the counting of events that are the same by `relay.recovery.keys`. One number is held of each that was
received (ADR 0024). So it leaves out the name, which the two schemas may write in two ways;
`relay.recovery.reconciling`, which has its keys on disk, compares with the name first. Several checks of one
trace in one millisecond may thus look alike here. The log that is pulled is complete: when as many were
received as there are, none is missing. When some are, and nobody can tell which, all of them are taken: twice
is better than never.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from relay.konnect.lines import identity
from relay.konnect.times import event_time
from relay.recovery import keys
from relay.recovery.state import Window

Number = int
"""The hash of a `keys.Key` without its name, within this process: millions are held in memory."""


def keys_of(lines: Iterable[bytes], window: Window) -> list[tuple[int, Number]]:
    """The keys of those received lines that happened in *window*, and when, without pulled ones.

    A line that does not tell when has none: what it would be compared with tells.
    """
    first, last = int(window.start * 1000), int(window.end * 1000) + 1
    found = []
    for line in lines:
        at = event_time(identity(line))
        if at is not None and first <= at <= last:
            key = keys.of_line(line)
            if key is not None:
                found.append((at, hash(key.nameless)))
    return found


def missing(lines: Sequence[bytes], received: Counter[Number]) -> list[bytes]:
    """Those of the pulled *lines* that were not received, in their order."""
    groups: defaultdict[Number, list[bytes]] = defaultdict(list)
    numbers = []
    for line in lines:
        key = keys.of_line(line, pulled=True)
        number = hash(line if key is None else key.nameless)
        numbers.append(number)
        groups[number].append(line)
    left = {key: _left(group, received[key]) for key, group in groups.items()}
    found = []
    for number, line in zip(numbers, lines, strict=True):
        if left[number]:
            left[number] -= 1
            found.append(line)
    return found


def _left(group: list[bytes], received: int) -> int:
    """How many of these are to be taken."""
    if received >= len(group):
        return 0
    return len(group) - received if len(set(group)) == 1 else len(group)
