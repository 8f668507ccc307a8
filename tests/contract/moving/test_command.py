"""`queue migrate` with a queue on NATS: how its place is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay.cli.main import main
from tests.contract.moving.furniture import attached
from tests.contract.moving.houses import JetStreamHouse, SqliteHouse
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, lines
from tests.fakes.nats import NatsServer

Command = Callable[..., tuple[int, str, str]]

CONFIG = """
sources: [{{name: eu, authorization: Bearer let-me-in, deduplicate: 2d}}]
queue: {{type: jetstream, servers: ["{url}"], stream: {stream}, replicas: 1, max_bytes: 256MiB}}
destinations: [{{name: audit, type: file, path: /tmp/audit.ndjson}}]
"""


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
def new(nats_server: NatsServer) -> Iterator[JetStreamHouse]:
    """Not async, as the command brings an event loop of its own."""
    house = JetStreamHouse(nats_server.url, "command")
    yield house
    for stream in (house.stream, f"KV_{house.stream}-state"):
        asyncio.run(nats_server.api(f"STREAM.DELETE.{stream}"))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Move from one place to another; exit status, output, errors."""

    def run(origin: str, to: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["queue", "migrate", "--from", origin, "--to", to, "--json"])
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def config(tmp_path: Path, new: JetStreamHouse) -> Path:
    path = tmp_path / "relay.yaml"
    path.write_text(CONFIG.format(url=new.config.servers[0], stream=new.stream))
    return path


def test_there_and_back(
    command: Command, old: SqliteHouse, new: JetStreamHouse, config: Path, tmp_path: Path
) -> None:
    """The same streams by a configuration file and by a URL."""
    status, out, err = command(old.place, f"jetstream:{config}")
    assert (status, err) == (0, "")
    assert json.loads(out)["events"] == 3

    status, out, err = command(new.place, f"sqlite:{tmp_path / 'back.db'}")

    assert (status, err) == (0, "")
    assert json.loads(out)["events"] == 3
    assert json.loads(out)["destinations"] == ["siem"]


def test_what_is_not_there_is_told(command: Command, new: JetStreamHouse, tmp_path: Path) -> None:
    """A mistyped stream is no empty queue."""
    status, out, err = command(new.place, f"sqlite:{tmp_path / 'new.db'}")

    assert (status, out) == (1, "")
    assert "there is no queue on NATS called command" in err


def test_a_server_that_is_away_is_told(
    command: Command, old: SqliteHouse, config: Path, new: JetStreamHouse
) -> None:
    """In one sentence, after the time the configuration gives it."""
    text = config.read_text().replace(new.config.servers[0], "nats://127.0.0.1:1")
    config.write_text(text.replace("replicas: 1", "replicas: 1, connect_timeout: 500ms"))

    status, out, err = command(old.place, f"jetstream:{config}")

    assert (status, out) == (1, "")
    assert "cannot connect to NATS at nats://127.0.0.1:1" in err


def test_a_configuration_of_another_queue_is_refused(
    command: Command, old: SqliteHouse, tmp_path: Path
) -> None:
    """Nobody is to guess which of the two was meant."""
    config = tmp_path / "relay.yaml"
    config.write_text(CONFIG.format(url="nats://127.0.0.1:1", stream="x"))
    config.write_text("\n".join(line for line in config.read_text().split("\n") if "queue:" not in line))

    status, out, err = command(old.place, f"jetstream:{config}")

    assert (status, out) == (1, "")
    assert "SQLite queue" in err


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nats://127.0.0.1:1?password=hush", "password cannot be given in a URL"),
        ("nats://me:hush@127.0.0.1:1", "credentials do not belong into a URL"),
        ("nats://127.0.0.1:1?replicas=2", "1, 3 or 5"),
        ("nats://127.0.0.1:1?max_bytes=much", "max_bytes"),
    ],
)
def test_a_url_that_cannot_be_used_is_wrong_usage(
    command: Command, old: SqliteHouse, url: str, told: str
) -> None:
    """The sentence says what to write instead, and repeats no secret."""
    status, out, err = command(old.place, f"jetstream:{url}")

    assert (status, out) == (2, "")
    assert told in " ".join(err.replace("│", " ").split())
    assert "hush" not in err
