"""The object stores: whose credentials they use, whom they trust, and that they keep both to themselves."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trustme

from relay.config.destination import DestinationConfig
from relay.destinations.base import Delivered, Misconfigured, Outcome, Transient
from relay.errors import ConfigError
from tests.contract.destinations.kit import opened
from tests.contract.destinations.object_kit import (
    ACCESS_KEY,
    CHUNK,
    SAS,
    SECRETS,
    STORED,
    azure,
    fault,
    gcs,
    s3,
)
from tests.fakes.siem import Answer, Behaviour, Received, Siem


@pytest.fixture(autouse=True)
def no_credentials_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer's shell knows of a cloud is none of a test's business."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


async def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are left out come from the environment, as every AWS tool reads it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFROMENVIRONMENT0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-environment")
    left_out: dict[str, object] = dict.fromkeys(("access_key_id", "secret_access_key", "session_token"), "")
    async with Siem() as siem, opened(s3(siem.base, **left_out)) as destination:
        siem.then(STORED)
        await destination.send(CHUNK)

    assert "Credential=AKIAFROMENVIRONMENT0/" in siem.requests[0].headers["Authorization"]


async def test_environment_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says is not mixed with configured credentials, and its proxies are not used."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-another-key")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with Siem() as siem, opened(s3(siem.base, session_token="")) as destination:
        siem.then(STORED)
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Delivered)
    assert "x-amz-security-token" not in siem.requests[0].headers
    assert ACCESS_KEY in siem.requests[0].headers["Authorization"]


@pytest.mark.parametrize(("status", "kind"), [(403, Misconfigured), (404, Misconfigured), (503, Transient)])
async def test_no_role(status: int, kind: type[Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has no role to lend, it is said that credentials are missing, not events refused."""
    left_out: dict[str, object] = dict.fromkeys(("access_key_id", "secret_access_key", "session_token"), "")
    async with Siem() as metadata, Siem() as siem:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.base)
        metadata.then(status)
        async with opened(s3(siem.base, **left_out)) as destination:
            outcome = await destination.send(CHUNK)
            report = await destination.probe()

    assert isinstance(outcome, kind)
    assert outcome.response.detail.startswith(f"the credentials could not be fetched: answered {status}")
    assert outcome.response.status is None
    assert not report.ok
    assert siem.requests == []


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def test_tls(authority: trustme.CA, tmp_path: Path) -> None:
    """An authority of one's own is trusted, `verify: false` trusts anybody, and nobody else gets anything."""
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    async with Siem(tls=server_context(authority.issue_cert("localhost"))) as siem:
        siem.then(STORED)
        async with opened(s3(siem.base)) as destination:
            untrusted = await destination.send(CHUNK)
            assert siem.requests == []
        async with opened(s3(siem.base, tls={"ca_file": ca_file})) as destination:
            trusted = await destination.send(CHUNK)
        async with opened(s3(siem.base, tls={"verify": False})) as destination:
            unchecked = await destination.send(CHUNK)
    async with (
        Siem(tls=server_context(authority.issue_cert("s3.example.com"))) as siem,
        opened(s3(siem.base, tls={"ca_file": ca_file})) as destination,
    ):
        another = await destination.send(CHUNK)

    assert isinstance(untrusted, Misconfigured)
    assert untrusted.response.detail == "its certificate is not trusted: nobody we trust has issued it"
    assert isinstance(trusted, Delivered)
    assert isinstance(unchecked, Delivered)
    assert isinstance(another, Misconfigured)
    assert another.response.detail == "its certificate is not trusted: it is for another name"


async def test_unusable_ca_file(tmp_path: Path) -> None:
    """A certificate file that is missing, or is none, is a fault of the configuration."""
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    for path in (tmp_path / "missing.pem", junk, broken):
        with pytest.raises(ConfigError, match="ca_file"):
            async with opened(s3("https://localhost:1", tls={"ca_file": path})):
                pass


# Secrets


def echo(status: int) -> Behaviour:
    """An answer that repeats the request, as S3 does in part when a signature is wrong."""

    def answer(request: Received) -> Answer:
        said = " ".join([request.path, *(f"{name}: {value}" for name, value in request.headers.items())])
        return Answer(status, fault("SignatureDoesNotMatch", said.replace("&", "&amp;")).encode())

    return answer


@pytest.fixture(params=["s3", "azure", "azure-sas", "gcs"])
def config_of(request: pytest.FixtureRequest) -> Callable[..., DestinationConfig]:
    """A configuration of each type and kind of credential, given the address of the store."""
    kinds: dict[str, Callable[..., DestinationConfig]] = {
        "s3": s3,
        "azure": azure,
        "azure-sas": partial(azure, sas_token=SAS),
        "gcs": gcs,
    }
    return kinds[request.param]


async def test_echo(config_of: Callable[..., DestinationConfig], caplog: pytest.LogCaptureFixture) -> None:
    """Nothing we say of an answer holds a credential or what is made of one, even where it repeats them."""
    caplog.set_level(logging.DEBUG)
    said: list[object] = []
    async with Siem() as siem:
        for status in (200, 302, 400, 403, 404, 409, 429, 500, 501):
            siem.then(echo(status))
            async with opened(config_of(siem.base)) as destination:
                said += [await destination.send(CHUNK), await destination.probe(), destination]

    signed = [value for request in siem.requests for value in request.headers.getall("Authorization", [])]
    tokens = {part for value in signed for part in value.replace(":", " ").split() if len(part) > 30}
    assert tokens or all("sig=" in request.path for request in siem.requests)
    for secret in (*SECRETS, *tokens):
        assert secret not in f"{said!r} {caplog.text}"


async def test_silence(config_of: Callable[..., DestinationConfig], caplog: pytest.LogCaptureFixture) -> None:
    """Nothing we say of a missing answer, or of ourselves, holds a credential."""
    caplog.set_level(logging.DEBUG)
    async with Siem() as siem:
        siem.then(Answer(hang=True))
        config = config_of(siem.base, timeout=1)
        async with opened(config) as destination:
            said: list[object] = [await destination.send(CHUNK), destination]
    async with opened(config) as destination:
        said += [await destination.send(CHUNK), await destination.probe()]

    for secret in (*SECRETS, "PRIVATE KEY"):
        assert secret not in f"{said!r} {config!r} {config} {config.model_dump_json()} {caplog.text}"
