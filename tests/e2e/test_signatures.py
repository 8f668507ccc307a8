"""Signatures in the real process: from the configuration to status, metrics and command line."""

from __future__ import annotations

import time
from pathlib import Path
from signal import SIGHUP

import orjson

from relay.config.queue import SqliteQueueConfig
from relay.queue.sqlite import SqliteQueue
from tests.e2e.support import (
    AUTHORIZATION,
    DELIVERY_LIMIT,
    SOURCE,
    body_of,
    configuration,
    destination,
    drained,
)
from tests.fakes.chunks import sample
from tests.fakes.clock import FakeClock
from tests.fakes.events import batch, cef, restamped
from tests.fakes.keys import KeyServer
from tests.fakes.process import RelayProcess, until
from tests.fakes.siem import Siem
from tests.fakes.signing import JWKS_FILE, TEST, another


async def test_tag_then_quarantine_then_off(tmp_path: Path) -> None:
    """Modes change with SIGHUP; what was found is told wherever somebody looks."""
    async with Siem() as siem, KeyServer(TEST, another(1)) as server:
        config = configuration(tmp_path, [destination("siem", siem)])
        config["sources"][0]["signatures"] = {"mode": "tag", "jwks": server.url}
        async with RelayProcess(config, tmp_path) as relay:
            await _post(relay, [*sample("cef"), *sample("json"), cef(1)])
            await drained(relay, "siem")
            (source,) = (await relay.status())["sources"]
            found = source["signatures"]
            assert (found["mode"], found["verified"], found["absent"]) == ("tag", 56, 1)
            assert (found["keys"], found["keys_trouble"]) == (2, None)
            assert found["rules"] == {"cef": "C1", "json": "J1"}
            series = await relay.metrics()
            assert series[f'relay_signatures_total{{result="verified",source="{SOURCE}"}}'] == 56
            assert "56 verified, 1 absent" in (await relay.command("status"))[1]

            config["sources"][0]["signatures"] = {"mode": "quarantine", "jwks": str(JWKS_FILE)}
            await _reload(relay, config, 1)
            await _post(relay, [cef(2), TEST.cef(cef(3))])
            await drained(relay, "siem")
            assert len(siem.lines()) == 58
            assert "it carries no signature" in (await relay.command("dead-letters", "list"))[1]

            config["sources"][0]["signatures"] = {"mode": "off"}
            await _reload(relay, config, 2)
            await _post(relay, [cef(4)])
            await drained(relay, "siem")
            assert len(siem.lines()) == 59
            assert (await relay.status())["sources"][0]["signatures"] is None


async def test_a_file_of_keys_that_is_not_there(tmp_path: Path) -> None:
    """The relay does not start, and says why."""
    async with Siem() as siem:
        config = configuration(tmp_path, [destination("siem", siem)])
        config["sources"][0]["signatures"] = {"mode": "tag", "jwks": str(tmp_path / "none.json")}
        relay = RelayProcess(config, tmp_path)
        await relay.spawn()
        status = await relay.ended()
        await relay.close()

    assert status == 2
    assert "signatures.jwks: " in relay.log_tail()
    assert "none.json: it cannot be read: No such file or directory" in relay.log_tail()


async def test_the_process_that_accepts_knows_the_keys_too(tmp_path: Path) -> None:
    """It has to tell a replay that was signed anew from a forgery that came first."""
    config = configuration(tmp_path, [{"name": "file", "type": "file", "path": str(tmp_path / "out")}])
    config["sources"][0]["signatures"] = {"mode": "quarantine", "jwks": str(JWKS_FILE)}
    now = time.time()
    true, later = cef(1, at=now - 60), restamped(cef(1, at=now - 60))
    # Received long ago: what says the same at once is a twin, and would be kept whoever signed it.
    clock = FakeClock(now - 60)
    queue = await SqliteQueue.open(
        SqliteQueueConfig.model_validate(config["queue"]), clock=clock, deduplicate={SOURCE: 7 * 86_400.0}
    )
    await queue.append([batch([another(1).cef(true)], source=SOURCE, at=clock.now())])
    await queue.append([batch([TEST.cef(true)], source=SOURCE, at=clock.now())])
    await queue.append([batch([another(1).cef(cef(2, at=now - 60))], source=SOURCE, at=clock.now())])
    await queue.close()
    async with RelayProcess(config, tmp_path, role="ingest") as relay:
        answers = [
            await relay.post(body_of([line]), SOURCE, {"Authorization": AUTHORIZATION})
            for line in (TEST.cef(later), TEST.cef(true), TEST.cef(cef(2, at=now - 60)))
        ]
        (source,) = (await relay.status())["sources"]

    assert [orjson.loads(text)["accepted"] for _, text in answers] == [0, 0, 1]
    assert source["signatures"] is None  # told by the process that delivers


async def _post(relay: RelayProcess, lines: list[bytes]) -> None:
    status, _ = await relay.post(body_of(lines), SOURCE, {"Authorization": AUTHORIZATION})
    assert status == 200


async def _reload(relay: RelayProcess, config: dict[str, object], times: int) -> None:
    relay.configure(config)
    relay.signal(SIGHUP)

    def reloaded() -> bool:
        return [each["event"] for each in relay.log_records()].count("relay.reloaded") >= times

    await until(reloaded, DELIVERY_LIMIT, "the reload")
