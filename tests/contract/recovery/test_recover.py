"""`konnect recover` against a Konnect on loopback, and with a relay that pulls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer

from relay.admin.times import parse_rfc3339
from relay.cli.client import AdminClient, CommandFailed
from relay.cli.konnect_access import access
from relay.cli.konnect_recover import kept
from relay.cli.konnect_recovering import JOB_MOST, cut, pulled
from relay.clock import SystemClock
from tests.contract.recovery.commands import Commands
from tests.fakes.konnect import PORTAL, FakeKonnect, Fault, Maker, Place
from tests.fakes.process import RelayProcess, free_port, until
from tests.fakes.siem import TIME_LIMIT, Siem

NOW = 1_795_000_000.0
DAY = 86_400.0


@pytest.fixture
async def konnect() -> AsyncIterator[FakeKonnect]:
    """By the machine's clock, as the command goes by that."""
    async with FakeKonnect(SystemClock()) as konnect:
        konnect.replays.pace = 0.01
        yield konnect


@pytest.fixture
def command(command: Commands) -> Commands:
    """Impatient ones."""
    command.settings["job_interval"] = "20ms"
    return command


@pytest.fixture
async def receiver(konnect: FakeKonnect, command: Commands) -> AsyncIterator[Siem]:
    """What the organisation's webhook sends to; it stands for the relay."""
    async with Siem() as receiver:
        command.settings["url"] = receiver.url
        konnect.organisation.bind(receiver.url, "Bearer x")
        yield receiver


@pytest.fixture
def relay(command: Commands, tmp_path: Path) -> RelayProcess:
    """A relay that is not started yet, of the same configuration as the commands; its webhook is not set."""
    port = free_port()
    # Its own recovery has to leave the gap alone that its start may be: nothing is due within a test.
    command.settings |= {"url": f"http://127.0.0.1:{port}", "status_interval": "1h"}
    command.config |= {
        "server": {"host": "127.0.0.1", "port": port},
        "admin": {"host": "127.0.0.1", "port": free_port()},
        "queue": {"path": str(tmp_path / "relay.db"), "min_free_disk": 0},
    }
    return RelayProcess({**command.config, "recovery": {"konnect": command.settings}}, tmp_path)


# The span


def test_a_span_is_replayed_day_by_day() -> None:
    """The last piece is what is left."""
    assert cut(NOW - 2.5 * DAY, NOW, JOB_MOST) == [
        (NOW - 2.5 * DAY, NOW - 1.5 * DAY),
        (NOW - 1.5 * DAY, NOW - 0.5 * DAY),
        (NOW - 0.5 * DAY, NOW),
    ]


def test_what_konnect_has_deleted_is_told() -> None:
    """The rest is fetched; where nothing is left, nothing is asked."""
    assert kept(NOW - 3 * DAY, NOW, NOW) == (NOW - 3 * DAY, None)
    assert kept(NOW - 9 * DAY, NOW - 6.5 * DAY, NOW) == (NOW - 7 * DAY + 60, NOW - 7 * DAY + 60)
    with pytest.raises(typer.BadParameter, match="gone"):
        kept(NOW - 9 * DAY, NOW - 8 * DAY, NOW)
    with pytest.raises(typer.BadParameter, match="before"):
        kept(NOW, NOW, NOW)


async def test_a_pull_goes_on_from_where_the_relay_came_to(command: Commands) -> None:
    """One call after the other, each for all that is left; an error tells what that is."""
    answer = {"source": "konnect-us", "entries": 2, "accepted": 1}
    came_to = ["2026-11-20T20:00:00.000Z", "2026-11-20T08:00:00.000Z", "2026-11-20T00:00:00.000Z"]
    command.path.write_text(
        orjson.dumps({**command.config, "recovery": {"konnect": command.settings}}).decode()
    )
    at = access(command.path, region=None, portal=None, token=None, token_file=None)
    span = (parse_rfc3339(came_to[2]), parse_rfc3339("2026-11-21T00:00:00Z"))
    async with Siem() as relay:
        for reached in came_to:
            relay.answer(200, body=orjson.dumps({**answer, "reached": reached}))
        client = AdminClient(relay.url, None, 5.0)
        found = await asyncio.to_thread(lambda: list(pulled(at, client, [span], lambda _: None)))
        asked = [orjson.loads(each.body)["to"] for each in relay.requests]

        relay.answer(200, body=orjson.dumps({**answer, "reached": came_to[0]}))
        relay.answer(502, body=b'{"detail":"It is down."}')
        with pytest.raises(CommandFailed) as error:
            await asyncio.to_thread(lambda: list(pulled(at, client, [span], lambda _: None)))
        client.close()

    assert asked == ["2026-11-21T00:00:00.000Z", *came_to[:2]]
    assert [(each["from"], each["to"]) for each in found] == list(zip(came_to, asked, strict=True))
    assert f"from {came_to[2]} to {came_to[0]}: It is down. What it had pulled before" in str(error.value)


# What cannot be done


@pytest.mark.parametrize("fault", [Fault("PUT", "*", status=403), Fault("PUT", "*", status=400)])
async def test_a_replay_that_konnect_refuses_is_a_failure(
    konnect: FakeKonnect, command: Commands, receiver: Siem, fault: Fault
) -> None:
    """Where nothing else was asked for, and the one way that is left is told."""
    konnect.faults.add(fault)
    code, out, err = await command("recover", "--from", "-1h", "--by", "replay")

    assert (code, out) == (1, "")
    assert f"{fault.status}" in err
    assert "--by replay" in err


async def test_a_job_that_fails_is_a_failure(
    konnect: FakeKonnect, command: Commands, receiver: Siem, maker: Maker
) -> None:
    """Exit status 1 and one sentence that says where to look."""
    konnect.replays.fail_after = 0
    konnect.record([maker.authentication(at=SystemClock().now())])
    code, out, err = await command("recover", "--from", "-1h", "--by", "replay")

    assert (code, out) == (1, "")
    assert "ended as failed" in err
    assert "doctor" in err


@pytest.mark.parametrize("options", [(), ("--by", "replay")])
async def test_a_portal_without_its_webhook_is_not_recovered(
    konnect: FakeKonnect, command: Commands, options: tuple[str, ...]
) -> None:
    """It has no log to pull, and it is said what is the matter."""
    code, out, err = await command("recover", "--from", "-1h", "--portal", PORTAL, *options)
    wrong, _, usage = await command("recover", "--from", "-1h", "--portal", PORTAL, "--by", "pull")

    assert (code, out) == (1, "")
    assert "not set" in err or "ended as failed" in err
    assert wrong == 2
    assert "Dev Portal" in usage


async def test_without_a_relay_nothing_is_pulled(konnect: FakeKonnect, command: Commands) -> None:
    """Both reasons are told: why no replay, and why no pull."""
    code, out, err = await command("recover", "--from", "-1h")

    assert (code, out) == (1, "")
    assert "not set" in err
    assert "No relay answers" in err
    assert konnect.called("PUT", "audit-log-replay-job") == []


@pytest.mark.parametrize(("start", "end"), [(1970, 1971), (2970, 2971)])
async def test_nothing_is_asked_that_konnect_cannot_have(
    konnect: FakeKonnect, relay: RelayProcess, start: int, end: int
) -> None:
    """A slip of the pen must not become a hundred thousand calls."""
    span = {"from": f"{start}-01-01T00:00:00Z", "to": f"{end}-01-01T00:00:00Z"}
    async with relay:
        url = f"http://127.0.0.1:{relay.admin_port}/api/v1/pulls"
        async with relay.session.post(url, json=span) as response:
            problem = await response.json(content_type=None)

    assert (response.status, "seven days" in problem["detail"]) == (409, True)
    assert konnect.called("GET", "/v3/audit-logs") == []


async def test_a_relay_that_may_not_pull_says_why(
    konnect: FakeKonnect, command: Commands, relay: RelayProcess
) -> None:
    """It has no token, another region, or Konnect does not give it the log."""
    async with relay:
        konnect.faults.add(Fault("GET", "*/audit-logs", status=403, times=-1))
        refused = await command("recover", "--from", "-1h", "--by", "pull")
        command.settings["region"] = "eu"
        elsewhere = await command("recover", "--from", "-1h", "--by", "pull")
        await relay.stop()
        without = {name: it for name, it in command.settings.items() if name != "token"}
        relay.configure({**command.config, "recovery": {"konnect": without}})
        await relay.start()
        tokenless = await command("recover", "--from", "-1h", "--by", "pull")

    assert [code for code, _, _ in (refused, elsewhere, tokenless)] == [1, 1, 1]
    assert "403" in refused[2]
    assert "not eu" in elsewhere[2]
    assert "recovery.konnect.token" in tokenless[2]


# What can


@pytest.mark.parametrize("portal", [None, PORTAL])
async def test_a_span_is_sent_again(
    konnect: FakeKonnect, command: Commands, maker: Maker, portal: str | None
) -> None:
    """The organisation's or a portal's; another job is waited for, a call that fails is repeated."""
    place = Place(portal=portal)
    now = SystemClock().now()
    async with Siem() as receiver:
        command.settings["url"] = receiver.url
        konnect.organisation.bind(receiver.url, "Bearer x", place=place)
        konnect.record([maker.authentication(at=now - n, portal=portal) for n in range(5)])
        konnect.faults.add(Fault("PUT", "*", status=409))
        konnect.faults.add(Fault("GET", "*/audit-log-replay-job", status=503))
        options = ["--portal", portal] if portal else []
        document = await command.document("recover", "--from", "-1h", *options)

        assert len(document["jobs"]) == 1
        assert document["portal"] == portal
        assert document["lost_until"] is None
        assert (document["not_replayed"], document["pulls"]) == (None, [])
        assert len(await receiver.received_lines(5)) == 5


async def test_the_relays_own_job_is_waited_for(
    konnect: FakeKonnect, command: Commands, receiver: Siem, maker: Maker
) -> None:
    """It says so, and goes on when that one is over."""
    now = SystemClock().now()
    konnect.record([maker.authentication(at=now - 1)])
    konnect.replays.pace = None
    konnect.begin_replay(now - 7200, now - 3600)
    running = asyncio.ensure_future(command("recover", "--from", "-1h"))
    await konnect.asked("PUT", "audit-log-replay-job", times=2)
    konnect.replays.pace = 0.01
    for _ in range(3):
        konnect.replays.step()
    code, out, err = await running

    assert code == 0
    assert "waiting for another replay job" in err
    assert "By replay" in out
    assert len(await receiver.received_lines(1)) == 1


def pulled_lines(folder: Path) -> list[Any]:
    path = folder / "audit.ndjson"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [document for document in map(orjson.loads, lines) if document.get("relay_pulled")]


@pytest.mark.parametrize("trouble", ["elsewhere", "switched off", "refused", "failed", "asked for"])
async def test_what_cannot_be_replayed_is_pulled_by_the_relay(
    konnect: FakeKonnect, command: Commands, relay: RelayProcess, maker: Maker, tmp_path: Path, trouble: str
) -> None:
    """Whatever the reason, it is told; the events are marked, and a second time none is new."""
    now = SystemClock().now()
    konnect.record([maker.authentication(at=now - n) for n in range(1, 6)])
    host = "https://siem.example.com" if trouble == "elsewhere" else command.settings["url"]
    konnect.organisation.bind(f"{host}/audit-logs/konnect-us", "Bearer other")
    match trouble:
        case "switched off":  # by a person: the relay leaves it so
            konnect.organisation.webhook(Place()).enabled = False
        case "refused":
            konnect.faults.add(Fault("PUT", "*", status=403, times=-1))
        case "failed":
            konnect.replays.fail_after = 0
    options = ["--by", "pull"] if trouble == "asked for" else []
    async with relay:
        document = await command.document("recover", "--from", "-1h", *options)
        code, out, err = await command("recover", "--from", "-1h", "--by", "pull")
        await until(lambda: len(pulled_lines(tmp_path)) == 5, TIME_LIMIT, "the pulled events")

    assert document["jobs"] == []
    (pull,) = document["pulls"]
    assert (pull["source"], pull["entries"], pull["accepted"]) == ("konnect-us", 5, 5)
    words = {"elsewhere": "siem.example.com", "refused": "403", "asked for": "None"}
    assert words.get(trouble, trouble) in str(document["not_replayed"])
    assert code == 0
    assert "the relay pulls it" in err
    assert "0 of them were new" in out
