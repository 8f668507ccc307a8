"""Certificates: whom a destination trusts, and whom it shows its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from relay.destinations.base import Delivered, Misconfigured, Transient
from relay.errors import ConfigError
from tests.contract.destinations.kit import Kind, every_kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Siem

CHUNK = chunk_of(sample("cef")[:3])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    return server_context(authority.issue_cert("localhost"))


@every_kind
async def test_trusted(kind: Kind, context: ssl.SSLContext, ca_file: Path) -> None:
    """A certificate of the configured authority is good."""
    async with Siem(tls=context) as siem:
        siem.then(kind.take)
        async with opened(kind.config(siem, tls={"ca_file": ca_file})) as destination:
            assert isinstance(await destination.send(CHUNK), Delivered)


@every_kind
async def test_untrusted(kind: Kind, context: ssl.SSLContext) -> None:
    """A certificate nobody vouches for holds the destination and sends nothing."""
    async with Siem(tls=context) as siem, opened(kind.config(siem)) as destination:
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail.startswith("its certificate is not trusted: ")
    assert siem.requests == []


@every_kind
async def test_not_verified(kind: Kind, context: ssl.SSLContext) -> None:
    """With `verify: false` any certificate will do."""
    async with Siem(tls=context) as siem:
        siem.then(kind.take)
        async with opened(kind.config(siem, tls={"verify": False})) as destination:
            assert isinstance(await destination.send(CHUNK), Delivered)


async def test_another_hosts_certificate(authority: trustme.CA, ca_file: Path) -> None:
    """The right authority does not help a certificate for another name."""
    context = server_context(authority.issue_cert("siem.example.com"))
    kind = Kind("http", "http")
    async with (
        Siem(tls=context) as siem,
        opened(kind.config(siem, tls={"ca_file": ca_file})) as destination,
    ):
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert "localhost" in outcome.response.detail


async def test_expired_certificate(authority: trustme.CA, ca_file: Path) -> None:
    """An expired certificate holds the destination and says why."""
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    context = server_context(authority.issue_cert("localhost", not_after=long_ago))
    kind = Kind("http", "http")
    async with (
        Siem(tls=context) as siem,
        opened(kind.config(siem, tls={"ca_file": ca_file})) as destination,
    ):
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail == "its certificate is not trusted: certificate has expired"


async def test_client_certificate(
    authority: trustme.CA, context: ssl.SSLContext, ca_file: Path, tmp_path: Path
) -> None:
    """A destination that asks for our certificate gets it."""
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = authority.issue_cert("relay.example.com")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    ours.cert_chain_pems[0].write_to_path(str(cert))
    ours.private_key_pem.write_to_path(str(key))
    kind = Kind("http", "http")
    tls = {"ca_file": ca_file, "cert": cert, "key": key}
    async with Siem(tls=context) as siem, opened(kind.config(siem, tls=tls)) as destination:
        assert isinstance(await destination.send(CHUNK), Delivered)


def refuse(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Serve one TLS handshake that fails, with the alert that asyncio's own server swallows."""
    connection, _ = listener.accept()
    with connection, context.wrap_socket(connection, True, do_handshake_on_connect=False) as wrapped:
        with pytest.raises(ssl.SSLError):
            wrapped.do_handshake()
        plain = socket.socket(fileno=wrapped.detach())
        with plain:
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65536):
                pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_client_certificate(
    version: ssl.TLSVersion, authority: trustme.CA, context: ssl.SSLContext, ca_file: Path
) -> None:
    """Where ours is missing, the destination is held: trying again would not bring one."""
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    kind = Kind("http", "http", {"tls": {"ca_file": ca_file}})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://localhost:{listener.getsockname()[1]}/"
        async with opened(kind.config(Siem(), url=url)) as destination, asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(refuse, listener, context))
            outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail.startswith("it refuses our client certificate")


async def test_tls_to_a_plain_port() -> None:
    """A port that speaks no TLS may be a proxy that is still starting: tried again."""
    async with Siem() as siem:
        kind = Kind("http", "http")
        async with opened(kind.config(siem, url=f"https://127.0.0.1:{siem.port}/")) as destination:
            outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == "the TLS handshake failed"


async def test_plain_to_a_tls_port(context: ssl.SSLContext) -> None:
    """The other way round it is tried again as well."""
    async with Siem(tls=context) as siem:
        kind = Kind("http", "http")
        async with opened(kind.config(siem, url=f"http://127.0.0.1:{siem.port}/")) as destination:
            outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Transient)


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_unusable_files(content: str | None, tmp_path: Path) -> None:
    """A certificate file that is missing or holds something else is a fault of the configuration."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    siem = Siem(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    siem.port = 443
    kind = Kind("http", "http")

    for tls in ({"ca_file": path}, {"cert": path, "key": path}):
        with pytest.raises(ConfigError, match=r"tls\.(ca_file|cert): .*ca\.pem cannot be used"):
            async with opened(kind.config(siem, tls=tls)):
                pass
