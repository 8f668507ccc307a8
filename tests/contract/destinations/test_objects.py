"""The object stores: what is written, under which name, and never twice."""

from __future__ import annotations

import gzip
import hashlib
import logging
from collections.abc import Iterator, Mapping
from uuid import uuid4
from xml.etree import ElementTree as ET

import aiohttp
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from relay.destinations.base import Delivered, Misconfigured, Partial, Transient
from tests.contract.destinations.kit import opened
from tests.contract.destinations.object_kit import (
    ACCESS_KEY,
    CHUNK,
    DIGEST,
    LINES,
    MORE,
    SECRET_KEY,
    SESSION_TOKEN,
    STORED,
    s3,
)
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Siem


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
