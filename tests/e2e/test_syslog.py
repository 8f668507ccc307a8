"""The whole relay before a syslog server that nobody here wrote, and that dies under load."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.contract.destinations.test_syslog_daemons import all_written
from tests.e2e.support import (
    DELIVERY_LIMIT,
    FAST_RETRY,
    Traffic,
    Trail,
    configuration,
    drained,
    give_up,
)
from tests.fakes.process import RelayProcess, until
from tests.fakes.syslog_daemons import Rsyslog


async def test_rsyslog_killed_under_load(tmp_path: Path) -> None:
    """Every accepted event stands in rsyslog's file although rsyslog was killed twice; the books balance."""
    if not Rsyslog.installed():
        give_up("rsyslogd is not installed")
    trail = Trail(Traffic(seed=12))
    async with Rsyslog(tmp_path, "octet_counting") as daemon:
        siem = {
            "name": "siem",
            "type": "syslog",
            "address": f"127.0.0.1:{daemon.port}",
            "protocol": "tcp",
            "framing": "octet_counting",
            "severities": {0: "info", 7: "info"},
            "retry": FAST_RETRY,
            "timeout": "2s",
        }
        async with RelayProcess(configuration(tmp_path, [siem]), tmp_path) as relay:
            async with trail.flowing(relay):
                for kill in range(2):
                    await until(
                        partial(lambda n: len(trail.owed) >= n, 1000 * (kill + 1)), DELIVERY_LIMIT, "traffic"
                    )
                    await daemon.kill()
                    await daemon.start()
            await drained(relay, "siem")
            await all_written(daemon, list(trail.owed))
            assert await relay.stop() == 0
