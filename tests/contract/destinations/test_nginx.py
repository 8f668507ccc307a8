"""nginx, which we did not write: TLS, client certificates and compressed bodies as it understands them."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from relay.destinations.base import Delivered, Misconfigured
from tests.contract.destinations.kit import KINDS, Kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.nginx import Nginx
from tests.fakes.siem import Siem

CHUNK = chunk_of([*sample("cef"), b"\xff\xfe not UTF-8"], sample("json"), sample("cps"))
HTTP = Kind("http", "http")
GZIP = {"compression": "gzip"}


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[Nginx]:
    async with Nginx(tmp_path) as nginx:
        yield nginx


async def test_lines_byte_for_byte(nginx: Nginx) -> None:
    """What nginx has on its disk is what the queue has, compressed or not, small or large."""
    large = chunk_of([b"%d " % n + line for n in range(500) for line in sample("cef")])
    for batch in ({}, GZIP):
        config = HTTP.config(Siem(), url=nginx.url, tls=nginx.tls(), batch=batch)
        async with opened(config) as destination:
            for chunk in (CHUNK, large):
                assert isinstance(await destination.send(chunk), Delivered)

    plain, large_plain, packed, large_packed = nginx.bodies()
    assert plain == gzip.decompress(packed) == CHUNK.body
    assert large_plain == gzip.decompress(large_packed) == large.body
    assert len(large.body) > 4_000_000


async def test_stored_gzip_passed_through(nginx: Nginx) -> None:
    """Several gzip members in a row are one stream to gzip."""
    config = HTTP.config(Siem(), url=nginx.url, tls=nginx.tls(), passthrough_gzip=True)
    async with opened(config) as destination:
        assert isinstance(await destination.send(CHUNK), Delivered)

    assert nginx.lines() == list(CHUNK.lines())


@pytest.mark.parametrize("which", ["missing", "foreign"])
async def test_client_certificate_refused(nginx: Nginx, which: str) -> None:
    """nginx says 400 to a certificate it does not like, after the handshake: no event is spent on it."""
    tls = nginx.tls(by=trustme.CA())
    expected = "it refuses our client certificate"
    if which == "missing":
        tls = {"ca_file": tls["ca_file"]}
        expected = "it wants a client certificate and got none"
    for kind in KINDS:
        async with opened(kind.config(Siem(), url=nginx.url, tls=tls)) as destination:
            outcome = await destination.send(CHUNK)
            report = await destination.probe()

        assert isinstance(outcome, Misconfigured), kind.label
        assert outcome.response.detail == f"answered 400 Bad Request: {expected}"
        assert not report.ok, kind.label
    assert nginx.bodies() == []


async def test_plain_http(nginx: Nginx) -> None:
    """Without TLS to a TLS port nothing is spent either."""
    async with opened(HTTP.config(Siem(), url=nginx.url.replace("https:", "http:"))) as destination:
        outcome = await destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail == "answered 400 Bad Request: it wants https"
