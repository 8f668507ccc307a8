"""What can go wrong with the files while a SQLite queue is moved."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from relay.errors import QueueCorrupt, QueueError
from relay.model import Reason
from relay.queue.base import DeadLetterFilter
from relay.queue.belongings import Part
from relay.queue.moving import Moved, MoveFailed, Step, Watch, move
from relay.queue.sqlite.moving import open_store, open_target
from tests.contract.moving.conftest import unwatched
from tests.contract.moving.furniture import attached
from tests.contract.moving.houses import SqliteHouse
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines

BATCHES = 3


@pytest.fixture
async def house(tmp_path: Path) -> SqliteHouse:
    """Three batches of ten events, owed to one destination."""
    house = SqliteHouse(tmp_path / "relay.db")
    async with house.queue(FakeClock(NOW)) as queue:
        await attached(queue, "siem")
        for first in range(0, 10 * BATCHES, 10):
            await queue.append([batch(lines(10, first=first))])
    return house


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new.db"


@pytest.fixture
def moving(house: SqliteHouse, target: Path) -> Callable[..., Awaitable[Moved]]:
    async def run(watch: Watch = unwatched) -> Moved:
        with open_store(house.path) as store, open_target(target) as new:
            return await move(store, new, watch)

    return run


def change(path: Path, sql: str) -> None:
    """Behind everybody's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


Move = Callable[..., Awaitable[Moved]]


@pytest.mark.parametrize("broken", range(BATCHES))
async def test_a_batch_that_fails_its_checksum_is_missed_by_those_it_is_owed_to(
    house: SqliteHouse, target: Path, moving: Move, broken: int
) -> None:
    """It is left behind and told of; its events become dead letters as if the relay had found it."""
    change(house.path, f"UPDATE batches SET payload = x'00' WHERE sequence = {1 + 10 * broken}")

    moved = await moving()

    assert (moved.missing, moved.events, moved.items[Part.BATCHES]) == (10, 20, 2)
    async with SqliteHouse(target).queue(FakeClock(NOW)) as queue:
        (reader,) = await attached(queue, "siem")
        assert reader.backlog().events == 30
        while reader.unread():
            await reader.read(100)
        reader.rewind()
        letters = await queue.dead_letters(DeadLetterFilter())
        books = queue.books("siem")
        lost = [(letter.reason, letter.position.sequence, letter.count) for letter in letters]
        # What is lost behind others enters the books when the others are settled.
        assert lost == ([(Reason.CORRUPT, 1, 10)] if broken == 0 else [])
        assert (books.owed, books.dead + books.backlog) == (30, 30)


async def test_a_relay_finds_no_queue_before_the_move_is_through(
    house: SqliteHouse, target: Path, moving: Move
) -> None:
    """Were it started on half a queue, it would never know of the other half."""
    seen: list[bool] = []

    await moving(lambda *_: seen.append(target.exists()))

    assert (any(seen), target.exists()) == (False, True)
    assert sorted(each.name for each in target.parent.iterdir() if "moving" in each.name) == []


async def test_the_new_file_is_nobody_elses_business(house: SqliteHouse, target: Path, moving: Move) -> None:
    """The audit trail keeps the permissions it had."""
    await moving()

    assert target.stat().st_mode & 0o777 == house.path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE destinations SET delivered = 1",
        "DELETE FROM batches WHERE sequence = 11",
        "UPDATE batches SET received_at = 1",
        "INSERT INTO quarantine (created_at, source, cause, body) VALUES (1, 'eu', 'x', x'00')",
    ],
)
async def test_what_did_not_arrive_as_it_was_sent_is_noticed(
    house: SqliteHouse, target: Path, moving: Move, damage: str
) -> None:
    """A target that differs in anything gets no queue's name."""
    done = f"{target}.moving"

    def watch(step: Step, part: Part, *_: int) -> None:
        if (step, part) == (Step.COPY, Part.QUARANTINED):
            change(Path(done), damage)

    with pytest.raises(MoveFailed, match="delete the target"):
        await moving(watch)

    assert not target.exists()


async def test_a_file_of_another_version_is_left_alone(
    house: SqliteHouse, target: Path, moving: Move
) -> None:
    """An old file is brought up to date by its own relay, not by a move that promises to change nothing."""
    change(house.path, "PRAGMA user_version = 0")

    with pytest.raises(QueueError, match="schema version 0"):
        await moving()


async def test_a_file_that_is_no_queue_is_told_as_such(
    house: SqliteHouse, target: Path, moving: Move
) -> None:
    """A mistyped target is not written over."""
    target.write_text("meeting notes " * 1000)

    with pytest.raises(QueueCorrupt):
        await moving()

    assert target.read_text().startswith("meeting notes")
