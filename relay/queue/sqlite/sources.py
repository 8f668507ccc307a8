"""The sources the queue knows, and what is recent of each: turns batches into a request to append.

Lives in the event loop. Judges whether a request may repeat something; the writer's transaction
finds out what (`dedup`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from relay import gzipped
from relay.errors import QueueError
from relay.model import Batch
from relay.queue.dedup.fingerprint import Fingerprint, event_hashes, fingerprint
from relay.queue.dedup.recent import Recent
from relay.queue.sqlite.log import Request
from relay.queue.sqlite.spans import BUCKET_BITS, spans_of
from relay.queue.sqlite.writer import Writer


class Sources:
    """Numbers, deduplication windows and recent past of all sources."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.numbers: dict[str, int] = dict(connection.execute("SELECT name, id FROM sources").fetchall())
        self.names = {number: name for name, number in self.numbers.items()}
        self.windows: dict[int, float | None] = {}  # seconds; None where deduplication is off
        self._recent: dict[int, Recent] = {}

    async def make_known(self, writer: Writer, deduplicate: Mapping[str, float | None]) -> None:
        """Number the sources that are new, and note each one's window in seconds."""

        def run(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
            new = [(name,) for name in deduplicate]
            connection.executemany("INSERT OR IGNORE INTO sources (name) VALUES (?)", new)
            rows = connection.execute("SELECT name, id FROM sources").fetchall()
            return [(name, number, newest_event_time(connection, number)) for name, number in rows]

        for name, number, newest in await writer.submit(run):
            self.numbers[name] = number
            self.names[number] = name
            self._recent.setdefault(number, Recent(newest, _hashes))
            if name in deduplicate:
                self.windows[number] = deduplicate[name]

    async def request(self, batches: Sequence[Batch], *, checked: bool) -> Request:
        """Make the batches of one request ready to be appended. Raises `QueueError` for an unknown source.

        *checked*: somebody looks at the signatures of its source.
        From here on the request counts as recent; `failed` has to be told when it was not stored.
        """
        name, at = batches[0].source, batches[0].received_at
        number = self.numbers.get(name)
        if number is None:
            raise QueueError(f"the queue does not know a source called {name}")
        window = self.windows.get(number)
        if window is None:
            # Twins on both sides of a cut are told apart by ordinals all the same.
            prints = await _fingerprints(batches) if len(batches) > 1 else ()
            return Request(number, name, batches, prints, (), suspicious=False, since=at)
        prints = await _fingerprints(batches)
        recent = self._recent[number]
        # No await between the two: the next request must find this one.
        suspicious = not recent.is_new(prints)
        for each in prints:
            recent.add(each.oldest, each.newest, len(each.lines), each.payload, each.made)
        spans = tuple(map(spans_of, prints))
        vouched: dict[bytes, bool] | None = {} if checked else None
        return Request(number, name, batches, prints, spans, suspicious, at - window, vouched)

    def failed(self, request: Request) -> None:
        self._recent[request.source].forget()


async def _fingerprints(batches: Sequence[Batch]) -> Sequence[Fingerprint]:
    if len(batches) == 1:  # a thread costs more than that
        return (fingerprint(batches[0]),)
    return await asyncio.to_thread(lambda: tuple(map(fingerprint, batches)))


def _hashes(payload: bytes) -> Iterable[int]:
    return event_hashes(gzipped.decompress(payload).split(b"\n")[:-1])


def newest_event_time(connection: sqlite3.Connection, source: int) -> int:
    """The newest believable event time stored for a source, in milliseconds; 0 when there is none."""
    row = connection.execute(
        "SELECT bucket, max(last) FROM event_times WHERE source=? AND bucket=("
        " SELECT max(bucket) FROM event_times WHERE source=? AND bucket>=0)",
        (source, source),
    ).fetchone()
    if row is None or row[0] is None:
        return 0
    return int((row[0] << BUCKET_BITS) | row[1])
