"""The object stores: what is written, under which name, and what each answer means."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree as ET

import aiohttp
import obstore
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from relay.config.destination import DestinationConfig
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.registry import CONFIG_TYPES
from relay.errors import ConfigError
from tests.contract.destinations.kit import opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Answer, Behaviour, Received, Siem

LINES = sample("json")
CHUNK = chunk_of(LINES[:3], LINES[3:5])
DIGEST = hashlib.sha256(CHUNK.body).hexdigest()
MORE = chunk_of(LINES[:3], LINES[3:5], LINES[5:8])  # the same, and what came after it

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SESSION_TOKEN = "IQoJb3JpZ2luX2VjEXAMPLEsession//token=="
ACCOUNT_KEY = "a2V5LW9mLXRoZS1zdG9yYWdlLWFjY291bnQ="
SAS = "sv=2024-11-04&se=2030-01-01&sp=c&sr=c&sig=c2lnbmF0dXJlLW9mLWEtc2FzLXRva2Vu%3D"
SECRETS = (
    ACCESS_KEY,
    SECRET_KEY,
    SESSION_TOKEN,
    ACCOUNT_KEY,
    SAS,
    "c2lnbmF0dXJlLW9mLWEtc2FzLXRva2Vu",
    "Signature=",
    "Credential=",
)
STORED = Answer(200, headers={"ETag": '"5d41402abc4b2a76b9719d911017c592"'})


@pytest.fixture(autouse=True)
def no_credentials_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer's shell knows of a cloud is none of a test's business."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def s3(base: str, **more: object) -> DestinationConfig:
    return CONFIG_TYPES["s3"].model_validate(
        {
            "name": "archive",
            "type": "s3",
            "bucket": "audit",
            "region": "eu-west-1",
            "endpoint": base,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "session_token": SESSION_TOKEN,
            **more,
        }
    )


def azure(base: str, **more: object) -> DestinationConfig:
    credentials = {} if "sas_token" in more else {"account_key": ACCOUNT_KEY}
    return CONFIG_TYPES["azure_blob"].model_validate(
        {
            "name": "archive",
            "type": "azure_blob",
            "account": "acmeaudit",
            "container": "audit",
            "endpoint": base,
            **credentials,
            **more,
        }
    )


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def gcs(private_key: str) -> Callable[..., DestinationConfig]:
    def config(base: str, **more: object) -> DestinationConfig:
        account = {
            "type": "service_account",
            "client_email": "relay@acme.iam.gserviceaccount.com",
            "private_key_id": "0123456789abcdef",
            "private_key": private_key,
        }
        return CONFIG_TYPES["gcs"].model_validate(
            {
                "name": "archive",
                "type": "gcs",
                "bucket": "audit",
                "endpoint": base,
                "service_account_key": json.dumps(account),
                **more,
            }
        )

    return config


def fault(code: str, message: str = "") -> str:
    """An error as S3, Google's XML interface and Azure write it."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"
    )


# A server we did not write


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The address of moto's S3."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """A bucket at moto, and what is in it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.name = f"audit-{uuid4().hex}"

    async def make(self) -> None:
        async with aiohttp.ClientSession() as session, session.put(f"{self.base}/{self.name}") as answer:
            assert answer.status == 200

    async def keys(self) -> list[str]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.base}/{self.name}") as answer:
            listing = ET.fromstring(await answer.text())
        return [key.text or "" for key in listing.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]

    async def get(self, key: str) -> tuple[Mapping[str, str], bytes]:
        """The attributes of an object and its bytes; moto wants these requests signed."""
        store = S3Store(
            self.name,
            endpoint=self.base,
            region="eu-west-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
        )
        found = await obstore.get_async(store, key)
        return found.attributes, bytes(await found.bytes_async())


@pytest.fixture
async def bucket(moto: str) -> Bucket:
    bucket = Bucket(moto)
    await bucket.make()
    return bucket


async def test_missing_bucket(moto: str) -> None:
    """A bucket that does not exist holds the destination."""
    async with opened(s3(moto, bucket="nobody-made-this")) as destination:
        outcome = await destination.send(CHUNK)
        report = await destination.probe()

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail == "answered 404 Not Found: there is no such bucket or container"
    assert outcome.response.excerpt == b"NoSuchBucket: The specified bucket does not exist"
    assert not report.ok
    assert report.detail == outcome.response.detail


async def test_sent_again(bucket: Bucket) -> None:
    """The same chunk makes the same object: the second upload is refused, which is what is wanted."""
    config = s3(bucket.base, bucket=bucket.name)
    async with opened(config) as destination:
        first = await destination.send(CHUNK)
    async with opened(config) as destination:
        second = await destination.send(CHUNK)

    assert isinstance(first, Delivered)
    assert first.response.status == 200
    assert isinstance(second, Delivered)
    assert second.response.status == 412
    assert "the same object is there already" in second.response.detail
    assert len(await bucket.keys()) == 1


async def test_object(bucket: Bucket) -> None:
    """Key, headers and content are what the page promises; the lines are byte for byte those received."""
    async with opened(s3(bucket.base, bucket=bucket.name, prefix="kong/audit")) as destination:
        outcome = await destination.send(CHUNK)
    (key,) = await bucket.keys()
    headers, content = await bucket.get(key)

    assert key == f"kong/audit/dt=2025-06-18/hh=21/20250618T210106889Z-{DIGEST}.ndjson.gz"
    assert outcome.response.detail == f"{len(content)} bytes stored as {key}"
    assert headers["Content-Type"] == "application/x-ndjson"
    assert headers.keys() == {"Content-Type"}
    assert content[4:8] == bytes(4)  # no time stamp
    assert gzip.decompress(content) == b"".join(line + b"\n" for line in LINES[:5])


@pytest.mark.parametrize("lines", [sample("cef"), [*LINES[:2], b"neither"], [b'no {"object": 1}'], [b""]])
async def test_plain_text(bucket: Bucket, lines: list[bytes]) -> None:
    """Where a line is no object, the whole is called plain text."""
    async with opened(s3(bucket.base, bucket=bucket.name, prefix="")) as destination:
        await destination.send(chunk_of(lines))
    (key,) = await bucket.keys()
    headers, content = await bucket.get(key)

    assert key.startswith("dt=")
    assert headers["Content-Type"].startswith("text/plain")
    assert gzip.decompress(content) == b"".join(line + b"\n" for line in lines)


async def test_probe_of_a_bucket(bucket: Bucket) -> None:
    """A probe lists, leaves nothing and says that writing was not tried."""
    async with opened(s3(bucket.base, bucket=bucket.name)) as destination:
        report = await destination.probe()

    assert report.ok
    assert report.detail == "can be listed; whether it can be written to was not tried"
    assert await bucket.keys() == []


# Answers of S3


@pytest.mark.parametrize(
    ("status", "code", "kind", "kept", "words"),
    [
        (403, "AccessDenied", Misconfigured, 403, "they may not do this"),
        (403, "InvalidAccessKeyId", Misconfigured, 403, "does not know our access key"),
        (403, "SignatureDoesNotMatch", Misconfigured, 403, "does not belong to the access key"),
        (400, "ExpiredToken", Misconfigured, 400, "have expired"),
        (401, "", Misconfigured, 401, "refuses our credentials"),
        (404, "NoSuchBucket", Misconfigured, 404, "no such bucket"),
        (404, "", Misconfigured, 404, "no such bucket"),
        (400, "AuthorizationHeaderMalformed", Misconfigured, 400, "another region"),
        (400, "InvalidArgument", Misconfigured, 400, "whatever the events"),
        (405, "MethodNotAllowed", Misconfigured, 405, "whatever the events"),
        (304, "", Misconfigured, 304, "another region, or at another address"),
        (413, "EntityTooLarge", TooLarge, 413, ""),
        (400, "EntityTooLarge", TooLarge, 400, ""),
        (429, "", Throttled, 429, "fewer requests"),
        (503, "SlowDown", Throttled, 503, "fewer requests"),
        (503, "ServiceUnavailable", Transient, 503, ""),
        (500, "InternalError", Transient, 500, ""),
        (504, "", Transient, 504, ""),
        (408, "", Transient, 408, ""),
        (400, "RequestTimeout", Transient, None, "whole request in time"),
        (403, "RequestTimeTooSkewed", Transient, None, "is the time here right?"),
        (403, "RequestExpired", Transient, None, "is the time here right?"),
        (400, "XAmzContentSHA256Mismatch", Transient, None, "damaged"),
        (409, "ConditionalRequestConflict", Transient, None, "another upload of the same object"),
        (409, "OperationAborted", Transient, None, "another operation"),
        (409, "", Transient, None, "at the same time"),
        (412, "PreconditionFailed", Delivered, 412, "there already"),
        (412, "", Delivered, 412, "there already"),
    ],
)
async def test_answers(status: int, code: str, kind: type[Outcome], kept: int | None, words: str) -> None:
    """Each answer means what S3's error codes say, is asked for once, and 409 is not 412.

    Where the code contradicts the status, `retry.on` does not get to see the status.
    """
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        body = fault(code, "Some words.") if code else ""
        siem.answer(status, body=body, headers={"Retry-After": "7"})
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, kind)
    assert outcome.response.status == kept
    assert words in outcome.response.detail
    assert outcome.response.excerpt == (f"{code}: Some words.".encode() if code and status != 304 else b"")
    assert len(siem.requests) == 1


async def test_redirect() -> None:
    """A bucket in another region answers with a redirect, which is not followed."""
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        siem.answer(301, body=fault("PermanentRedirect"), headers={"Location": f"{siem.base}/elsewhere"})
        siem.answer(307, headers={"Location": f"{siem.base}/elsewhere"})
        outcomes = [await destination.send(CHUNK), await destination.send(CHUNK)]

    for outcome in outcomes:
        assert isinstance(outcome, Misconfigured)
        assert "the bucket is in another region" in outcome.response.detail
    assert len(siem.requests) == 2


async def test_no_conditions() -> None:
    """A store that knows no conditional put gets a plain one, and is not asked again in this process."""
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        siem.answer(501, body=fault("NotImplemented", "A header you provided is not implemented")).then(
            STORED
        )
        outcomes = [await destination.send(CHUNK), await destination.send(CHUNK)]

    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    assert [request.headers.get("If-None-Match") for request in siem.requests] == ["*", None, None]
    assert len({(request.path, request.raw) for request in siem.requests}) == 1


async def test_no_put_at_all() -> None:
    """A store that implements not even the plain put is none."""
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        siem.then(501)
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert len(siem.requests) == 2


async def test_success_of_something_else() -> None:
    """A 200 without an ETag does not come from an object store, so nothing is believed to be stored."""
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail == "answered, but not as an object store does: is the address right?"


async def test_request() -> None:
    """The request is signed, carries a checksum (locked buckets want one) and says who we are."""
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        siem.then(STORED)
        await destination.send(CHUNK)
        (request,) = siem.requests

    assert request.headers["Authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/")
    assert request.headers["x-amz-security-token"] == SESSION_TOKEN
    assert request.headers["x-amz-checksum-sha256"]
    assert request.headers["User-Agent"].startswith("konnect-relay/")
    assert request.headers["Content-Type"] == "application/x-ndjson"
    assert "Content-Encoding" not in request.headers


# No answer


async def test_hang() -> None:
    """A store that does not answer costs the time-out and no more; the connection is given up."""
    async with Siem() as siem, opened(s3(siem.base, timeout=0.2)) as destination:
        siem.then(Answer(hang=True))
        outcome = await destination.send(CHUNK)
        report = await destination.probe()
        await siem.disconnected()

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == report.detail == "no complete answer within 0.2 s"
    assert outcome.response.status is None
    assert not report.ok


async def test_no_connection() -> None:
    """Whatever keeps an answer from coming is told in our own words and tried again."""

    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.transport.abort()

    async def mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()

    said = []
    for handler in (slam, mumble):
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, opened(s3(f"http://127.0.0.1:{port}")) as destination:
            said.append(await destination.send(CHUNK))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    for base in (f"http://127.0.0.1:{port}", "http://nowhere.invalid"):
        async with opened(s3(base)) as destination:
            said.append(await destination.send(CHUNK))

    assert all(isinstance(outcome, Transient) for outcome in said)
    assert [outcome.response.detail for outcome in said] == [
        "the connection broke before an answer came",
        "the answer is not HTTP",
        "cannot connect: Connection refused",
        "its name cannot be resolved",
    ]


# Chunks of unknown fate


async def test_in_doubt() -> None:
    """After a failure that may have come too late, the same object is written again, though more events
    are there by now; they follow."""
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        siem.answer(500).answer(504).answer(412).then(STORED)
        lost = await destination.send(CHUNK)
        busy = await destination.send(MORE)
        again = await destination.send(MORE)
        rest = await destination.send(MORE.cut(len(CHUNK))[1])

    assert isinstance(lost, Transient)
    assert isinstance(busy, Transient)
    assert again == Partial(again.response, tuple(range(len(CHUNK))), ())
    assert isinstance(rest, Delivered)
    paths = [request.path for request in siem.requests]
    assert len(set(paths[:3])) == 1
    assert DIGEST in paths[0]
    assert DIGEST not in paths[3]


async def test_doubt_ends() -> None:
    """An answer that leaves no doubt, and a shorter chunk, go as they come."""
    short = CHUNK.cut(2)[0]
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        siem.answer(500).answer(403).then(STORED)
        assert isinstance(await destination.send(CHUNK), Transient)
        assert isinstance(await destination.send(CHUNK), Misconfigured)
        assert isinstance(await destination.send(MORE), Delivered)
        siem.answer(500)
        await destination.send(MORE)
        assert isinstance(await destination.send(short), Delivered)
        assert isinstance(await destination.send(MORE), Delivered)

    digests = [request.path.split("Z-")[1][:64] for request in siem.requests]
    assert digests == [
        hashlib.sha256(chunk.body).hexdigest() for chunk in (CHUNK, CHUNK, MORE, MORE, short, MORE)
    ]


# Probes


@pytest.mark.parametrize(
    ("answer", "ok", "words"),
    [
        (Answer(403, fault("AccessDenied").encode()), True, "nor the right to write to it is proven"),
        (Answer(403, fault("InvalidAccessKeyId").encode()), False, "does not know our access key"),
        (Answer(403), False, "refuses our credentials"),
        (Answer(404, fault("NoSuchBucket").encode()), False, "no such bucket"),
        (Answer(301), False, "another region"),
        (Answer(503, fault("SlowDown").encode()), False, "fewer requests"),
        (Answer(200, b"<html>Welcome"), False, "not as an object store does"),
    ],
)
async def test_probe(answer: Answer, ok: bool, words: str) -> None:
    """A probe tells credentials from permissions, and never puts anything."""
    async with Siem() as siem, opened(s3(siem.base)) as destination:
        siem.then(answer)
        report = await destination.probe()

    assert report.ok is ok
    assert words in report.detail
    assert {request.method for request in siem.requests} == {"GET"}


# Credentials


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


# Google and Azure


async def test_gcs(gcs: Callable[..., DestinationConfig]) -> None:
    """Google's condition is another header; its answers are read like S3's."""
    async with Siem() as siem, opened(gcs(siem.base)) as destination:
        siem.act(STORED).answer(412, body=fault("PreconditionFailed")).answer(403, body=fault("AccessDenied"))
        siem.answer(404, body=fault("NoSuchBucket")).answer(503, body=fault("ServiceUnavailable"))
        outcomes = [await destination.send(CHUNK) for _ in range(5)]

    assert [type(outcome) for outcome in outcomes] == [
        Delivered,
        Delivered,
        Misconfigured,
        Misconfigured,
        Transient,
    ]
    request = siem.requests[0]
    assert request.headers["x-goog-if-generation-match"] == "0"
    assert request.headers["Content-Type"] == "application/x-ndjson"
    assert request.headers["Authorization"].startswith("Bearer ")
    assert gzip.decompress(request.raw) == CHUNK.body


async def test_may_not_replace(gcs: Callable[..., DestinationConfig]) -> None:
    """Credentials that may only create are refused for what is there already; that is no fault of theirs."""
    denied = fault("AccessDenied", "Access denied.").replace(
        "<RequestId>",
        "<Details>relay does not have storage.objects.%s access to the object.</Details><RequestId>",
    )
    async with Siem() as siem:
        siem.answer(403, body=denied.replace("%s", "delete")).answer(403, body=denied.replace("%s", "create"))
        siem.answer(403, body=fault("UnauthorizedBlobOverwrite"))
        siem.answer(403, body=fault("AuthorizationPermissionMismatch"))
        async with opened(gcs(siem.base)) as destination:
            google = [await destination.send(CHUNK), await destination.send(CHUNK)]
        async with opened(azure(siem.base, sas_token=SAS)) as destination:
            microsoft = [await destination.send(CHUNK), await destination.send(CHUNK)]

    for there, denied_for_good in (google, microsoft):
        assert isinstance(there, Delivered)
        assert isinstance(denied_for_good, Misconfigured)


@pytest.mark.parametrize("credential", [{}, {"sas_token": SAS}, {"sas_token": f"?{SAS}"}])
async def test_azure(credential: dict[str, object]) -> None:
    """Azure calls an existing blob a conflict; other conflicts pass."""
    created = Answer(201, headers=STORED.headers)
    async with Siem() as siem, opened(azure(siem.base, **credential)) as destination:
        siem.act(created).answer(409, body=fault("BlobAlreadyExists", "The specified blob already exists."))
        siem.answer(409, body=fault("ContainerBeingDeleted")).answer(404, body=fault("ContainerNotFound"))
        siem.answer(403, body=fault("AuthenticationFailed")).answer(503, body=fault("ServerBusy"))
        outcomes = [await destination.send(CHUNK) for _ in range(6)]

    assert [type(outcome) for outcome in outcomes] == [
        Delivered,
        Delivered,
        Transient,
        Misconfigured,
        Misconfigured,
        Throttled,
    ]
    request = siem.requests[0]
    assert request.path.startswith(f"/audit/konnect-audit/dt=2025-06-18/hh=21/20250618T210106889Z-{DIGEST}")
    assert request.headers["If-None-Match"] == "*"
    assert request.headers["x-ms-blob-content-type"] == "application/x-ndjson"
    assert ("sig=c2ln" in request.path) is bool(credential)


# Secrets


def echo(status: int) -> Behaviour:
    """An answer that repeats the request, as S3 does in part when a signature is wrong."""

    def answer(request: Received) -> Answer:
        said = " ".join([request.path, *(f"{name}: {value}" for name, value in request.headers.items())])
        return Answer(status, fault("SignatureDoesNotMatch", said.replace("&", "&amp;")).encode())

    return answer


@pytest.fixture(params=["s3", "azure", "azure-sas", "gcs"])
def config_of(
    request: pytest.FixtureRequest, gcs: Callable[..., DestinationConfig]
) -> Callable[..., DestinationConfig]:
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
        config = config_of(siem.base, timeout=0.2)
        async with opened(config) as destination:
            said: list[object] = [await destination.send(CHUNK), destination]
    async with opened(config) as destination:
        said += [await destination.send(CHUNK), await destination.probe()]

    for secret in (*SECRETS, "PRIVATE KEY"):
        assert secret not in f"{said!r} {config!r} {config} {config.model_dump_json()} {caplog.text}"
