"""TLS of the listener: certificates that are renewed, and senders that have to show one."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from relay.config.schema import ServerTls
from relay.errors import ConfigError
from relay.ingest.tls import TlsFiles
from tests.contract.ingest.conftest import Launch, Rig
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, lines

BODY = b"".join(line + b"\n" for line in lines(3))


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


def trusting(ca: trustme.CA, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    return context


def write(folder: Path, ca: trustme.CA, *, key_of: trustme.LeafCert | None = None) -> dict[str, str]:
    """Write a fresh certificate and its key (or another's), as a renewal does: new files moved into place."""
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    texts = {
        "cert": b"".join(pem.bytes() for pem in leaf.cert_chain_pems),
        "key": (key_of or leaf).private_key_pem.bytes(),
    }
    for name, text in texts.items():
        (folder / f"{name}.new").write_bytes(text)
        (folder / f"{name}.new").replace(folder / f"{name}.pem")
    return {name: str(folder / f"{name}.pem") for name in texts}


async def serial(rig: Rig, ca: trustme.CA) -> object:
    """The serial number of the certificate that a new connection is shown."""
    sender = await rig.sender(trusting(ca))
    return sender.peer_certificate()["serialNumber"]


async def test_a_sender_that_does_not_speak_tls_stores_nothing(
    launch: Launch, tmp_path: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain HTTP on the TLS port is not understood, and no reason for a stack trace."""
    rig = await launch(tls=write(tmp_path, ca))
    plain = await rig.sender()
    plain.write(b"POST /audit-logs/eu HTTP/1.1\r\nContent-Length: 0\r\n\r\n")

    await plain.ended()

    assert await rig.stored() == []
    assert caplog.records == []


async def test_batches_come_in_over_tls(launch: Launch, tmp_path: Path, ca: trustme.CA) -> None:
    """Konnect posts to HTTPS addresses."""
    rig = await launch(tls=write(tmp_path, ca))
    sender = await rig.sender(trusting(ca))

    assert (await sender.post(BODY)).status == 200
    assert await rig.stored() == lines(3)


async def test_a_renewed_certificate_is_taken_up(launch: Launch, tmp_path: Path, ca: trustme.CA) -> None:
    """Changed files are noticed by themselves; open connections stay open."""
    clock = FakeClock(NOW)
    rig = await launch(clock=clock, tls=write(tmp_path, ca))
    before = await serial(rig, ca)
    sender = await rig.sender(trusting(ca))
    write(tmp_path, ca)
    assert await serial(rig, ca) == before

    await clock.advance(2.0)

    assert await serial(rig, ca) != before
    assert (await sender.post(BODY)).status == 200
    assert len(rig.log.named("ingest.certificate_renewed")) == 1


async def test_a_reload_takes_a_renewed_certificate_up(
    launch: Launch, tmp_path: Path, ca: trustme.CA
) -> None:
    """SIGHUP does not wait for the next look."""
    clock = FakeClock(NOW)
    rig = await launch(clock=clock, tls=write(tmp_path, ca))
    before = await serial(rig, ca)
    write(tmp_path, ca)

    rig.intake.reload([])

    assert await serial(rig, ca) != before


@pytest.mark.parametrize("fault", ["other key", "garbage", "gone"])
async def test_an_unusable_renewal_leaves_the_old_certificate(
    launch: Launch, tmp_path: Path, ca: trustme.CA, fault: str
) -> None:
    """Half a renewal is not taken up, and the other half is once it is there."""
    clock = FakeClock(NOW)
    rig = await launch(clock=clock, tls=write(tmp_path, ca))
    before = await serial(rig, ca)
    if fault == "other key":
        write(tmp_path, ca, key_of=ca.issue_cert("localhost"))
    elif fault == "garbage":
        (tmp_path / "cert.pem").write_text("-----BEGIN")
    else:
        (tmp_path / "cert.pem").unlink()

    await clock.advance(2.0)

    assert await serial(rig, ca) == before
    assert rig.log.named("ingest.certificate_refused")

    write(tmp_path, ca)
    await clock.advance(2.0)

    assert await serial(rig, ca) != before


async def test_a_sender_without_a_certificate_is_refused(
    launch: Launch, tmp_path: Path, ca: trustme.CA
) -> None:
    """With `client_ca` only senders with a certificate of that authority get in."""
    clients = trustme.CA()
    clients.cert_pem.write_to_path(tmp_path / "clients.pem")
    rig = await launch(tls=write(tmp_path, ca) | {"client_ca": str(tmp_path / "clients.pem")})

    for stranger in (None, ca.issue_cert("sender")):
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            # In TLS 1.3 a refusal arrives with the first read, or the connection just ends.
            await (await rig.sender(trusting(ca, stranger))).post(BODY)
    welcome = await rig.sender(trusting(ca, clients.issue_cert("sender")))

    assert (await welcome.post(BODY)).status == 200


async def test_an_added_client_authority_is_taken_up(launch: Launch, tmp_path: Path, ca: trustme.CA) -> None:
    """Rotating the senders' authority needs no restart: both are trusted for a while."""
    clients, successors = trustme.CA(), trustme.CA(organization_name="successors")
    both = tmp_path / "clients.pem"
    clients.cert_pem.write_to_path(both)
    rig = await launch(tls=write(tmp_path, ca) | {"client_ca": str(both)})
    successors.cert_pem.write_to_path(both, append=True)

    rig.intake.reload([])

    for authority in (clients, successors):
        sender = await rig.sender(trusting(ca, authority.issue_cert("sender")))
        assert (await sender.post(BODY, path="/nowhere")).status == 404


def test_unusable_files_are_a_configuration_error(tmp_path: Path, ca: trustme.CA) -> None:
    """A relay that cannot serve TLS does not start, and says which section is wrong."""
    files = write(tmp_path, ca)
    for broken in (
        files | {"key": str(tmp_path / "missing.pem")},
        files | {"key": files["cert"]},
        files | {"client_ca": str(tmp_path / "missing.pem")},
    ):
        with pytest.raises(ConfigError, match=r"^server\.tls: "):
            TlsFiles(ServerTls.model_validate(broken))
