"""What deduplication needs to know of a batch: when its events happened, and hashes to tell them apart.

Made in the event loop for every batch, so each step is one pass in C over all lines, and what
most batches never need (`hashes`, `identities`) is made when somebody asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relay import gzipped
from relay.konnect.content import SIGNED_BYTES, content
from relay.konnect.lines import identity
from relay.konnect.times import event_time, timed
from relay.model import Batch

# Clocks of Konnect's services may differ a little; an event further in the future would make
# everything that follows look old.
FUTURE_MS = 600_000


@dataclass(slots=True)
class Fingerprint:
    """A batch as deduplication sees it."""

    lines: list[bytes]
    payload: bytes  # gzip of the lines
    limit: int  # milliseconds; event times above are not believed
    oldest: int  # milliseconds; of the believable times
    newest: int  # milliseconds; 0 when no event has a believable time
    timed: bool  # every event has a believable time
    plain: bool  # times and hashes say all that is needed to judge the batch in memory
    middles: list[bytes] | None  # of each event what is hashed; None: not looked for yet
    made: set[int] | None = None  # the hashes, once somebody asked for them
    pulled: bool = False  # as its batch is, which gives its events other ids

    @property
    def hashes(self) -> set[int]:
        """Equal events have equal hashes, in every batch of every process."""
        if self.made is None:
            self.made = set(self.each_hash())
            self.middles = None  # half as large as the lines themselves
        return self.made

    def each_hash(self) -> Iterable[int]:
        """The hash of each event, in order."""
        return gzipped.crc32_each(self.middles or _middles(self.lines))

    @property
    def identities(self) -> list[bytes]:
        return [identity(line) for line in self.lines]


def fingerprint(batch: Batch) -> Fingerprint:
    """Take a batch's fingerprint."""
    lines = batch.lines or batch.body.split(b"\n")[:-1]
    limit = int(batch.received_at * 1000) + FUTURE_MS
    found = timed(lines, SIGNED_BYTES)
    middles = None if found is None else found.rests
    if found is not None and found.newest <= limit:
        return Fingerprint(
            lines,
            batch.payload,
            limit,
            found.oldest,
            found.newest,
            timed=True,
            plain=True,
            middles=middles,
            pulled=batch.pulled,
        )
    times = [time for i in map(identity, lines) if (time := event_time(i)) is not None and time <= limit]
    oldest, newest = min(times, default=0), max(times, default=0)
    return Fingerprint(
        lines,
        batch.payload,
        limit,
        oldest,
        newest,
        timed=len(times) == len(lines),
        plain=False,
        middles=middles,
        pulled=batch.pulled,
    )


def event_hashes(lines: Sequence[bytes]) -> Iterable[int]:
    """A hash of 32 bits of each event, the same in every process and however the event is stamped and signed.

    CRC-32 from the event's time up to where a signature may begin. Hashes raise suspicion, or name the
    batches to open; who is alike in them is compared by name.
    """
    return gzipped.crc32_each(_middles(lines))


def _middles(lines: Sequence[bytes]) -> list[bytes]:
    found = timed(lines, SIGNED_BYTES)
    return [_middle(line) for line in lines] if found is None else found.rests


def _middle(line: bytes) -> bytes:
    found = timed([line], SIGNED_BYTES)
    return content(line) if found is None else found.rests[0]


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
    return found if max(seen.values()) > 1 else None
