"""A queue in the neutral form of a move, written into two streams that hold nothing.

Writes and never judges; knows nothing of locks or the order of a move: see `moving`.

Batches become messages as they would have, had they come in here, so that deduplication finds them. Numbers
that no batch has become a message of their own, a hole: numbers are counted here, not stored.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final, TypeVar

from relay import gzipped
from relay.clock import Clock
from relay.config.queue import WEEK
from relay.errors import Conflict, QueueError
from relay.model import DeadLetter, ReaderKind, Response
from relay.queue.base import StoredDeadLetter
from relay.queue.belongings import (
    DestinationBooks,
    Inventory,
    Item,
    MovedBatch,
    MovedReader,
    Part,
    Quarantined,
    Remembered,
)
from relay.queue.dedup.fingerprint import FUTURE_MS
from relay.queue.jetstream import gaps, ledger, quarantine, record
from relay.queue.jetstream.accounts import PREFIX as ACCOUNTS
from relay.queue.jetstream.bucket import MOST_CHANGES, Bucket, Change, Stale
from relay.queue.jetstream.index import NOWHERE, hashed, span
from relay.queue.jetstream.ledger import Ledger, SourceTotals
from relay.queue.jetstream.letters import PREFIX as LETTERS
from relay.queue.jetstream.letters import change_of, range_change
from relay.queue.jetstream.link import WRONG_LAST_SEQUENCE, ApiError, Link, Outgoing
from relay.queue.jetstream.message import encode_hole, token
from relay.queue.jetstream.moving_log import encoded
from relay.queue.jetstream.moving_out import Contents
from relay.queue.jetstream.pieces import HEADERS, MOST_ALONE, MOST_LINES
from relay.queue.jetstream.record import Account, LetterRule, Mark, ReaderRecord
from relay.queue.jetstream.remembered import PREFIX as SEEN
from relay.queue.jetstream.remembered import Remembered as Gone
from relay.queue.jetstream.remembered import remember
from relay.queue.jetstream.walk import walk
from relay.queue.moving import Begun

_EXPECTED_LAST: Final = "Nats-Expected-Last-Sequence"
_COMMIT_BYTES: Final = 4 << 20
_DAY: Final = 86400.0  # seconds; ids are kept so long at least, whatever the clocks of two machines say

_Stored = TypeVar("_Stored", Outgoing, Change)


class Furnishing:
    """Fills the queue whose stream of events is called *stream*; first `begin`, at the end `finish`.

    *windows* are the deduplication windows of sources in seconds, where they are known.
    """

    def __init__(
        self, link: Link, stream: str, bucket: Bucket, *, windows: Mapping[str, float | None], clock: Clock
    ) -> None:
        self._link = link
        self._stream = stream
        self._bucket = bucket
        self._windows = windows
        self._clock = clock
        self._first = Mark(1, 1)  # of the log
        self._last = 0  # sequence of its last message
        self._end = 1  # the number behind it
        self._remembered = 0  # batches
        self._quarantined = 0  # entries
        self._newest: dict[str, int] = {}  # milliseconds; the newest believable event time of each source

    async def begin(self, inventory: Inventory) -> Begun:
        """Learn what is there of it; what is remembered is deleted. Raises `QueueError`."""
        state = (await self._link.api(f"STREAM.INFO.{self._stream}"))["state"]
        self._last = state["last_seq"]
        self._first = Mark(state["first_seq"] if state["messages"] else self._last + 1, inventory.first)
        self._end = inventory.first
        async for step in walk(self._link, self._stream, self._first):
            self._end = step.end.number
        await self._bucket.purge(SEEN)
        sizes = await Contents(self._link, self._stream, self._bucket).sizes()
        self._quarantined = sizes[Part.QUARANTINED]
        return Begun(self._end if state["messages"] else 0, sizes[Part.DEAD_LETTERS], self._quarantined)

    async def add(self, items: Sequence[Item]) -> None:
        """Each item in one commit. Raises `Conflict` where somebody else writes, or `QueueError`."""
        messages: list[list[Outgoing]] = []
        changes: list[list[Change]] = []
        for item in items:
            match item:
                case MovedBatch():
                    messages += self._messages(item)
                case Remembered():
                    changes += [[change] for change in self._entries(item)]
                case StoredDeadLetter():
                    changes.append([_letter(item)])
                case Quarantined():
                    changes.append(self._aside(item))
        for some in _commits(messages):
            await self._publish(some)
        for portion in _commits(changes):
            await self._commit(portion)

    async def finish(self, inventory: Inventory) -> None:
        """Everything else. Raises `Conflict` or `QueueError`."""
        if self._end < inventory.head:
            received = max([each.last_received or 0.0 for each in inventory.sources], default=0.0)
            await self._publish([encode_hole(self._stream, received, inventory.head - self._end)])
        readers = [each for destination in inventory.destinations for each in destination.readers]
        marks = await self._marks(
            {n for each in readers for n in (each.watermark, each.stop) if n is not None}
        )
        rule = LetterRule(until=await self._last_redriving(sum(each.left for each in readers)))
        sources = {
            each.name: SourceTotals(
                dict(each.accepted),
                each.duplicates,
                each.last_received or 0.0,
                self._newest.get(each.name, 0),
            )
            for each in inventory.sources
        }
        whole = Ledger(self._last, inventory.head, self._first, sources)
        changes = [
            Change(ledger.KEY, ledger.dump(whole)),
            *[Change(gaps.key_of(gap.id), gaps.dump(gap)) for gap in inventory.gaps],
            *[Change(gaps.ALIVE, gaps.dump_alive(at)) for at in [inventory.alive_at] if at is not None],
            *[await self._account(each, marks, rule) for each in inventory.destinations],
        ]
        for some in _commits([[change] for change in changes]):
            await self._commit(some)

    # -- the log -----------------------------------------------------------------------------

    def _messages(self, item: MovedBatch) -> Iterator[list[Outgoing]]:
        if item.number > self._end:
            yield [encode_hole(self._stream, item.received_at, item.number - self._end)]
        yield encoded(self._stream, item, self._link.max_payload - HEADERS)
        self._end = item.end

    async def _publish(self, messages: Sequence[Outgoing]) -> None:
        first, *others = messages
        # Proves that nobody else has written since, nor an attempt of ours that nobody acknowledged.
        first = replace(first, headers={**first.headers, _EXPECTED_LAST: str(self._last)})
        try:
            if others:
                ack = await self._link.publish_together([first, *others])
            else:
                ack = await self._link.publish(first)
        except ApiError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise Conflict(f"somebody else writes into the stream {self._stream}") from error
            raise
        self._last = ack.seq

    async def _marks(self, numbers: Iterable[int]) -> dict[int, Mark]:
        """Where these events are in the log. Learns the newest event times on the way."""
        wanted = sorted(numbers, reverse=True)
        found = {}
        async for step in walk(self._link, self._stream, self._first):
            if step.meta is not None:
                self._saw(step.meta.source, step.meta.newest)
            while wanted and wanted[-1] < step.end.number:
                number = wanted.pop()
                found[number] = Mark(step.seq, number, max(0, number - step.number))
        return found | {number: Mark(self._last + 1, number) for number in wanted}

    def _saw(self, source: str, newest: int) -> None:
        self._newest[source] = max(newest, self._newest.get(source, 0))

    # -- the state bucket --------------------------------------------------------------------

    async def _commit(self, changes: Sequence[Change]) -> None:
        try:
            await self._bucket.commit(changes)
        except Stale as error:
            raise Conflict(f"somebody else writes into {self._bucket.stream}") from error

    def _entries(self, item: Remembered) -> Iterator[Change]:
        self._remembered += 1
        times = None
        if item.times:
            times = min(each[0] for each in item.times), max(each[1] for each in item.times)
            if times[1] <= int(item.received_at * 1000) + FUTURE_MS:
                self._saw(item.source, times[1])
        places = [] if times is None else [span(*times)]
        if len(item.untimed) <= MOST_ALONE:  # no search looks for more of them one by one
            places += [hashed(number) for number in item.untimed]
        window = self._windows.get(item.source, WEEK) or 0.0
        ttl = max(_DAY, item.received_at + window - self._clock.now())
        for place in places or [NOWHERE]:
            for n in range(0, len(item.ids), MOST_LINES):
                gone = Gone(item.received_at, item.ids[n : n + MOST_LINES], None, times)
                yield remember(item.source, place, f"m{self._remembered}-{n}", gone, ttl)

    def _aside(self, item: Quarantined) -> list[Change]:
        self._quarantined += 1
        about = {"source": item.source, "cause": item.cause, "bytes": len(item.body)}
        about |= {"created_at": item.created_at}
        if item.count is None:
            kind, payload = "body", gzipped.compress(item.body)
        else:  # as it was in its log
            kind, payload = "batch", item.body
            about |= {"number": item.number, "count": item.count}
        entry = f"{kind}-m{self._quarantined}"
        return quarantine.changes_of(entry, payload, about, self._link.max_payload)

    async def _last_redriving(self, letters: int) -> int:
        """The revision of the last of so many letters. Those a redrive has taken come first."""
        if not letters:
            return 0
        async with aclosing(self._bucket.entries(LETTERS, headers_only=True)) as entries:
            async for entry in entries:
                letters -= 1
                if not letters:
                    return entry.revision
        raise QueueError("dead letters are missing of those that are being redriven")

    async def _account(self, it: DestinationBooks, marks: Mapping[int, Mark], rule: LetterRule) -> Change:
        account = Account(
            name=it.name,
            start=it.start,
            readers=tuple([each async for each in self._readers(it.readers, marks, rule)]),
            backfilled=it.backfilled,
            delivered=it.delivered,
            delivered_bytes=it.delivered_bytes,
            filtered=it.filtered,
            dead=it.dead,
            discarded=it.discarded,
            replayed=it.replayed,
            dead_by_reason=dict(it.dead_by_reason),
            hold=it.hold,
        )
        return Change(f"{ACCOUNTS}.{token(it.name)}", record.dump(account))

    async def _readers(
        self, readers: Sequence[MovedReader], marks: Mapping[int, Mark], rule: LetterRule
    ) -> AsyncGenerator[ReaderRecord, None]:
        for it in readers:
            number = await self._bucket.put("serial", b"")
            if it.kind is ReaderKind.REDRIVE:
                yield ReaderRecord(
                    number, it.kind, Mark(0, 0), None, it.left, it.rate, it.retry, (rule,), it.left
                )
            else:
                stop = None if it.stop is None else marks[it.stop]
                total = None if it.stop is None else it.stop - it.start
                yield ReaderRecord(number, it.kind, marks[it.watermark], stop, total, it.rate, it.retry)


# -- forms ---------------------------------------------------------------------------------------


def _letter(it: StoredDeadLetter) -> Change:
    number = it.position.sequence + it.position.offset
    if it.event is None:
        change = range_change(it.destination, it.reason, number, it.count, it.created_at, it.detail)
    else:
        said = Response(it.detail, it.status, it.excerpt, it.attempts)
        letter = DeadLetter(it.position, it.event, it.reason, said)
        change = change_of(it.destination, letter, number, it.created_at)
    return replace(change, revision=0)


def _commits(groups: Iterable[list[_Stored]]) -> Iterator[list[_Stored]]:
    """Portions to be stored together, each of whole *groups*."""
    portion: list[_Stored] = []
    nbytes = 0
    for group in groups:
        size = sum([_nbytes(each) for each in group])
        if portion and (len(portion) + len(group) > MOST_CHANGES or nbytes + size > _COMMIT_BYTES):
            yield portion
            portion, nbytes = [], 0
        portion += group
        nbytes += size
    if portion:
        yield portion


def _nbytes(each: Outgoing | Change) -> int:
    return len(each.payload if isinstance(each, Outgoing) else each.value or b"")
