"""Faults below the queue: flipped bits, a full disk, damaged files, two processes."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from relay.batch import StoredBatch
from relay.config.queue import SqliteQueueConfig
from relay.errors import QueueCorrupt, QueueError, QueueFull
from relay.model import DeadLetter, Position, Reason, Receipt, Response, Settlement
from relay.queue.base import DeadLetterFilter, Reader
from relay.queue.sqlite import SqliteQueue, tools
from tests.contract.queue.test_log import deliver_all, read_lines, whole
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, cef, lines

Opener = Callable[..., Awaitable[SqliteQueue]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relay.db"


@pytest.fixture
async def open_queue(path: Path) -> AsyncIterator[Opener]:
    opened: list[SqliteQueue] = []

    async def open_(role: str = "all") -> SqliteQueue:
        config = SqliteQueueConfig(type="sqlite", path=path, min_free_disk=0)
        queue = await SqliteQueue.open(
            config,
            clock=FakeClock(NOW),
            deduplicate={"eu": 86400.0},
            role=role,  # type: ignore[arg-type] # the tests' own strings
        )
        opened.append(queue)
        return queue

    yield open_
    for queue in opened:
        await queue.close()


def fat(number: int) -> bytes:
    """A line of 400 kB that gzip can only halve."""
    return cef(number) + random.Random(number).randbytes(200_000).hex().encode()


def edit(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, values)


def flip(path: Path, sequence: int) -> None:
    """Flip one bit in the middle of a stored batch."""
    with closing(sqlite3.connect(path)) as connection, connection:
        (payload,) = connection.execute(
            "SELECT payload FROM batches WHERE sequence=?", (sequence,)
        ).fetchone()
        flipped = bytearray(payload)
        flipped[len(flipped) // 2] ^= 1
        connection.execute("UPDATE batches SET payload=? WHERE sequence=?", (bytes(flipped), sequence))


@pytest.mark.parametrize("which", [1, 4, 7], ids=["first", "middle", "last"])
async def test_a_flipped_bit_costs_only_its_batch(open_queue: Opener, path: Path, which: int) -> None:
    """A batch that fails its checksum is quarantined and booked; the ones around it flow."""
    queue = await open_queue()
    await queue.attach("siem", "now")
    for n in range(3):
        await queue.append([batch(lines(3, first=3 * n))])
    await queue.close()
    flip(path, which)

    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    intact = [line for n, line in enumerate(lines(9)) if not which - 1 <= n < which + 2]

    assert intact == await deliver_all(reader)
    books = queue.books("siem")
    assert (books.owed, books.delivered, books.dead, books.backlog) == (9, 6, 3, 0)
    assert books.dead_by_reason == {Reason.CORRUPT: 3}
    assert (
        queue.stats().corrupt_batches,
        queue.stats().quarantined_bodies,
        queue.stats().batches,
    ) == (1, 1, 2)
    (letter,) = await queue.dead_letters(DeadLetterFilter())
    assert (letter.reason, letter.count, letter.event) == (Reason.CORRUPT, 3, None)
    await queue.append([batch(lines(1, first=50))])
    assert lines(1, first=50) == await deliver_all(reader)
    # What was lost is not taken for a duplicate when Konnect sends it again.
    assert await queue.append([batch(lines(9), at=NOW + 60)]) == Receipt(3, 6)


async def test_every_destination_books_a_corrupt_batch(open_queue: Opener, path: Path) -> None:
    """Whoever had the batch already is not touched; whoever lacked it has it as dead."""
    queue = await open_queue()
    (quick,) = await queue.attach("quick", "now")
    await queue.attach("slow", "now")
    await queue.append([batch(lines(3))])
    await deliver_all(quick)
    await queue.append([batch(lines(3, first=3))])
    await queue.close()
    flip(path, 1)

    queue = await open_queue()
    for name in ("quick", "slow"):
        await deliver_all((await queue.attach(name, "now"))[0])

    assert (queue.books("quick").delivered, queue.books("quick").dead) == (6, 0)
    assert (queue.books("slow").delivered, queue.books("slow").dead) == (3, 3)


async def test_a_wrong_count_is_noticed_like_a_wrong_payload(open_queue: Opener, path: Path) -> None:
    """The checksum covers the numbers too: a flipped count must not shift the events behind it."""
    queue = await open_queue()
    await queue.attach("siem", "now")
    await queue.append([batch(lines(3))])
    await queue.append([batch(lines(3, first=3))])
    await queue.close()
    edit(path, "UPDATE batches SET count=2 WHERE sequence=1")

    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")

    assert lines(3, first=3) == await deliver_all(reader)
    assert queue.books("siem").dead == 3


async def test_a_full_disk_fails_the_append_and_nothing_else(open_queue: Opener) -> None:
    """SQLITE_FULL refuses the requests of that commit; when there is room again, all goes on."""
    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    await queue.append([batch(lines(10))])
    connection = queue._writer._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    big = [batch([fat(100 + n)], at=NOW + n) for n in range(3)]

    outcomes = await asyncio.gather(*[queue.append([each]) for each in big], return_exceptions=True)

    assert [QueueFull] * 3 == [type(outcome) for outcome in outcomes]
    assert lines(10) == await read_lines(reader)
    connection.execute("PRAGMA max_page_count=1000000")
    assert Receipt(3, 0) == await queue.append([batch(lines(3, first=10))])
    assert lines(3, first=10) == await read_lines(reader)
    assert queue.books("siem").owed == 13


async def test_a_refused_batch_is_not_taken_for_a_duplicate_later(open_queue: Opener) -> None:
    """What failed to commit was not accepted: Konnect's retry of it must be."""
    queue = await open_queue()
    connection = queue._writer._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    one = batch([fat(0)])
    with pytest.raises(QueueFull):
        await queue.append([one])
    connection.execute("PRAGMA max_page_count=1000000")

    assert Receipt(1, 0) == await queue.append([one])
    assert Receipt(0, 1) == await queue.append([one])


async def test_progress_survives_a_disk_that_was_full_for_a_while(open_queue: Opener) -> None:
    """Books and watermark that could not be written are written when the disk takes them again."""
    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    await queue.append([batch(lines(5))])
    queue._writer._connection.execute("PRAGMA query_only=ON")
    await deliver_all(reader)
    with pytest.raises(QueueError):
        await queue._progress.store()
    queue._writer._connection.execute("PRAGMA query_only=OFF")
    await queue.close()

    queue = await open_queue()
    books = queue.books("siem")
    assert (books.owed, books.delivered, books.backlog) == (5, 5, 0)


async def test_a_file_that_is_no_queue_is_refused_with_a_hint(open_queue: Opener, path: Path) -> None:
    """Garbage in the queue's place is an error that names the file, and is left as it is."""
    path.write_bytes(b"this is not a database" * 1000)

    with pytest.raises(QueueCorrupt, match=str(path)):
        await open_queue()

    assert path.read_bytes().startswith(b"this is not")


async def test_a_queue_of_a_newer_relay_is_left_alone(open_queue: Opener, path: Path) -> None:
    """A schema version from the future is refused before anything is written."""
    await (await open_queue()).close()
    edit(path, "PRAGMA user_version=99")

    with pytest.raises(QueueError, match="99"):
        await open_queue()


async def test_a_queue_of_version_2_is_brought_up_to_date(open_queue: Opener, path: Path) -> None:
    """Its batches were sent by somebody, and are as intact as they were; the tools leave the file alone."""
    queue = await open_queue()
    await queue.append([batch(lines(3))])
    await queue.close()
    edit(path, "ALTER TABLE batches DROP COLUMN pulled")
    edit(path, "PRAGMA user_version=2")

    with pytest.raises(QueueError, match="schema version 2: start the relay once"):
        tools.verify(path)
    queue = await open_queue()
    await queue.append([batch([cef(9)], pulled=True)])
    assert [stored.pulled async for stored in queue.received(0, NOW + 1)] == [False, True]
    await queue.close()
    found = tools.verify(path)
    assert (found.ok, found.events) == (True, 4)


@pytest.mark.parametrize("pulled", [False, True])
async def test_a_flipped_origin_is_noticed(open_queue: Opener, path: Path, pulled: bool) -> None:
    """Else a broken bit would let forged events through."""
    queue = await open_queue()
    await queue.append([batch(lines(3), pulled=pulled)])
    await queue.close()
    edit(path, "UPDATE batches SET pulled = 1 - pulled")

    found = tools.verify(path)
    assert (found.ok, found.corrupt_batches) == (False, [1])


async def test_a_process_of_before_goes_on_beside_a_newer_one(open_queue: Opener, path: Path) -> None:
    """An intake that was started with version 2 stores rows without the column: they were sent."""
    queue = await open_queue()
    await queue.append([batch(lines(3))])
    columns = "received_at, source, count, formats, checksum, ordinals, payload"
    await queue.close()
    edit(path, "CREATE TABLE old AS SELECT * FROM batches")
    edit(path, "DELETE FROM batches")
    edit(path, f"INSERT INTO batches (sequence, {columns}) SELECT sequence, {columns} FROM old")

    assert tools.verify(path).ok


async def test_two_processes_share_one_file(open_queue: Opener) -> None:
    """One process accepts, another delivers: it sees what was appended and books it."""
    intake = await open_queue("ingest")
    await intake.attach("siem", "now")
    outgoing = await open_queue("deliver")
    (reader,) = await outgoing.attach("siem", "now")
    mark = await outgoing.append_wait(0)
    await intake.append([batch(lines(4))])

    async with asyncio.timeout(60):
        while not reader.unread():
            clock = outgoing._clock
            assert isinstance(clock, FakeClock)
            await clock.advance(0.05)
        await outgoing.append_wait(mark)

    assert lines(4) == await deliver_all(reader)
    await outgoing.close()
    await intake.close()
    books = (await open_queue()).books("siem")
    assert (books.owed, books.delivered, books.backlog) == (4, 4, 0)


async def test_verify_finds_what_is_wrong(open_queue: Opener, path: Path) -> None:
    """A sound queue is ok; a flipped bit and cooked books are named."""
    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    for n in range(2):
        await queue.append([batch(lines(3, first=3 * n))])
    await deliver_all(reader)
    await queue.close()
    report = tools.verify(path)
    assert (report.ok, report.batches, report.events) == (True, 2, 6)

    flip(path, 4)
    edit(path, "UPDATE destinations SET delivered=delivered+1")
    report = tools.verify(path)

    assert (report.ok, report.corrupt_batches) == (False, [4])
    assert "siem: owes 6 events" in report.books[0]


async def test_inspect_shows_books_and_readers(open_queue: Opener, path: Path) -> None:
    """Inspect tells what is stored without changing it."""
    queue = await open_queue()
    await queue.attach("siem", "now")
    await queue.append([batch(lines(3))])
    await queue.close()

    document = tools.inspect(path)

    assert (document["batches"], document["events"], document["next_event"]) == (1, 3, 4)
    assert (document["destinations"][0]["name"], document["destinations"][0]["owed"]) == ("siem", 3)
    assert document["readers"][0]["backlog"] == 3


async def test_the_tools_refuse_a_running_relay(open_queue: Opener, path: Path) -> None:
    """Nothing is inspected or repaired while a relay has the file open."""
    await open_queue()
    for tool in (tools.inspect, tools.verify, tools.repair):
        with pytest.raises(QueueError, match="another relay"):
            tool(path)


async def test_repair_saves_what_is_readable(open_queue: Opener, path: Path) -> None:
    """After damage to the file's pages, repair keeps books, dead letters and all readable batches."""
    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    for n in range(300):
        await queue.append([batch(lines(20, first=20 * n))])
    await reader.read(1)
    await queue.close()
    content = bytearray(path.read_bytes())
    for page in range(40, 44):  # a few pages in the midst of the log
        content[page * 4096 : (page + 1) * 4096] = bytes(4096)
    path.write_bytes(content)
    assert not tools.verify(path).ok

    report = tools.repair(path)

    assert 200 < report.batches_saved < 300
    assert Path(report.kept_as).exists()
    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    delivered = await deliver_all(reader)
    assert 20 * report.batches_saved == len(delivered)
    assert set(delivered) <= set(lines(6000))
    books = queue.books("siem")
    assert (6000, len(delivered), 6000 - len(delivered), 0) == (
        books.owed,
        books.delivered,
        books.dead,
        books.backlog,
    )
    await queue.close()
    assert tools.verify(path).ok


async def test_repair_of_an_unreadable_file_starts_anew_and_keeps_it(open_queue: Opener, path: Path) -> None:
    """Where nothing can be read, a new queue takes the place and the old file is kept."""
    path.write_bytes(b"garbage" * 5000)

    report = tools.repair(path)

    assert report.batches_saved == 0
    assert not list(path.parent.glob("*.repaired*"))
    assert Path(report.kept_as).read_bytes().startswith(b"garbage")
    await open_queue()


async def test_a_queue_that_this_user_cannot_open_is_not_replaced(open_queue: Opener, path: Path) -> None:
    """What keeps us from reading is not in the file: nothing is moved or left, and no repair advised."""
    queue = await open_queue()
    await queue.append([batch(lines(3))])
    await queue.close()
    content = path.read_bytes()
    # SQLite answers as it does where rights are missing, which root's never are.
    path.with_name(f"{path.name}-wal").mkdir()

    for tool in (tools.inspect, tools.verify, tools.repair):
        with pytest.raises(QueueError, match=r"relay.db: unable to open"):
            tool(path)

    assert path.read_bytes() == content
    assert not [*path.parent.glob("*.damaged*"), *path.parent.glob("*.repaired*")]


async def refuse_all(queue: SqliteQueue, name: str) -> None:
    """Read one batch and dead-letter all of it."""
    reader = queue.readers(name)[0]
    ((stored, _),) = await reader.read(1)
    await bury_batch(reader, stored)


async def bury_batch(reader: Reader, stored: StoredBatch) -> None:
    letters = tuple(
        DeadLetter(Position(stored.sequence, i), stored.event(i), Reason.REJECTED, Response("refused", 400))
        for i in range(stored.count)
    )
    end = Position(stored.sequence, stored.count)
    await reader.settle(Settlement(Position(stored.sequence), end, dead=letters))


async def test_a_destination_added_after_another_was_forgotten_is_stored(open_queue: Opener) -> None:
    """What belongs to a new destination is not taken for the forgotten one's."""
    queue = await open_queue()
    await queue.attach("old", "now")
    await queue.forget("old")
    await queue.attach("new", "now")
    await queue.append([batch(lines(3))])
    await refuse_all(queue, "new")
    await queue.close()

    queue = await open_queue()
    assert (queue.books("new").dead, queue.books("new").backlog) == (3, 0)
    assert len(await queue.dead_letters(DeadLetterFilter(destination="new"))) == 3


async def test_dead_letters_survive_a_cancelled_worker_on_a_full_disk(open_queue: Opener) -> None:
    """A request cancelled while its dead letters cannot be stored loses none of them."""
    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    await queue.append([batch(lines(3))])
    ((stored, _),) = await reader.read(1)
    queue._writer._connection.execute("PRAGMA query_only=ON")
    settling = asyncio.ensure_future(bury_batch(reader, stored))
    for _ in range(5):  # turns of the event loop: until its write is with the writer
        await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await queue._progress.close()
    queue._writer._connection.execute("PRAGMA query_only=OFF")
    await queue.close()

    queue = await open_queue()
    assert queue.books("siem").dead == len(await queue.dead_letters(DeadLetterFilter())) == 3


async def test_letters_marked_while_a_redrive_ends_are_not_stranded(open_queue: Opener) -> None:
    """Redriving once more at the moment the last redrive finishes sends every letter."""
    queue = await open_queue()
    await queue.attach("siem", "now")
    await queue.append([batch(lines(2))])
    await refuse_all(queue, "siem")
    first, second = await queue.dead_letters(DeadLetterFilter())
    await queue.redrive(DeadLetterFilter(ids=(first.id,)))
    redrive = queue.readers("siem")[-1]
    for stored, offset in await redrive.read(10):
        await redrive.settle(whole(stored, offset))

    await asyncio.gather(redrive.finish(), queue.redrive(DeadLetterFilter(ids=(second.id,))))

    redrive = queue.readers("siem")[-1]
    found = [stored for stored, _ in await redrive.read(10)]
    assert [stored.sequence for stored in found] == [second.id]
    await redrive.settle(whole(found[0]))
    await redrive.finish()
    assert (queue.books("siem").delivered, queue.books("siem").dead) == (2, 0)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE batches SET formats=CAST(x'ff6566' AS TEXT) WHERE sequence=4",
        "UPDATE batches SET count='x' WHERE sequence=4",
        "UPDATE batches SET count=count+1099511627776 WHERE sequence=4",
        "UPDATE batches SET payload=7 WHERE sequence=4",
        "UPDATE batches SET received_at='soon' WHERE sequence=4",
        "UPDATE batches SET source=99 WHERE sequence=4",
    ],
)
@pytest.mark.parametrize("more_behind", [True, False])
async def test_a_damaged_column_costs_only_its_batch(
    open_queue: Opener, path: Path, damage: str, more_behind: bool
) -> None:
    """Whatever column a bit flips in, reading goes on behind it and the books stay sane."""
    queue = await open_queue()
    await queue.attach("siem", "now")
    for n in range(3 if more_behind else 2):
        await queue.append([batch(lines(3, first=3 * n))])
    await queue.close()
    edit(path, damage)

    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    events = lines(9 if more_behind else 6)
    assert await deliver_all(reader) == [line for n, line in enumerate(events) if not 3 <= n < 6]
    books = queue.books("siem")
    assert books.owed == books.delivered + books.dead < 20
    assert books.dead == 3 or not more_behind
    await queue.append([batch(lines(1, first=50))])
    assert await deliver_all(reader) == lines(1, first=50)


async def test_nothing_is_purged_that_a_crash_would_need_again(open_queue: Opener, path: Path) -> None:
    """Events settled only in memory stay on disk until that is stored, even when they are old."""
    queue = await open_queue()
    (reader,) = await queue.attach("siem", "now")
    for n in range(5):
        await queue.append([batch(lines(3, first=3 * n))])
    await deliver_all(reader)
    clock = queue._clock
    assert isinstance(clock, FakeClock)
    clock.jump(30 * 86400)
    await queue._space.give_back()
    crashed = path.with_name("crashed.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    await queue.close()

    with closing(sqlite3.connect(crashed)) as connection:
        books = connection.execute("SELECT delivered, dead FROM destinations").fetchone()
        watermark = connection.execute("SELECT watermark FROM readers").fetchone()[0]
        oldest = connection.execute("SELECT min(sequence) FROM batches").fetchone()[0]
    assert (books, watermark, oldest) == ((15, 0), 16, None)


async def test_ids_of_deleted_events_give_way_before_anything_is_refused(tmp_path: Path) -> None:
    """Remembered ids may not fill a queue that has nothing to deliver."""
    config = SqliteQueueConfig(
        type="sqlite", path=tmp_path / "relay.db", min_free_disk=0, max_bytes=1 << 20, retention=0.0
    )
    clock = FakeClock(NOW)
    queue = await SqliteQueue.open(config, clock=clock, deduplicate={"eu": 86400.0})
    (reader,) = await queue.attach("siem", "now")
    for n in range(120):
        await queue.append([batch(lines(400, first=400 * n))])
        await deliver_all(reader)
        await queue._space.give_back()

    assert queue.stats().accepting
    assert queue.books("siem").delivered == 48_000
    await queue.close()


async def test_a_body_of_very_many_odd_lines_is_quick_and_its_retry_is_known(open_queue: Opener) -> None:
    """Lines without a time cost no look-up each where there are very many of them."""
    queue = await open_queue()
    odd = [b"%d" % n for n in range(60_000)]
    statements: list[str] = []
    queue._writer._connection.set_trace_callback(statements.append)

    first = await queue.append([batch(odd)])
    again = await queue.append([batch(odd, at=NOW + 5)])

    assert (first, again) == (Receipt(60_000, 0), Receipt(0, 60_000))
    assert len(statements) < 50
