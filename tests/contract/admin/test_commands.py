"""The commands that talk to a running relay, against a real admin listener."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from relay.admin.control import KonnectAccess
from relay.cli.main import main
from relay.cli.status import headline
from relay.destinations.base import ProbeReport
from relay.model import Hold, HoldReason, Position, Replica, Settlement, Sighting
from tests.contract.admin.conftest import TOKEN, Admined
from tests.fakes.events import NOW, cef

Command = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]


@pytest.fixture
def command(admin: Admined, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command against the listener; exit status, output, errors."""
    monkeypatch.setenv("RELAY_ADMIN_TOKEN", TOKEN)
    url = admin.url

    def run(arguments: tuple[str, ...]) -> int:
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--admin-url", url])
        return int(exit_.value.code or 0)

    async def run_beside(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(run, arguments)
        return status, *capsys.readouterr()

    return run_beside


async def document(command: Command, *arguments: str) -> Any:
    """The one JSON document a command prints with --json."""
    status, out, err = await command(*arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


async def test_no_relay_is_a_sentence(command: Command, admin: Admined) -> None:
    """Exit status 1, what was tried, and no stack trace."""
    await admin.stop_listening()

    status, out, err = await command("status", "--json")

    assert (status, out) == (1, "")
    assert err.startswith("konnect-relay: No relay answers at http://127.0.0.1:")
    assert err.count("\n") == 1


async def test_a_wrong_token_is_a_sentence(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what was refused, not what was sent."""
    monkeypatch.setenv("RELAY_ADMIN_TOKEN", "wrong-token")

    status, _, err = await command("status")

    assert status == 1
    assert "does not accept the admin token" in err
    assert "wrong-token" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead-letters", "redrive"),
        ("dead-letters", "discard", "--all", "--destination", "sumo"),
        ("dead-letters", "list", "--since", "yesterday"),
        ("dead-letters", "list", "--reason", "tired"),
        ("replay", "--destination", "sumo"),
        ("replay", "--destination", "sumo", "--from", "-2x"),
        ("gaps", "close"),
        ("gaps", "close", "1", "--all"),
        ("gaps", "close", "0"),
        ("frobnicate",),
    ],
)
async def test_wrong_usage_exits_with_2(command: Command, arguments: tuple[str, ...]) -> None:
    """Nothing is asked of the relay."""
    status, out, err = await command(*arguments)

    assert (status, out) == (2, "")
    assert "Traceback" not in err


async def test_an_unknown_destination_is_a_sentence(command: Command) -> None:
    """What the relay says is what is printed."""
    assert await command("destinations", "hold", "nobody") == (
        1,
        "",
        "konnect-relay: There is no destination 'nobody'.\n",
    )


async def test_status_for_people(command: Command, admin: Admined) -> None:
    """One screen with the queue, every destination and every source."""
    await admin.accept(1234)
    await admin.queue.set_hold("splunk", Hold(HoldReason.MISCONFIGURED, NOW, "HTTP 401 [token]"))

    status, out, err = await command("status")

    assert (status, err) == (0, "")
    assert "queue: accepting" in out
    splunk = next(line for line in out.splitlines() if line.startswith("splunk"))
    assert "held (misconfigured)" in splunk
    assert "1,234" in splunk
    assert next(line for line in out.splitlines() if line.startswith("eu")).split()[1] == "/audit-logs/eu"


@pytest.mark.parametrize(
    ("queue", "line"),
    [
        ({"disk_free_bytes": None}, "queue: accepting, 0 B of 10.0 GiB, 0 events"),
        ({"accepting": False}, "queue: REFUSING for lack of room, 0 B of"),
        ({"accepting": False, "trouble": "NATS is away"}, "queue: REFUSING: NATS is away, 0 B of"),
    ],
)
async def test_status_says_why_nothing_is_accepted(
    admin: Admined, queue: dict[str, object], line: str
) -> None:
    """In the first lines, and nothing of a disk that is another machine's."""
    document = await admin.get("/api/v1/status")
    document["queue"] |= {"bytes": 0, "max_bytes": 10 << 30, **queue}

    assert line in headline(document)


@pytest.mark.parametrize(
    ("corrupt", "line"),
    [
        (0, "quarantine: 2 bodies or batches that could not be read\n"),
        (
            1,
            "quarantine: 2 bodies or batches that could not be read, 1 found corrupt since the start\n",
        ),
    ],
)
async def test_status_counts_what_is_in_quarantine_once(admin: Admined, corrupt: int, line: str) -> None:
    """A corrupt batch is no body that could not be decoded; after a restart both are only known together."""
    document = await admin.get("/api/v1/status")
    document["queue"] |= {"corrupt_batches": corrupt, "quarantined_bodies": 2}

    assert line in headline(document) + "\n"


async def test_status_tells_of_several_replicas(command: Command, admin: Admined) -> None:
    """Who they are, who delivers, and which of them is configured otherwise."""
    assert "REPLICA" not in (await command("status"))[1]
    del admin.control.responses["sumo"]
    admin.control.others = [
        Replica("c3d4", "0.1", "deliver", NOW, "facade", destinations={"sumo": Sighting()})
    ]

    _, out, _ = await command("status")

    lines = [line.split() for line in out.splitlines()]
    assert next(line for line in lines if line[:1] == ["a1b2"])[-1] == "splunk"
    other = next(line for line in lines if line[:1] == ["c3d4"])
    assert (other[-2:], other[2]) == (["DIFFERS", "sumo"], "deliver")


async def test_status_for_scripts(command: Command, admin: Admined) -> None:
    """The same document as the API's."""
    status = await document(command, "status")

    assert status == await admin.get("/api/v1/status")


async def test_dead_letters_for_people(command: Command, admin: Admined) -> None:
    """An empty list says so; a full one is a table and tells of more."""
    assert (await command("dead-letters", "list"))[1] == "No dead letters.\n"
    await admin.accept(5)
    await admin.settle("sumo", delivered=0, dead=5)

    _, out, _ = await command("dead-letters", "list", "--limit", "3")

    assert out.count("It says no.") == 3
    assert "There are more than 3" in out


async def test_dead_letters_for_scripts(command: Command, admin: Admined) -> None:
    """A list is an array, also when it is empty."""
    assert await document(command, "dead-letters", "list") == []
    await admin.accept(2)
    await admin.settle("sumo", delivered=0, dead=2)

    letters = await document(command, "dead-letters", "list", "--destination", "sumo", "--since", "-2000d")

    assert [it["reason"] for it in letters] == ["rejected", "rejected"]


async def test_a_dead_letter_is_shown(command: Command, admin: Admined) -> None:
    """With the event and the answer."""
    await admin.accept(1)
    await admin.settle("sumo", delivered=0, dead=1)
    (letter,) = await document(command, "dead-letters", "list")

    _, out, _ = await command("dead-letters", "show", str(letter["id"]))

    assert cef(0).decode() in out
    assert '{"error":"no"}' in out


async def test_dead_letters_are_redriven_and_discarded(command: Command, admin: Admined) -> None:
    """Chosen by id, or all of them."""
    await admin.accept(3)
    await admin.settle("sumo", delivered=0, dead=3)
    first = (await document(command, "dead-letters", "list"))[0]["id"]

    assert await document(command, "dead-letters", "discard", "--id", str(first), "--yes") == {"events": 1}
    _, out, _ = await command("dead-letters", "redrive", "--all")

    assert out == "2 events given to their destinations again.\n"


async def test_discarding_wants_to_be_confirmed(
    command: Command, admin: Admined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal and without --yes nothing is deleted."""
    await admin.accept(1)
    await admin.settle("sumo", delivered=0, dead=1)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    status, out, _ = await command("dead-letters", "discard", "--all")

    assert (status, out.strip()) == (1, "")
    assert len((await admin.get("/api/v1/dead-letters"))["data"]) == 1


async def test_gaps_are_listed_and_closed(command: Command, admin: Admined) -> None:
    """Status says how; what is closed is out of the list, and in it where that is asked for."""
    assert (await command("gaps", "list"))[1] == "No open gaps.\n"
    await admin.queue.open_gap("eu", NOW - 3600, NOW - 3580, "downtime", refusals=0)

    assert "konnect-relay gaps close 1\n" in (await command("status"))[1]
    assert "replay it by hand" in (await command("gaps", "list"))[1]
    status, out, _ = await command("gaps", "close", "1", "--detail", "replayed it")

    assert (status, out.startswith("Gap 1 (eu, "), out.endswith(" is closed.\n")) == (0, True, True)
    assert await document(command, "gaps", "list") == []
    assert [it["state"] for it in await document(command, "gaps", "list", "--closed")] == ["closed"]


async def test_a_gap_that_the_relay_closes_is_left_to_it(command: Command, admin: Admined) -> None:
    """Also where nothing is known of that yet, or never: in a process that only delivers."""
    admin.control.access = KonnectAccess(recovers=True, webhooks={"eu": None})
    await admin.queue.open_gap("eu", NOW - 3600, NOW - 3580, "downtime", refusals=0)

    for arguments in (("status",), ("gaps", "list")):
        out = (await command(*arguments))[1]
        assert "downtime" in out
        assert "by hand" not in out


async def test_a_gap_that_is_not_there_is_a_sentence(command: Command) -> None:
    """What the relay says is what is printed."""
    assert await command("gaps", "close", "7") == (1, "", "konnect-relay: There is no gap 7.\n")


async def test_closing_all_gaps_wants_to_be_confirmed(
    command: Command, admin: Admined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal and without --yes none is closed."""
    for source in ("eu", "us"):
        await admin.queue.open_gap(source, NOW - 60, NOW, "429")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    assert (await command("gaps", "close", "--all"))[0] == 1
    assert len(await admin.queue.gaps()) == 2
    closed = await document(command, "gaps", "close", "--all", "--yes")

    assert [(it["id"], it["state"]) for it in closed] == [(1, "closed"), (2, "closed")]
    assert await admin.queue.gaps() == []


async def test_holding_and_resuming(command: Command, admin: Admined) -> None:
    """The reason given is the one in status."""
    held = await document(command, "destinations", "hold", "sumo", "--reason", "moving house")
    status, out, _ = await command("destinations", "resume", "sumo")

    assert held["hold"]["detail"] == "moving house"
    assert (status, out) == (0, "sumo is trying again; 0 events wait.\n")


async def test_forgetting(command: Command, admin: Admined) -> None:
    """Refused while configured."""
    assert (await command("destinations", "forget", "sumo", "--yes"))[0] == 1
    admin.control.remove("sumo")

    assert await document(command, "destinations", "forget", "sumo", "--yes") == {"forgotten": "sumo"}


async def test_a_failing_probe_fails_the_command(command: Command, admin: Admined) -> None:
    """With the destination's sentence, for people and for scripts."""
    admin.control.probe = ProbeReport(ok=False, detail="The token is not accepted (HTTP 403).")

    assert await command("destinations", "test", "sumo") == (
        1,
        "sumo: The token is not accepted (HTTP 403).\n",
        "",
    )
    status, out, _ = await command("destinations", "test", "sumo", "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


async def test_a_replay_is_watched_to_its_end(command: Command, admin: Admined) -> None:
    """The command returns once every event of the range is sent again."""
    await admin.accept(4)
    mark = await admin.queue.append_wait(0)
    watching = asyncio.create_task(
        command("replay", "--destination", "sumo", "--from", "2026-01-01T00:00:00Z", "--to", "2027-01-01")
    )
    async with asyncio.timeout(60):
        while len(admin.queue.readers("sumo")) == 1:
            mark = await admin.queue.append_wait(mark)
        reader = admin.queue.readers("sumo")[1]
        ((stored, _),) = await reader.read(10)
        await reader.settle(Settlement(Position(stored.sequence), Position(stored.sequence, 4), delivered=4))
        await reader.finish()
        status, out, err = await watching

    assert (status, out) == (0, "4 events sent to sumo again.\n")
    assert "4/4" in err


async def test_a_replay_can_be_left_alone(command: Command, admin: Admined) -> None:
    """--no-wait answers at once with the reader."""
    await admin.accept(4)

    arguments = (
        "replay",
        "--destination",
        "sumo",
        "--from",
        "2026-01-01",
        "--to",
        "2027-01-01",
        "--rate",
        "2",
    )
    started = await document(command, *arguments, "--no-wait")

    assert (started["total"], started["rate"], started["finished"]) == (4, 2.0, False)
    assert started["from"] == "2026-01-01T00:00:00.000Z"
