"""SIGTERM finishes what was accepted; SIGHUP follows the configuration file, if it is valid."""

from __future__ import annotations

import asyncio
from pathlib import Path
from signal import SIGHUP

from tests.e2e.support import (
    DELIVERY_LIMIT,
    SOURCE,
    Traffic,
    Trail,
    body_of,
    books,
    configuration,
    destination,
    drained,
)
from tests.fakes.process import RelayProcess, until
from tests.fakes.siem import Answer, Siem


async def test_sigterm_under_load_exits_0_in_time_and_loses_nothing(tmp_path: Path) -> None:
    """With one destination hanging, the relay exits after its grace, and the next one has everything."""
    trail = Trail(Traffic(20))
    async with Siem() as well, Siem() as hanging:
        hanging.then(Answer(hang=True))
        # Were the hanging request waited for, that would be far too long for `stop`.
        destinations = [destination("well", well), destination("hanging", hanging, timeout="10m")]
        config = configuration(tmp_path, destinations)
        config["server"]["shutdown_grace"] = "1s"
        async with RelayProcess(config, tmp_path) as relay:
            async with trail.flowing(relay):
                await well.received(5)
                await hanging.received(1)
                assert await relay.stop() == 0
                hanging.then(200)
                await relay.start()
                await well.received(len(well.requests) + 1)
            await drained(relay, "well", "hanging")
        trail.check(well.lines())
        trail.check(hanging.lines())


async def test_sigterm_lets_a_request_in_the_air_land(tmp_path: Path) -> None:
    """A chunk whose answer comes within the grace is delivered once: it is not sent again after a restart."""
    trail = Trail(Traffic(21))
    gate = asyncio.Event()
    async with Siem() as siem:
        siem.answer(200, after=gate)
        async with RelayProcess(configuration(tmp_path, [destination("siem", siem)]), tmp_path) as relay:
            await trail.post(relay)
            await siem.received(1)
            stopping = asyncio.ensure_future(relay.stop())
            await until(
                lambda: "relay.stopping" in relay.log_tail(200), DELIVERY_LIMIT, "the start of the shutdown"
            )
            gate.set()
            assert await stopping == 0
            await relay.start()
            await drained(relay, "siem")
            assert len(siem.requests) == 1
            assert (await books(relay, "siem")).delivered == 10


async def test_sigterm_spends_no_attempt(tmp_path: Path) -> None:
    """A chunk cut off by the shutdown starts its schedule anew: five attempts remain."""
    trail = Trail(Traffic(22))
    retry = {"min_wait": "1ms", "max_wait": "1ms", "max_retries": 1, "probe_interval": "1h"}
    async with Siem() as siem:
        siem.hang().then(503)
        config = configuration(tmp_path, [destination("siem", siem, retry=retry, timeout="30s")])
        config["server"]["shutdown_grace"] = "200ms"
        async with RelayProcess(config, tmp_path) as relay:
            await trail.post(relay)
            await siem.received(1)
            assert await relay.stop() == 0
            await relay.start()
            await relay.becomes("siem", "held")
            assert len(siem.requests) == 3  # the one cut off, then an attempt and its retry


async def test_sighup_adds_and_removes_destinations_without_dropping_a_connection(tmp_path: Path) -> None:
    """The connection that sent before the reload sends after it; the new destination starts then."""
    trail = Trail(Traffic(23))
    async with Siem() as one, Siem() as two, Siem() as three:
        config = configuration(tmp_path, [destination("one", one), destination("two", two)])
        async with RelayProcess(config, tmp_path) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)

            async def post() -> list[bytes]:
                lines = trail.traffic.lines(10)
                writer.write(_request(body_of(lines), config["sources"][0]["authorization"]))
                async with asyncio.timeout(DELIVERY_LIMIT):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
                assert head.startswith(b"HTTP/1.1 200 ")
                return lines

            before = await post()
            await drained(relay, "one", "two")
            config["destinations"] = [destination("one", one), destination("three", three)]
            relay.configure(config)
            relay.signal(SIGHUP)
            await _configured(relay, {"one", "three"})
            after = await post()
            await drained(relay, "one")
            await three.received_lines(10)
            assert set(one.lines()) == {*before, *after}
            assert set(two.lines()) == set(before)
            assert set(three.lines()) == set(after)
            writer.close()


async def test_sighup_with_an_invalid_file_changes_nothing(tmp_path: Path) -> None:
    """The old configuration stays in force, and the log says what was wrong, by its path."""
    trail = Trail(Traffic(24))
    async with Siem() as siem:
        config = configuration(tmp_path, [destination("siem", siem)])
        async with RelayProcess(config, tmp_path) as relay:
            relay.configure({**config, "destinations": [destination("siem", siem, retries=3)]})
            relay.signal(SIGHUP)
            await until(lambda: "config.refused" in relay.log_tail(200), DELIVERY_LIMIT, "the refusal")
            assert "destinations[0].retries" in relay.log_tail(200)
            await trail.post(relay)
            await drained(relay, "siem")
            trail.check(siem.lines())
            relay.configure_text("destinations: [")
            relay.signal(SIGHUP)
            await until(
                lambda: relay.log_tail(200).count("config.refused") == 2, DELIVERY_LIMIT, "the second refusal"
            )
            await trail.post(relay)
            await drained(relay, "siem")


async def test_sighup_with_a_destination_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    """An unusable certificate file stops nobody: the old destinations go on, the new one owes nothing."""
    trail = Trail(Traffic(27))
    async with Siem() as siem:
        config = configuration(tmp_path, [destination("siem", siem)])
        async with RelayProcess(config, tmp_path) as relay:
            changed = destination("siem", siem, timeout="7s")
            broken = {
                "name": "new",
                "type": "http",
                "url": "https://127.0.0.1:9/",
                "tls": {"ca_file": str(tmp_path / "none.pem")},
            }
            relay.configure({**config, "destinations": [changed, broken]})
            relay.signal(SIGHUP)
            await until(lambda: "config.refused" in relay.log_tail(200), DELIVERY_LIMIT, "the refusal")
            assert "destination new: tls.ca_file" in relay.log_tail(200)
            await trail.post(relay)
            await drained(relay, "siem")
            trail.check(siem.lines())
            known = await relay.metrics()
            assert not [series for series in known if 'destination="new"' in str(series)]


async def test_two_relays_never_share_a_queue(tmp_path: Path) -> None:
    """A second relay on the same file refuses to start and leaves the first alone."""
    trail = Trail(Traffic(25))
    async with Siem() as siem:
        config = configuration(tmp_path, [destination("siem", siem)])
        async with RelayProcess(config, tmp_path) as relay:
            other = configuration(tmp_path, [destination("siem", siem)])
            second = RelayProcess(other, tmp_path, name="second")
            await second.spawn()
            assert await second.ended() == 1
            assert "queue" in second.log_tail()
            await trail.post(relay)
            await drained(relay, "siem")


async def test_two_processes_share_the_work(tmp_path: Path) -> None:
    """`--role ingest` accepts, `--role deliver` delivers, each survives the other's kill."""
    trail = Trail(Traffic(26))
    async with Siem() as siem:
        config = configuration(tmp_path, [destination("siem", siem)])
        async with (
            RelayProcess(config, tmp_path, role="ingest", name="ingest") as ingest,
            RelayProcess(config, tmp_path, role="deliver", name="deliver") as deliver,
        ):
            await trail.post(ingest)
            await siem.received_lines(10)
            await deliver.kill()
            await trail.post(ingest)
            await ingest.kill()
            await deliver.start()
            await siem.received_lines(20)
            await ingest.start()
            await trail.post(ingest)
            await siem.received_lines(30)

            async def balanced() -> bool:
                account = await books(deliver, "siem")
                return account.accepted == account.delivered == 30

            await until(balanced, DELIVERY_LIMIT, "thirty delivered events in the books")
            trail.check(siem.lines())
            assert await ingest.stop() == 0
            assert await deliver.stop() == 0


async def _configured(relay: RelayProcess, names: set[str]) -> None:
    async def configured() -> bool:
        status = await relay.status()
        return {each["name"] for each in status["destinations"] if each["type"]} == names

    await until(configured, DELIVERY_LIMIT, "the reload")


def _request(body: bytes, authorization: str) -> bytes:
    return (
        f"POST /audit-logs/{SOURCE} HTTP/1.1\r\nHost: relay.test\r\nAuthorization: {authorization}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
