"""`konnect doctor` and `konnect rotate` between a Konnect on loopback and a real relay."""

from __future__ import annotations

import datetime as dt
import json
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from relay.clock import SystemClock
from relay.config.secret import Secret
from relay.recovery.binding import shown
from relay.recovery.probe import certificate, knock
from tests.contract.recovery.commands import Commands
from tests.fakes.konnect import TOKEN, FakeKonnect, Maker, Place
from tests.fakes.process import RelayProcess, free_port
from tests.fakes.siem import Siem


@pytest.fixture
async def konnect() -> AsyncIterator[FakeKonnect]:
    """Its clock is the machine's, as the relay's is."""
    async with FakeKonnect(SystemClock()) as konnect:
        yield konnect


@pytest.fixture
def relay(command: Commands, tmp_path: Path) -> RelayProcess:
    """A relay that is not started yet; commands use a configuration like its own."""
    port = free_port()
    command.settings["url"] = f"http://127.0.0.1:{port}"
    command.config = {
        "server": {"host": "127.0.0.1", "port": port},
        "admin": {"host": "127.0.0.1", "port": free_port()},
        "sources": [{"name": "konnect-us", "authorization": [{"file": str(tmp_path / "first")}]}],
        "queue": {"path": str(tmp_path / "relay.db"), "min_free_disk": 0},
        "destinations": [{"name": "audit", "type": "file", "path": str(tmp_path / "audit.ndjson")}],
    }
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"Bearer {name}\n")
    return RelayProcess(command.config, tmp_path)


async def findings(command: Commands) -> list[Any]:
    _, out, err = await command("doctor", "--json")
    assert out, err
    found: list[Any] = json.loads(out)
    return found


async def test_from_setup_to_teardown_with_a_real_relay(
    konnect: FakeKonnect, command: Commands, relay: RelayProcess, maker: Maker, tmp_path: Path
) -> None:
    """The relay knows the authorization first; nothing is refused on the way, a rotation included."""

    async def levels() -> dict[str, str]:
        return {finding["check"]: finding["level"] for finding in await findings(command)}

    async with relay:
        assert (await levels())["webhook"] == "problem"
        await command.document("setup", "--yes", "--secret-file", str(tmp_path / "first"))
        (before,) = konnect.happen(maker.some(3, at=SystemClock().now()))
        await konnect.sent()
        assert set((await levels()).values()) == {"ok"}

        command.config["sources"][0]["authorization"].append({"file": str(tmp_path / "second")})
        relay.configure(command.config)
        relay.signal(signal.SIGHUP)
        rotated = await command.document(
            "rotate", "--yes", "--wait", "10s", "--secret-file", str(tmp_path / "second")
        )
        assert (rotated["replicas"], rotated["requests_accepted"]) == (1, 11)
        (after,) = konnect.happen(maker.some(3, at=SystemClock().now()))
        await konnect.sent()

        made = konnect.organisation.webhook(Place()).destination
        assert made is not None
        assert made.authorization == "Bearer second"
        assert (before.answers, after.answers) == ([200], [200])
        await command.document("teardown", "--yes")
        assert konnect.organisation.destinations == {}


async def test_a_gap_that_is_left_to_people(
    konnect: FakeKonnect, command: Commands, relay: RelayProcess, maker: Maker
) -> None:
    """The commands that doctor names are those that close it."""
    konnect.replays.pace = 0.01
    command.settings["job_interval"] = "20ms"
    konnect.organisation.bind(f"{command.settings['url']}/audit-logs/konnect-us", "Bearer first")
    async with relay:
        konnect.record([maker.authentication(at=SystemClock().now())])
        refused, _ = await relay.post(b"\x1f\x8bno gzip", "konnect-us", {"Authorization": "Bearer first"})
        assert refused == 400

        (gap,) = [it for it in await findings(command) if it["check"] == "gaps"]
        assert (gap["level"], "1 open gap" in gap["text"]) == ("warning", True)
        fetch, close = gap["next"].removeprefix("konnect-relay konnect ").split(", then konnect-relay ")
        document = await command.document(*fetch.split())
        assert len(document["jobs"]) == 1
        await relay.command(*close.split())

        (gap,) = [it for it in await findings(command) if it["check"] == "gaps"]
        assert gap["level"] == "ok"


async def test_a_relay_that_is_down_is_several_problems(
    konnect: FakeKonnect, command: Commands, relay: RelayProcess
) -> None:
    """Exit status 1, a line for each finding, no stack trace and no secret."""
    konnect.organisation.bind(f"{command.settings['url']}/audit-logs/elsewhere", "Bearer first")
    webhook = konnect.organisation.webhook(Place())
    webhook.failing, webhook.last_attempt_at, webhook.last_code = True, SystemClock().now(), 401

    code, out, err = await command("doctor")

    assert (code, err) == (1, "")
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "ok      access",
        "PROBLEM webhook",
        "PROBLEM endpoint",
        "PROBLEM intake",
        "PROBLEM last batch",
        "ok      clock",
        "WARNING relay",
    ]
    assert "Bearer" not in out
    assert TOKEN not in out


# The certificate from outside's view


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def context_of(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


async def test_an_untrusted_certificate(authority: trustme.CA) -> None:
    """Nobody vouches for it."""
    async with Siem(tls=context_of(authority.issue_cert("localhost"))) as server:
        seen = await certificate(server.url)

    assert seen is not None
    assert seen.untrusted
    assert "not trusted" in str(seen.problem)


async def test_an_expired_certificate(authority: trustme.CA, ca_file: Path) -> None:
    """It says so."""
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    leaf = authority.issue_cert("localhost", not_after=past)
    async with Siem(tls=context_of(leaf)) as server:
        seen = await certificate(server.url, ca_file=ca_file)

    assert seen is not None
    assert "expired" in str(seen.problem)


async def test_a_certificate_for_another_name(authority: trustme.CA, ca_file: Path) -> None:
    """Konnect compares the name as well."""
    async with Siem(tls=context_of(authority.issue_cert("other.example.com"))) as server:
        seen = await certificate(server.url, ca_file=ca_file)

    assert seen is not None
    assert "localhost" in str(seen.problem)


async def test_a_port_nobody_listens_on() -> None:
    """No handshake, no certificate."""
    seen = await certificate(f"https://127.0.0.1:{free_port()}/x")

    assert seen is not None
    assert seen.problem is not None
    assert not seen.untrusted


async def test_a_listener_without_tls() -> None:
    """What answers there is no HTTPS."""
    async with Siem() as server:
        seen = await certificate(f"https://127.0.0.1:{server.port}/x")

    assert seen is not None
    assert "handshake" in str(seen.problem)


async def test_a_good_certificate_tells_its_end(authority: trustme.CA, ca_file: Path) -> None:
    """To the second."""
    end = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=9)
    leaf = authority.issue_cert("localhost", not_after=end)
    async with Siem(tls=context_of(leaf)) as server:
        seen = await certificate(server.url, ca_file=ca_file)

    assert seen is not None
    assert (seen.problem, seen.expires_at) == (None, end.timestamp())


@pytest.mark.parametrize("endpoint", ["https://host:port/x", "https://user:s3cret@[::1", "mailto:x"])
async def test_an_endpoint_that_is_no_url(endpoint: str) -> None:
    """Whatever somebody has set in Konnect is judged, and not shown in full."""
    seen = await certificate(endpoint)
    answered = await knock(endpoint, Secret("Bearer x"))

    assert seen is not None
    assert seen.problem is not None
    assert (answered.status, answered.accepted) == (None, False)
    assert "s3cret" not in shown(endpoint)


async def test_without_tls_on_loopback_there_is_nothing_to_see() -> None:
    """A relay under test."""
    assert await certificate("http://127.0.0.1:1/x") is None
