"""The object stores: what each answer means, and what it means that there is none."""

from __future__ import annotations

import asyncio
import gzip
import socket

import pytest

from relay.destinations.base import Delivered, Misconfigured, Outcome, Throttled, TooLarge, Transient
from tests.contract.destinations.kit import opened
from tests.contract.destinations.object_kit import CHUNK, DIGEST, SAS, STORED, azure, fault, gcs, s3
from tests.fakes.siem import Answer, Siem


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


# Google and Azure


async def test_gcs() -> None:
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


async def test_may_not_replace() -> None:
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


# No answer


async def test_hang() -> None:
    """A store that does not answer costs the time-out and no more; the connection is given up."""
    async with Siem() as siem, opened(s3(siem.base, timeout=1)) as destination:
        siem.then(Answer(hang=True))
        outcome = await destination.send(CHUNK)
        report = await destination.probe()
        await siem.disconnected()

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == report.detail == "no complete answer within 1 s"
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
