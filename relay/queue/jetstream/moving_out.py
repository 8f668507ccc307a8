"""What the two streams hold, in the neutral form of a move.

Reads and never writes; knows nothing of locks or the order of a move: see `moving`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, assert_never

import orjson

from relay import gzipped
from relay.model import Gap, ReaderKind
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
    SourceBooks,
)
from relay.queue.jetstream import gaps, ledger, quarantine, record
from relay.queue.jetstream.accounts import PREFIX as ACCOUNTS
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.deadletters import search
from relay.queue.jetstream.index import hash_in, start_of
from relay.queue.jetstream.ledger import Ledger
from relay.queue.jetstream.letters import PREFIX as LETTERS
from relay.queue.jetstream.letters import counted, marked, redrive_of, rules_of
from relay.queue.jetstream.link import Link
from relay.queue.jetstream.message import name_of
from relay.queue.jetstream.moving_log import Count, batches
from relay.queue.jetstream.record import Account, Mark, ReaderRecord
from relay.queue.jetstream.remembered import PREFIX as SEEN
from relay.queue.jetstream.remembered import Remembered as Gone
from relay.queue.jetstream.remembered import recall
from relay.queue.jetstream.walk import walk

# Other queues may keep a row for each few seconds of a span. Konnect's batches span seconds; of the
# events of a batch that spans more than this, the oldest may not be recognised any more.
_LONGEST_MS: Final = 86_400_000


class Contents:
    """Of the queue whose stream of events is called *stream*."""

    def __init__(self, link: Link, stream: str, bucket: Bucket) -> None:
        self._link = link
        self._stream = stream
        self._bucket = bucket

    # -- what is small -----------------------------------------------------------------------

    async def inventory(self) -> Inventory:
        """Raises `QueueError`."""
        whole = await self._ledger()
        count = Count(await self._marks(whole))
        async with aclosing(walk(self._link, self._stream, Mark(whole.seq + 1, whole.number))) as behind:
            async for step in behind:
                whole.number = count.corrected(whole.number, step.seq)
                if step.meta is not None:
                    whole.fold(step.meta)
        whole.number = count.corrected(whole.number)
        stored = whole.number
        async with aclosing(self._batches()) as found:
            async for batch in found:
                stored = batch.number
                break
        destinations = [each async for each in self._destinations(stored)]
        owed = [r.watermark for d in destinations for r in d.readers if r.kind is not ReaderKind.REDRIVE]
        return Inventory(
            head=whole.number,
            first=min([stored, *owed]),
            sources=tuple(_sources(whole)),
            destinations=tuple(destinations),
            gaps=await self._gaps(),
            alive_at=await gaps.read_alive(self._bucket),
            sizes=await self.sizes(),
        )

    async def sizes(self) -> dict[Part, int]:
        """How many entries there are of each part. Raises `QueueError`."""
        state = (await self._link.api(f"STREAM.INFO.{self._stream}"))["state"]
        return {
            Part.BATCHES: state["messages"],
            Part.REMEMBERED: await self._bucket.count(f"{SEEN}.>"),
            Part.DEAD_LETTERS: await self._bucket.count(f"{LETTERS}.>"),
            Part.QUARANTINED: await self._bucket.count(f"{quarantine.PREFIX}.*.0"),
        }

    async def _ledger(self) -> Ledger:
        """As it was stored last."""
        entry = await self._bucket.get(ledger.KEY)
        return Ledger() if entry is None else ledger.load(entry.value)

    async def _accounts(self) -> list[Account]:
        """In the order they were made."""
        found = [record.load(entry.value) async for entry in self._bucket.entries(ACCOUNTS)]
        return sorted(found, key=lambda account: account.readers[0].id)

    async def _gaps(self) -> tuple[Gap, ...]:
        found = [gaps.load(entry.value) async for entry in self._bucket.entries(gaps.PREFIX)]
        found.sort(key=lambda gap: gap.id)
        return tuple([replace(gap, id=number) for number, gap in enumerate(found, 1)])

    async def _destinations(self, stored: int) -> AsyncGenerator[DestinationBooks, None]:
        accounts = await self._accounts()
        left: Counter[str] = Counter()
        if any(redrive_of(account) is not None for account in accounts):
            async with aclosing(self._letters(lines=False)) as letters:
                async for letter in letters:
                    left[letter.destination] += letter.redriving
        for it in accounts:
            yield DestinationBooks(
                name=it.name,
                start=it.start,
                backfilled=it.backfilled,
                delivered=it.delivered,
                delivered_bytes=it.delivered_bytes,
                filtered=it.filtered,
                dead=it.dead,
                discarded=it.discarded,
                replayed=it.replayed,
                dead_by_reason=tuple(sorted(it.dead_by_reason.items())),
                hold=it.hold,
                readers=tuple([_reader(it, each, stored, left[it.name]) for each in it.readers]),
            )

    # -- items -------------------------------------------------------------------------------

    def items(self, part: Part) -> AsyncGenerator[Item, None]:
        """All items of a part. Raises `QueueError`."""
        match part:
            case Part.BATCHES:
                return self._batches()
            case Part.REMEMBERED:
                return self._remembered()
            case Part.DEAD_LETTERS:
                return self._dead_letters()
            case Part.QUARANTINED:
                return self._quarantined()
        assert_never(part)

    async def _batches(self) -> AsyncGenerator[MovedBatch, None]:
        stored = await self._ledger()
        found = batches(self._link, self._stream, stored.first, await self._marks(stored))
        async with aclosing(found):
            async for batch in found:
                yield batch

    async def _marks(self, stored: Ledger) -> list[Mark]:
        """Places whose numbers are known."""
        found = [Mark(stored.seq + 1, stored.number)]
        for account in await self._accounts():
            for reader in account.readers:
                if reader.kind is not ReaderKind.REDRIVE:
                    found += [mark for mark in (reader.mark, reader.stop) if mark is not None]
        return found

    async def _remembered(self) -> AsyncGenerator[Remembered, None]:
        group: list[_Seen] = []
        async with aclosing(self._bucket.entries(SEEN)) as entries:
            async for entry in entries:
                try:
                    _, source, *place, which = entry.key.split(".")
                    seen = _Seen(name_of(source), ".".join(place), which, recall(entry))
                except (KeyError, ValueError):  # not written by a relay
                    continue
                if group and group[0].owner != seen.owner:
                    yield _whole(group)
                    group = []
                group.append(seen)
        if group:
            yield _whole(group)

    async def _dead_letters(self) -> AsyncGenerator[StoredDeadLetter, None]:
        # In two passes: sorting them would hold every line in memory.
        for redriving in (True, False):
            async with aclosing(self._letters(lines=True)) as letters:
                async for letter in letters:
                    if letter.redriving is redriving:
                        yield replace(letter, id=0)

    async def _letters(self, *, lines: bool) -> AsyncGenerator[StoredDeadLetter, None]:
        """By age, without those that were stored ahead of the books: their events are still owed."""
        accounts = {account.name: account for account in await self._accounts()}
        async with aclosing(search(self._bucket, None, lines=lines)) as letters:
            async for letter in letters:
                account = accounts.get(letter.destination)
                if account is not None and counted(account, letter):
                    yield replace(letter, redriving=marked(rules_of(account), letter))

    async def _quarantined(self) -> AsyncGenerator[Quarantined, None]:
        parts: dict[str, dict[str, bytes]] = {}
        async with aclosing(self._bucket.entries(quarantine.PREFIX)) as entries:
            async for entry in entries:
                _, name, number = entry.key.split(".")
                parts.setdefault(name, {})[number] = entry.value
                if number != "0":
                    continue
                about = orjson.loads(entry.headers[quarantine.HEADER])
                found = parts.pop(name)
                if len(found) != about["parts"]:  # the others made room for newer entries
                    continue
                body = b"".join([found[str(n)] for n in range(len(found))])
                yield Quarantined(
                    created_at=about["created_at"],
                    source=about["source"],
                    cause=about["cause"],
                    body=gzipped.decompress(body) if name.startswith("body-") else body,
                    number=about.get("number"),
                    count=about.get("count"),
                )


# -- forms ---------------------------------------------------------------------------------------


def _sources(whole: Ledger) -> Iterator[SourceBooks]:
    for name, totals in sorted(whole.sources.items()):
        accepted = tuple(sorted(totals.accepted.items()))
        yield SourceBooks(name, accepted, totals.duplicates, totals.last_received or None)


def _reader(account: Account, it: ReaderRecord, stored: int, left: int) -> MovedReader:
    if it.kind is ReaderKind.REDRIVE:
        return MovedReader(it.kind, 0, 0, None, it.rate, it.retry, left)
    watermark = it.mark.number
    if it.stop is None:
        return MovedReader(it.kind, account.start, watermark, None, it.rate, it.retry)
    if (
        it.kind is ReaderKind.REPLAY
    ):  # it holds nothing back: what was purged before it is no longer to be sent
        watermark = max(watermark, min(stored, it.stop.number))
    start = it.stop.number - (it.total or 0)
    return MovedReader(it.kind, start, watermark, it.stop.number, it.rate, it.retry)


@dataclass(frozen=True, slots=True)
class _Seen:
    """An entry of a batch that is gone, at one of its places."""

    source: str
    place: str
    which: str  # the last token of its key
    batch: Gone

    @property
    def owner(self) -> tuple[str, str]:
        """The same for all entries of a batch."""
        return self.source, self.which.partition("-")[0]


def _whole(entries: Sequence[_Seen]) -> Remembered:
    """A batch put together from its entries; each of its places has all of its ids."""
    chunks = {each.which: each.batch.ids for each in entries}
    hashes = {each.place: hash_in(each.place) for each in entries}
    exact = entries[0].batch.times
    if exact is not None:
        oldest, newest = exact
        times: list[tuple[int, int]] = [(max(oldest, newest - _LONGEST_MS), newest)]
    else:  # times that are not believed; no queue looks for such an event by them
        times = [(at, at) for at in [start_of(place) for place, known in hashes.items() if known is None]]
    return Remembered(
        source=entries[0].source,
        received_at=entries[0].batch.received_at,
        ids=tuple(chain.from_iterable(chunks.values())),
        times=tuple(times),
        untimed=tuple([known for known in hashes.values() if known is not None]),
    )
