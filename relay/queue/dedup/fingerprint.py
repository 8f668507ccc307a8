"""What deduplication needs to know of a batch: when its events happened, and hashes to tell them apart.

Made in the event loop for every batch, so each step is one pass in C over all lines, and what
most batches never need (`hashes`, `identities`) is made when somebody asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relay.konnect.lines import CEF_MARKER_BEFORE, identity
from relay.konnect.times import event_stamps, event_time
from relay.model import Batch

# Clocks of Konnect's services may differ a little; an event further in the future would make
# everything that follows look old.
FUTURE_MS = 600_000
# Hashes are taken over the last bytes of a line: the signature, or trace id and user agent. They only
# raise suspicion; who is alike in them is compared by full event id.
TAIL = 192
# A line must be so long that its tail lies within its identity, whatever its header's time stamp.
# The shortest Konnect event seen has 343 bytes.
_SHORT = TAIL + CEF_MARKER_BEFORE


@dataclass(slots=True)
class Fingerprint:
    """A batch as deduplication sees it."""

    lines: list[bytes]
    payload: bytes  # gzip of the lines
    limit: int  # milliseconds; event times above are not believed
    oldest: int  # milliseconds; of the believable times
    newest: int  # milliseconds; 0 when no event has a believable time
    timed: bool  # every event has a believable time
    long: bool  # every line is long enough to be hashed by its tail; False is no more than unknown
    made: set[int] | None = None  # the hashes, once somebody asked for them
    pulled: bool = False  # as its batch is, which gives its events other ids

    @property
    def plain(self) -> bool:
        """Whether times and hashes say all that is needed to judge the batch in memory."""
        return self.timed and self.long

    @property
    def hashes(self) -> set[int]:
        """Equal events have equal hashes, in every batch of this process."""
        if self.made is None:
            self.made = tail_hashes(self.lines)
        return self.made

    @property
    def identities(self) -> list[bytes]:
        return [identity(line) for line in self.lines]


def tail_hashes(lines: Iterable[bytes]) -> set[int]:
    return {hash(line[-TAIL:]) for line in lines}


def fingerprint(batch: Batch) -> Fingerprint:
    """Take a batch's fingerprint."""
    lines = batch.lines or batch.body.split(b"\n")[:-1]
    limit = int(batch.received_at * 1000) + FUTURE_MS
    stamps = event_stamps(lines)
    if stamps is not None and (newest := int(max(stamps))) <= limit:
        long = min(map(len, lines)) >= _SHORT
        oldest = int(min(stamps))
        return Fingerprint(
            lines, batch.payload, limit, oldest, newest, timed=True, long=long, pulled=batch.pulled
        )
    times = [time for i in map(identity, lines) if (time := event_time(i)) is not None and time <= limit]
    oldest, newest = min(times, default=0), max(times, default=0)
    timed = len(times) == len(lines)
    return Fingerprint(lines, batch.payload, limit, oldest, newest, timed, long=False, pulled=batch.pulled)


def ordinals(prints: Sequence[Fingerprint]) -> list[list[int]] | None:
    """Each event's ordinal among its twins in the whole request; None where no two are alike.

    Counted over all batches of a request: were it cut between twins, both would get the same id.
    """
    if len(set().union(*[each.hashes for each in prints])) == sum(len(each.lines) for each in prints):
        return None
    seen: Counter[bytes] = Counter()
    found = []
    for each in prints:
        numbers = []
        for key in each.identities:
            numbers.append(seen[key])
            seen[key] += 1
        found.append(numbers)
    return found
