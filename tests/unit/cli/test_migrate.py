"""`queue migrate` as an operator and as a script see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.cli.main import main
from tests.contract.moving.furniture import attached
from tests.contract.moving.houses import SqliteHouse
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def old(tmp_path: Path) -> SqliteHouse:
    """A queue with three events for one destination."""

    async def furnish() -> None:
        async with house.queue(FakeClock(NOW)) as queue:
            await attached(queue, "siem")
            await queue.append([batch(lines(3))])

    house = SqliteHouse(tmp_path / "old.db")
    asyncio.run(furnish())
    return house


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Move from one place to another; exit status, output, errors."""

    def run(origin: str, to: str, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["queue", "migrate", "--from", origin, "--to", to, *arguments])
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def test_a_script_gets_one_document(command: Command, old: SqliteHouse, tmp_path: Path) -> None:
    """With --json there is nothing on standard output but the document, and no bar anywhere."""
    place = f"sqlite:{tmp_path / 'new.db'}"

    status, out, err = command(old.place, place, "--json")

    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "from": old.place,
        "to": place,
        "nothing_to_do": False,
        "resumed": False,
        "next_event": 4,
        "events": 3,
        "missing_events": 0,
        "batches": 1,
        "remembered": 0,
        "dead_letters": 0,
        "quarantined": 0,
        "destinations": ["siem"],
        "sources": ["eu", "us"],
        "gaps": 0,
    }


def test_a_person_gets_sentences(command: Command, old: SqliteHouse, tmp_path: Path) -> None:
    """What was moved, and that the old queue must not be used again; a second time, that all is done."""
    place = f"sqlite:{tmp_path / 'new.db'}"

    status, out, err = command(old.place, place)
    _, again, _ = command(old.place, place)

    assert status == 0
    assert "Everything was read back and compared." in out
    assert "never start a relay on it again" in out
    assert "copy batches" in err
    assert again == f"{place} was moved from {old.place} already: nothing to do.\n"


def test_missing_events_are_told_of(command: Command, old: SqliteHouse, tmp_path: Path) -> None:
    """A batch that fails its checksum does not stop the move, and is not passed over in silence."""
    damaged = old.path.read_bytes()
    at = damaged.index(b"\x1f\x8b\x08")
    old.path.write_bytes(damaged[: at + 9] + b"\xff" + damaged[at + 10 :])

    status, out, _ = command(old.place, f"sqlite:{tmp_path / 'new.db'}")

    assert status == 0
    assert "warning: 3 events were not moved" in out


def test_a_refusal_is_one_sentence(command: Command, old: SqliteHouse) -> None:
    """Moving a queue onto itself is refused like moving into any other place that is taken."""
    status, out, err = command(old.place, old.place)

    assert (status, out) == (1, "")
    assert err.startswith("konnect-relay: another relay (process ")


@pytest.mark.parametrize("place", ["old.db", "sqlite:", "redis://here", ""])
def test_a_place_that_is_none_is_wrong_usage(command: Command, tmp_path: Path, place: str) -> None:
    """The sentence says how a place is written."""
    status, out, err = command(place, f"sqlite:{tmp_path / 'new.db'}")

    assert (status, out) == (2, "")
    assert "sqlite:PATH" in err
