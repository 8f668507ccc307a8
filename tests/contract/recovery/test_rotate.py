"""`konnect rotate`: a new authorization, and no batch that meets a relay which does not know it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.config.secret import Secret
from relay.recovery.rotation import RotationRefused, await_acceptance, knocks
from tests.contract.recovery.commands import Commands
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import Destination, FakeKonnect, Fault
from tests.fakes.process import free_port
from tests.fakes.siem import Answer, Behaviour, Received, Siem

PATH = "/audit-logs/konnect-us"


def accepting(*known: str) -> Behaviour:
    """A relay's intake that knows these authorizations."""

    def answer(request: Received) -> Answer:
        return Answer(200 if request.headers.get("Authorization") in known else 401)

    return answer


@pytest.fixture
async def intake() -> AsyncIterator[Siem]:
    async with Siem(path=PATH) as intake:
        yield intake


@pytest.fixture
def bound(konnect: FakeKonnect, command: Commands, intake: Siem) -> Destination:
    """Konnect sends to the intake with the old authorization."""
    command.settings["url"] = intake.base
    return konnect.organisation.bind(intake.url, "Bearer old")


def secret_file(folder: Path, text: str = "Bearer new") -> str:
    path = folder / "new"
    path.write_text(f"{text}\n")
    return str(path)


async def test_without_a_destination_there_is_nothing_to_rotate(
    konnect: FakeKonnect, command: Commands
) -> None:
    """It says what comes first."""
    code, _, err = await command("rotate", "--yes")

    assert code == 1
    assert "konnect setup" in err


@pytest.mark.parametrize("options", [(), ("--url", "http://127.0.0.1:1")])
async def test_the_authorization_of_somebody_elses_receiver_is_left_alone(
    konnect: FakeKonnect, command: Commands, intake: Siem, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """It would refuse Konnect's batches from then on, and it would be told the relay's."""
    command.settings["url"] = intake.base
    other = konnect.organisation.bind("https://siem.example.com/in?code=s3cret", "Bearer theirs")

    code, _, err = await command("rotate", "--yes", "--secret-file", secret_file(tmp_path), *options)

    assert code == 1
    assert "siem.example.com" in err
    assert "s3cret" not in err
    assert (other.authorization, konnect.called("PATCH", other.id)) == ("Bearer theirs", [])


async def test_another_way_to_the_relay_is_no_reason_to_take_another_receiver(
    konnect: FakeKonnect, command: Commands, intake: Siem, tmp_path: Path
) -> None:
    """With `--url` as well, what Konnect sends to is compared with the URL of the configuration."""
    intake.then(Answer(200))
    other = konnect.organisation.bind(f"https://siem.example.com{PATH}", "Bearer theirs")

    code, _, err = await command(
        "rotate", "--yes", "--url", intake.base, "--secret-file", secret_file(tmp_path)
    )

    assert code == 1
    assert "siem.example.com" in err
    assert (other.authorization, konnect.called("PATCH", other.id)) == ("Bearer theirs", [])


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (accepting("Bearer old"), "does not accept the new authorization"),
        (Answer(404), "says 404"),
        (Answer(302), "says 302"),
        (accepting("Bearer new"), "not every other one"),
    ],
)
async def test_konnect_is_not_told_what_the_relay_does_not_take(
    konnect: FakeKonnect,
    command: Commands,
    bound: Destination,
    intake: Siem,
    tmp_path: Path,
    behaviour: Behaviour,
    words: str,
) -> None:
    """Neither the new one, where it is refused, nor at the old one's cost."""
    intake.then(behaviour)

    code, _, err = await command("rotate", "--yes", "--wait", "0", "--secret-file", secret_file(tmp_path))

    assert code == 1
    assert words in err
    assert "Bearer new" not in err
    assert (bound.authorization, konnect.called("PATCH", bound.id)) == ("Bearer old", [])


async def test_an_unreachable_relay_is_told(
    konnect: FakeKonnect, command: Commands, bound: Destination, intake: Siem, tmp_path: Path
) -> None:
    """With the endpoint, and Konnect keeps what it has."""
    url = f"http://127.0.0.1:{free_port()}"  # another way to the same relay

    code, _, err = await command(
        "rotate", "--yes", "--wait", "0", "--url", url, "--secret-file", secret_file(tmp_path)
    )

    assert code == 1
    assert "cannot be reached" in err
    assert bound.authorization == "Bearer old"


async def test_a_change_that_konnect_refuses_keeps_the_file(
    konnect: FakeKonnect, command: Commands, bound: Destination, intake: Siem, tmp_path: Path
) -> None:
    """For another try, while the relay accepts both."""
    intake.then(Answer(200))
    konnect.faults.add(Fault("PATCH", "*", status=500))
    file = tmp_path / "fresh"

    code, _, _ = await command("rotate", "--yes", "--secret-file", str(file))
    again, _, _ = await command("rotate", "--yes", "--secret-file", str(file))

    assert (code, again) == (1, 0)
    assert bound.authorization == file.read_text().strip()


async def test_konnect_is_told_once_the_relay_accepts_both(
    konnect: FakeKonnect, command: Commands, bound: Destination, intake: Siem, tmp_path: Path
) -> None:
    """Asked with empty requests; afterwards it is said when the old one may go."""
    intake.then(accepting("Bearer new", "Bearer old"))

    bound.name = "evil\x1b[2J"
    _, out, err = await command("rotate", "--yes", "--secret-file", secret_file(tmp_path))
    assert ("evil" in out, "\x1b" in out + err) == (True, False)
    bound.authorization = "Bearer old"
    intake.requests.clear()

    document = await command.document("rotate", "--yes", "--secret-file", secret_file(tmp_path))

    assert bound.authorization == "Bearer new"
    assert {request.body for request in intake.requests} == {b""}
    shown = [request.headers["Authorization"] for request in intake.requests]
    assert shown == ["Bearer new"] * 29 + ["Bearer old"] * 29  # nobody tells how many replicas there are
    assert (document["requests_accepted"], document["replicas"]) == (29, None)
    assert document["retire_old_after_seconds"] == 300
    assert document["authorization"] is None


async def test_one_replica_of_several_that_was_not_reloaded_is_enough_to_wait_for(
    command: Commands, bound: Destination, intake: Siem, tmp_path: Path
) -> None:
    """Behind a balancer that takes turns: one request alone would have been accepted."""
    knows, does_not = accepting("Bearer new", "Bearer old"), accepting("Bearer old")
    intake.act(knows, times=3).act(does_not).then(knows)

    code, _, err = await command("rotate", "--yes", "--wait", "0s", "--secret-file", secret_file(tmp_path))

    assert code == 1
    assert "reload all of them" in err
    assert bound.authorization == "Bearer old"


def test_the_more_replicas_the_more_requests() -> None:
    """So that one is left out once in a thousand times at most, wherever each request goes by chance."""
    assert [knocks(count) for count in (None, 1, 2, 3, 4, 8)] == [29, 11, 11, 20, 29, 68]
    assert all(count * (1 - 1 / count) ** knocks(count) <= 0.001 for count in range(2, 50))


async def test_it_waits_until_the_relay_has_learned_it(intake: Siem, clock: FakeClock) -> None:
    """Whoever runs it edits a file and reloads meanwhile."""
    intake.answer(401, times=2).then(200)

    waiting = asyncio.ensure_future(
        await_acceptance(intake.url, Secret("Bearer new"), times=1, patience=60, clock=clock)
    )
    for _ in range(2):
        assert await clock.next_wake() == 2.0
        await clock.advance(2.0)
    await waiting

    assert len(intake.requests) == 3


async def test_its_patience_ends(intake: Siem, clock: FakeClock) -> None:
    """And the old one stays in force."""
    intake.then(401)

    waiting = asyncio.ensure_future(
        await_acceptance(intake.url, Secret("Bearer new"), times=1, patience=3, clock=clock)
    )
    assert await clock.next_wake() == 2.0
    await clock.advance(2.0)

    with pytest.raises(RotationRefused, match="keeps the old"):
        await waiting
