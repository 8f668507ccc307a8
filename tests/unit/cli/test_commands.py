"""The commands that need no running relay."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relay import __version__
from relay.cli.main import main
from relay.clock import SystemClock
from relay.config.queue import SqliteQueueConfig
from relay.queue.sqlite import SqliteQueue
from tests.fakes.events import NOW, batch, lines

CONFIG = """
admin: {{port: 1}}
sources: [{{name: eu, authorization: Bearer let-me-in}}]
queue: {{path: {folder}/relay.db, min_free_disk: 0}}
destinations:
  - {{name: audit, type: file, path: {folder}/out/audit.ndjson}}
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    path = tmp_path / "relay.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.fixture
def command(config: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command with the configuration; exit status, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--config", str(config)])
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def test_the_version_is_printed_by_the_module_as_by_the_script() -> None:
    """`python -m relay` is the same program."""
    done = subprocess.run(
        [sys.executable, "-m", "relay", "--version"], capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, f"konnect-relay {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [("gaps", "list"), ("konnect", "recover", "--region", "us", "--from", "-1h", "--by", "pull")]
)
def test_without_any_configuration_it_is_said_how_to_reach_the_relay(
    arguments: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator's own machine has none, and that is no mistake in one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELAY_CONFIG", raising=False)
    monkeypatch.setenv("KONNECT_TOKEN", "kpat_x")
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))

    assert exit_.value.code == 2
    assert "--admin-url" in capsys.readouterr().err


def test_an_invalid_configuration_exits_with_2(command: Command, config: Path) -> None:
    """Every problem on a line of its own, with its path."""
    config.write_text(config.read_text().replace("port: 1", "port: x, prot: 2") + "colour: red\n")

    status, out, err = command("check")

    assert (status, out) == (2, "")
    assert {"konnect-relay: admin.prot", "konnect-relay: colour"} <= {
        line.partition(": ")[0] + ": " + line.split(": ")[1] for line in err.splitlines()
    }
    assert "let-me-in" not in err


def test_a_missing_configuration_exits_with_2(command: Command, config: Path) -> None:
    """For the commands that only look up the admin address too."""
    config.unlink()

    for arguments in (("check",), ("status",), ("run",), ("queue", "inspect")):
        status, _, err = command(*arguments)
        assert status == 2
        assert str(config) in err


def test_a_relay_that_does_not_run_is_a_sentence(command: Command) -> None:
    """The address is the configured one."""
    status, _, err = command("status")

    assert status == 1
    assert "No relay answers at http://127.0.0.1:1 " in err


def test_a_valid_configuration_is_said_to_be(command: Command) -> None:
    """With the warnings, where there are some."""
    status, out, _ = command("check", "--json")

    assert (status, json.loads(out)) == (0, {"valid": True, "warnings": [], "probes": []})
    assert command("check")[1].endswith("relay.yaml is valid.\n")


def test_probing_tells_of_every_destination(command: Command, config: Path, tmp_path: Path) -> None:
    """One that cannot be reached makes the command fail."""
    assert command("check", "--probe")[0] == 0
    config.write_text(
        config.read_text() + "  - {name: gone, type: http, url: 'http://127.0.0.1:1/', timeout: 2s}\n"
    )

    status, out, _ = command("check", "--probe", "--json")

    assert status == 1
    assert [(it["destination"], it["ok"]) for it in json.loads(out)["probes"]] == [
        ("audit", True),
        ("gone", False),
    ]


@pytest.mark.parametrize(
    "settings",
    [
        "type: http, url: 'https://localhost:1/'",
        "type: syslog, address: 'localhost:1'",
        "type: s3, bucket: audit, region: eu-west-1",
    ],
)
def test_a_certificate_that_cannot_be_read_fails_its_own_destination(
    command: Command, config: Path, settings: str
) -> None:
    """The others are asked all the same, and the report is printed in either form."""
    tls = "tls: {ca_file: /nowhere.pem}"
    config.write_text(f"{config.read_text()}  - {{name: broken, {settings}, {tls}}}\n")

    status, out, err = command("check", "--probe")
    assert (status, err) == (1, "")
    assert out.splitlines()[1:] == [
        "ok     audit: the file can be appended to",
        "FAILED broken: tls.ca_file: /nowhere.pem cannot be used: No such file or directory",
    ]

    status, out, _ = command("check", "--probe", "--json")
    assert status == 1
    assert [it["ok"] for it in json.loads(out)["probes"]] == [True, False]


def test_a_certificate_that_cannot_be_read_keeps_the_relay_from_starting(
    command: Command, config: Path
) -> None:
    """It exits with 2 and names destination and file."""
    config.write_text(
        f"{config.read_text()}"
        "  - {name: broken, type: http, url: 'https://localhost:1/', tls: {ca_file: /nowhere.pem}}\n"
    )

    status, _, err = command("run")

    assert status == 2
    assert "konnect-relay: destination broken: tls.ca_file: /nowhere.pem cannot be used: No such file" in err


def test_a_queue_that_is_not_there_is_a_sentence(command: Command) -> None:
    """Looking must not create it."""
    for name in (("inspect",), ("verify",), ("repair", "--yes")):
        status, out, err = command("queue", *name)
        assert (status, out) == (1, "")
        assert "relay.db" in err
    assert not list(Path().glob("relay.db"))


async def test_a_stopped_queue_is_inspected_verified_and_repaired(command: Command, tmp_path: Path) -> None:
    """A locked one is refused."""
    config = SqliteQueueConfig(path=tmp_path / "relay.db", min_free_disk=0)
    queue = await SqliteQueue.open(config, clock=SystemClock(), deduplicate={"eu": None})
    await queue.attach("audit", "now")
    await queue.append([batch(lines(7), source="eu", at=NOW)])
    assert command("queue", "inspect")[0] == 1
    await queue.close()

    inspected = json.loads(command("queue", "inspect", "--json")[1])
    verified = command("queue", "verify", "--json")
    people = command("queue", "inspect")
    repaired = json.loads(command("queue", "repair", "--yes", "--json")[1])

    assert (inspected["events"], inspected["oldest_received_at"]) == (7, "2026-11-18T11:06:40.000Z")
    assert (verified[0], json.loads(verified[1])["ok"]) == (0, True)
    assert "audit" in people[1]
    assert repaired["batches_saved"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--admin-url", "ftp://relay"), "--admin-url: 'ftp://relay' is no admin URL"),
        (("--admin-url", "http://relay:http"), "--admin-url: 'http://relay:http' is no admin URL"),
        (
            ("--admin-url", "http://127.0.0.1:1", "--admin-token", "kaputt™"),
            "--admin-token: holds characters",
        ),
    ],
)
def test_an_address_that_is_none_exits_with_2(
    arguments: tuple[str, ...], told: str, command: Command
) -> None:
    """It is wrong usage, and nothing was asked."""
    status, out, err = command("status", *arguments)

    assert (status, out) == (2, "")
    assert err.startswith(f"konnect-relay: {told}")
    assert "kaputt" not in err
