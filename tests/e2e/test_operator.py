"""What an operator asks of the real process: hold, resume, test, forget, and who delivers."""

from __future__ import annotations

from pathlib import Path
from signal import SIGHUP

from tests.e2e.support import DELIVERY_LIMIT, Traffic, Trail, configuration, destination, drained
from tests.fakes.process import RelayProcess, until
from tests.fakes.siem import Siem


async def test_a_held_destination_gets_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    """The hold survives a kill; the events are all there afterwards."""
    trail = Trail(Traffic(40))
    async with (
        Siem() as siem,
        RelayProcess(configuration(tmp_path, [destination("siem", siem)]), tmp_path) as relay,
    ):
        assert (await relay.command("destinations", "hold", "siem", "--reason", "moving house"))[0] == 0
        await trail.post(relay)
        await relay.kill()
        await relay.start()
        (held,) = (await relay.status())["destinations"]
        assert (held["state"], held["backlog"], siem.requests) == ("paused", 10, [])
        assert held["hold"]["detail"] == "moving house"

        # Holding again changes the words and not the time.
        await relay.command("destinations", "hold", "siem", "--reason", "still moving")
        (again,) = (await relay.status())["destinations"]
        assert (again["hold"]["detail"], again["hold"]["since"]) == (
            "still moving",
            held["hold"]["since"],
        )

        assert (await relay.command("destinations", "resume", "siem"))[0] == 0
        await drained(relay, "siem")
        trail.check(siem.lines())


async def test_resume_ends_the_wait_for_a_retry(tmp_path: Path) -> None:
    """An operator who has mended the SIEM does not wait for the schedule."""
    trail = Trail(Traffic(41))
    async with Siem() as siem:
        siem.answer(503)
        retry = {"min_wait": "1h", "max_wait": "1h"}
        config = configuration(tmp_path, [destination("siem", siem, retry=retry)])
        async with RelayProcess(config, tmp_path) as relay:
            await trail.post(relay)
            await relay.becomes("siem", "retrying")
            await relay.command("destinations", "resume", "siem")
            await drained(relay, "siem")


async def test_a_single_process_delivers_everything_itself(tmp_path: Path) -> None:
    """Status names it as the one replica, and as the one that delivers; it holds the lease until it stops."""
    async with (
        Siem() as siem,
        RelayProcess(configuration(tmp_path, [destination("siem", siem)]), tmp_path) as relay,
    ):

        async def delivers() -> bool:
            status = await relay.status()
            (replica,) = status["replicas"]
            (siem_,) = status["destinations"]
            return bool(replica["same_configuration"]) and siem_["replica"] == replica["id"]

        await until(delivers, DELIVERY_LIMIT, "the lease")
        series = await relay.metrics()
        assert series['relay_lease_held{destination="siem"}'] == 1
        assert series['relay_destination_state{destination="siem",state="active"}'] == 1
        assert series["relay_replicas"] == 1


async def test_a_destination_is_forgotten_once_it_is_out_of_the_configuration(tmp_path: Path) -> None:
    """Before that the command refuses, and says what to do first."""
    async with Siem() as one, Siem() as two:
        config = configuration(tmp_path, [destination("one", one), destination("two", two)])
        async with RelayProcess(config, tmp_path) as relay:
            status, _, said = await relay.command("destinations", "forget", "two", "--yes")
            assert (status, "take it out of the configuration" in said) == (1, True)

            config["destinations"] = [destination("one", one)]
            relay.configure(config)
            relay.signal(SIGHUP)
            await until(lambda: "relay.reloaded" in relay.log_tail(200), DELIVERY_LIMIT, "the reload")
            assert (await relay.command("destinations", "forget", "two", "--yes"))[0] == 0
            assert [each["name"] for each in (await relay.status())["destinations"]] == ["one"]


async def test_a_process_that_only_accepts_refers_to_the_other(tmp_path: Path) -> None:
    """With SQLite it cannot see the other one deliver."""
    async with Siem() as siem:
        config = configuration(tmp_path, [destination("siem", siem)])
        async with RelayProcess(config, tmp_path, role="ingest") as relay:
            url = f"http://127.0.0.1:{relay.admin_port}"
            for command in ("hold", "resume", "test"):
                status, _, said = await relay.command("destinations", command, "siem", "--admin-url", url)
                assert (status, "only accepts" in said) == (1, True), said
            assert (await relay.status())["destinations"] == []
