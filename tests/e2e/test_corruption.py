"""A flipped bit on the disk costs the batch it is in, and nothing else."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.e2e.support import Traffic, Trail, books, configuration, destination, drained
from tests.fakes.process import RelayProcess
from tests.fakes.siem import Siem


def _flip_a_bit(database: Path, batch: int) -> None:
    """Flip one bit in the middle of the payload of the *batch*-th batch, behind SQLite's back."""
    with closing(sqlite3.connect(database)) as connection, connection:
        sequence, payload = connection.execute(
            "SELECT sequence, payload FROM batches ORDER BY sequence LIMIT 1 OFFSET ?", (batch,)
        ).fetchone()
        broken = bytearray(payload)
        broken[len(broken) // 2] ^= 0b1000
        connection.execute("UPDATE batches SET payload=? WHERE sequence=?", (bytes(broken), sequence))


async def test_a_flipped_bit_costs_one_batch(tmp_path: Path) -> None:
    """The broken batch is counted and quarantined for both destinations; start-up and the rest go on."""
    trail = Trail(Traffic(10))
    async with Siem() as one, Siem() as two:
        one.then(503)
        two.then(503)
        config = configuration(tmp_path, [destination("one", one), destination("two", two)])
        async with RelayProcess(config, tmp_path) as relay:
            batches = [await trail.post(relay) for _ in range(3)]
            assert await relay.stop() == 0

            _flip_a_bit(tmp_path / "relay.db", 1)
            status, out, _ = await relay.command("queue", "verify", "--json")
            assert status == 1
            assert "corrupt" in out

            one.then(200)
            two.then(200)
            await relay.start()
            await drained(relay, "one", "two")
            for name, siem in (("one", one), ("two", two)):
                assert set(siem.lines()) == {*batches[0], *batches[2]}
                account = await books(relay, name)
                assert (account.delivered, account.dead_letters) == (20, 10)
            series = await relay.metrics()
            for name in ("one", "two"):
                lost = f'relay_dead_lettered_events_total{{destination="{name}",reason="corrupt"}}'
                assert series[lost] == 10
            assert series["relay_queue_corrupt_batches_total"] == 1

            more = await trail.post(relay)
            await drained(relay, "one", "two")
            assert set(more) <= set(one.lines())
            assert await relay.stop() == 0
            await relay.start()
            (await books(relay, "one")).check()
            status, text = await relay.get("/api/v1/dead-letters?reason=corrupt")
            assert [each["count"] for each in json.loads(text)["data"]] == [10, 10]
