"""The `syslog` destination against rsyslog and syslog-ng, which die while it sends.

What was reported as delivered must stand in the file they write, at least once; they know nothing of us.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from relay.clock import SystemClock
from relay.destinations.base import Delivered
from relay.destinations.syslog import SyslogDestination
from relay.destinations.syslog_config import SyslogConfig
from tests.e2e.support import Traffic, give_up
from tests.fakes.chunks import chunk_of
from tests.fakes.process import until
from tests.fakes.syslog import Framing
from tests.fakes.syslog_daemons import Certificates, Daemon, Rsyslog, SyslogNg

DELIVERY_LIMIT = 60.0  # seconds within which everything must have arrived
CHUNKS, EVENTS = 40, 100

_HEADER = re.compile(
    rb"<110>(?:1 \S+ konghq\.com konnect - - - |[A-Z][a-z]{2} [ \d]\d [\d:]{8} konghq\.com (?:konnect: )?)"
)
_CEF_STAMP = re.compile(rb"\S+ konghq\.com (?=CEF:)")

every_way = pytest.mark.parametrize(
    ("protocol", "framing"), [("tcp", "lf"), ("tcp", "octet_counting"), ("tls", "octet_counting")]
)
every_daemon = pytest.mark.parametrize("kind", [Rsyslog, SyslogNg])


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Certificates, dict[str, Path]]:
    """The server's files, and the `tls` section of a client it lets in."""
    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    files = {}
    for name in ("localhost", "relay.example.com"):
        issued = authority.issue_cert(name)
        files[name] = tmp_path / f"{name}.cert.pem", tmp_path / f"{name}.key.pem"
        issued.cert_chain_pems[0].write_to_path(str(files[name][0]))
        issued.private_key_pem.write_to_path(str(files[name][1]))
    cert, key = files["relay.example.com"]
    return Certificates(ca, *files["localhost"]), {"ca_file": ca, "cert": cert, "key": key}


@pytest.fixture
async def daemon(
    kind: type[Daemon],
    protocol: str,
    framing: Framing,
    tmp_path: Path,
    certificates: tuple[Certificates, dict[str, Path]],
) -> AsyncIterator[Daemon]:
    if not kind.installed():
        give_up(f"{kind.program} is not installed")
    async with kind(tmp_path, framing, certificates[0] if protocol == "tls" else None) as running:
        yield running


@pytest.fixture
async def siem(
    daemon: Daemon, protocol: str, framing: Framing, certificates: tuple[Certificates, dict[str, Path]]
) -> AsyncIterator[SyslogDestination]:
    config = SyslogConfig.model_validate(
        {
            "name": "siem",
            "type": "syslog",
            "address": f"localhost:{daemon.port}",
            "protocol": protocol,
            "framing": framing,
            "tls": certificates[1],
            "timeout": 20,
        }
    )
    destination = SyslogDestination(config, clock=SystemClock())
    await destination.open()
    yield destination
    await destination.close()


async def deliver(siem: SyslogDestination, lines: list[bytes]) -> None:
    """Send as the relay does: the same chunk again until it is delivered."""

    async def delivered() -> bool:
        return isinstance(await siem.send(chunk_of(lines)), Delivered)

    await until(delivered, DELIVERY_LIMIT, "a delivery")


def text_of(line: bytes) -> bytes:
    """What the file must hold of an event besides the header."""
    return _CEF_STAMP.sub(b"", line, count=1).translate(bytes.maketrans(b"\0", b" "))


def written(daemon: Daemon) -> set[bytes]:
    """The texts in the file, each after a header as it should be."""
    return {message[header.end() :] for message in daemon.received() if (header := _HEADER.match(message))}


async def all_written(daemon: Daemon, lines: list[bytes]) -> None:
    """Wait until the file holds every event."""
    owed = set(map(text_of, lines))
    await until(lambda: owed <= written(daemon), DELIVERY_LIMIT, "every event in the file")


@every_daemon
@every_way
async def test_killed_and_restarted_under_load(daemon: Daemon, siem: SyslogDestination) -> None:
    """Killed twice in mid-flight, and once more while its kernel acknowledged for it: nothing is missing."""
    traffic = Traffic(seed=4)
    chunks = [traffic.lines(EVENTS) for _ in range(CHUNKS)]
    progress = asyncio.Semaphore(0)

    async def send_all() -> None:
        for lines in chunks:
            await deliver(siem, lines)
            progress.release()

    async def kill_and_restart() -> None:
        for _ in range(2):
            for _ in range(CHUNKS // 4):
                await progress.acquire()
            await daemon.kill()
            await daemon.start()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send_all())
        tasks.create_task(kill_and_restart())
    one_more, last = traffic.lines(1), traffic.lines(20)
    sent = [line for lines in chunks for line in lines] + one_more
    await deliver(siem, one_more)
    await all_written(daemon, sent)  # so that nothing fills the window when it stops reading
    daemon.freeze()
    assert isinstance(await siem.send(chunk_of(last)), Delivered)
    await daemon.kill()
    await daemon.start()

    await all_written(daemon, sent + last)
    assert (await siem.probe()).ok


@every_daemon
@every_way
async def test_as_it_came(daemon: Daemon, siem: SyslogDestination) -> None:
    """Undisturbed, each event is written exactly once, in order, byte for byte behind its header."""
    lines = Traffic(seed=5).lines(2000)
    for start in range(0, len(lines), 500):
        await deliver(siem, lines[start : start + 500])
    await siem.close()
    await all_written(daemon, lines)

    assert [_HEADER.sub(b"", message, count=1) for message in daemon.received()] == list(map(text_of, lines))
