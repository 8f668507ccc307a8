"""Checks stored batches, once for all destinations of this process, in threads of their own.

Owns the single flight for each batch, what was found lately, and the counting. Never changes an event and
never keeps one back: what is unfit to go out is told to the batch, and delivery does the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from relay.batch import StoredBatch
from relay.clock import Clock
from relay.config.queue import SqliteQueueConfig
from relay.config.schema import Config, Source
from relay.errors import KeysMissing
from relay.konnect.jwks import Key
from relay.konnect.signatures import SignatureResult
from relay.observe.logs import Log
from relay.observe.metrics import Metrics
from relay.signing.crew import Crew, spare_cores
from relay.signing.desk import Desk, SourceSignatures
from relay.signing.fetch import fetch
from relay.signing.keeper import AFTER_FAILURE, WITHOUT_KEYS, Fetch, KeyKeeper
from relay.signing.seen import Seen

_REMEMBERED: Final = 500_000  # events whose results are kept, for destinations that come later
_TICK: Final = 5.0  # seconds between looks at whether keys are to be read again

_RESULTS: Final = tuple(SignatureResult)
_NUMBERS: Final = {result: n for n, result in enumerate(_RESULTS)}


class Checker:
    """One for all destinations of a process. Without a source that is checked it costs nothing."""

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics,
        log: Log,
        fetch: Fetch = fetch,
        writes: bool = True,
        threads: int | None = None,  # None: as many as there are cores to spare
    ) -> None:
        """*writes*: whether the keys are kept on disk, which only one process does."""
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._fetch = fetch
        self._writes = writes
        self._desks: Mapping[str, Desk] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._found: OrderedDict[int, bytes] = OrderedDict()  # a byte for each event
        self._remembered = 0
        self._seen = Seen()
        # cryptography lets go of the interpreter lock while it verifies, so threads are worth having.
        self._crew = Crew(spare_cores() if threads is None else threads)

    # Life

    async def prepare(self, config: Config) -> Mapping[str, Desk]:
        """What `follow` takes, now and when the configuration changed. Raises `ConfigError`."""
        desks: dict[str, Desk] = {}
        for source in config.sources:
            if source.signatures.mode == "off":
                continue
            known = self._desks.get(source.name)
            if known is not None and known.config == source.signatures:
                desks[source.name] = known
            else:
                desks[source.name] = await self._desk(source, cache_of(source, config))
        return desks

    def follow(self, desks: Mapping[str, Desk]) -> None:
        """Check from now on as was prepared."""
        self._desks = desks

    async def _desk(self, source: Source, cache: Path | None) -> Desk:
        wanted = source.signatures
        assert wanted.jwks is not None  # noqa: S101 - the configuration has checked it; these tell mypy
        assert wanted.mode != "off"  # noqa: S101
        keeper = KeyKeeper(
            source.name,
            wanted.jwks,
            cache=cache,
            writes=self._writes,
            fetch=self._fetch,
            clock=self._clock,
            log=self._log,
        )
        await keeper.open()
        return Desk(wanted.mode, wanted, keeper)

    async def run(self) -> None:
        """Follow the keys until cancelled."""
        while True:
            await asyncio.gather(*[desk.keeper.refresh_when_due() for desk in self._desks.values()])
            await self._clock.sleep(_TICK)

    def close(self) -> None:
        """Let go of the threads. What they are at ends by itself."""
        self._crew.close()

    @property
    def is_on(self) -> bool:
        """Whether there is a source that is checked."""
        return bool(self._desks)

    def status(self, source: str) -> SourceSignatures | None:
        """What was found of a source; None where it is not checked."""
        desk = self._desks.get(source)
        return None if desk is None else desk.status

    # Judging, as `relay.queue.dedup.judge` has it

    def checks(self, source: str) -> bool:
        """Whether anybody looks at the signatures of this source."""
        return source in self._desks

    def verified(self, source: str, lines: Sequence[bytes]) -> Sequence[bool]:
        """Which of the lines are signed by a key that is at hand. Any thread may ask; nothing is counted."""
        desk = self._desks.get(source)
        if desk is None:  # nobody looks any more
            return [True] * len(lines)
        results = desk.verify(lines, desk.keeper.ring.keys)
        return [result is SignatureResult.VERIFIED for result in results]

    # Checking

    async def check(self, batch: StoredBatch, *, redriven: bool = False) -> None:
        """Tell *batch* the results of its events, if its source is checked and it does not know them.

        *redriven* is a dead letter that is sent again: its number is none of the log. Raises `KeysMissing`
        where events must not go out unchecked and no key is there yet.
        """
        desk = self._desks.get(batch.source)
        if desk is None or batch.checked is not None:
            return
        keeps_back = desk.keeps_back(batch, redriven=redriven)
        if redriven:
            batch.checked = desk.checked(await self._results(desk, batch), keeps_back=keeps_back)
            return
        lock = self._locks.setdefault(batch.sequence, asyncio.Lock())
        try:
            async with lock:
                results = self._remembered_results(batch)
                if results is None:
                    results = await self._results(desk, batch)
                    if keeps_back and SignatureResult.NO_KEY in results:
                        raise KeysMissing
                    self._remember(desk, batch, results)
        finally:
            # Whoever waits for it holds a reference; whoever comes later finds the results.
            self._locks.pop(batch.sequence, None)
        batch.checked = desk.checked(results, keeps_back=keeps_back)

    async def _results(self, desk: Desk, batch: StoredBatch) -> list[SignatureResult]:
        keeper = desk.keeper
        if not keeper.ring.keys:
            await keeper.refresh(WITHOUT_KEYS)
        ring = keeper.ring
        results = await self._verify(desk, batch, range(batch.count), ring.keys)
        failed = [n for n, result in enumerate(results) if result is SignatureResult.FAILED]
        if failed:
            # Events do not name their key: one that is new looks like this.
            await keeper.refresh(AFTER_FAILURE)
            if keeper.ring != ring:
                again = await self._verify(desk, batch, failed, keeper.ring.keys)
                for n, result in zip(failed, again, strict=True):
                    results[n] = result
        return results

    async def _verify(
        self, desk: Desk, batch: StoredBatch, indices: Sequence[int], keys: Sequence[Key]
    ) -> list[SignatureResult]:
        def some(part: Sequence[int]) -> list[SignatureResult]:
            lines = batch.lines
            return desk.verify([lines[n] for n in part], keys)

        return await self._crew.verify(some, indices)

    # What was found

    def _remembered_results(self, batch: StoredBatch) -> list[SignatureResult] | None:
        found = self._found.get(batch.sequence)
        return None if found is None else [_RESULTS[n] for n in found]

    def _remember(self, desk: Desk, batch: StoredBatch, results: Sequence[SignatureResult]) -> None:
        self._found[batch.sequence] = bytes([_NUMBERS[result] for result in results])
        self._remembered += batch.count
        while self._remembered > _REMEMBERED and len(self._found) > 1:
            _, oldest = self._found.popitem(last=False)
            self._remembered -= len(oldest)
        if self._seen.add(batch.sequence, batch.count):
            counts = Counter(results)
            desk.counts += counts
            self._metrics.signatures(batch.source, counts.items())


def cache_of(source: Source, config: Config) -> Path | None:
    """Where the source's keys are kept."""
    if source.signatures.cache is not None or not isinstance(config.queue, SqliteQueueConfig):
        return source.signatures.cache
    queue = config.queue.path
    return queue.with_name(f"{queue.name}.jwks-{source.name}.json")
