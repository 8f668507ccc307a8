"""What arrives: bodies byte for byte, headers, addresses."""

from __future__ import annotations

import json

import pytest

from relay.batch import Chunk
from relay.destinations.base import Delivered
from relay.destinations.registry import build
from tests.contract.destinations.kit import KINDS, NOW, Kind, every_kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.clock import FakeClock
from tests.fakes.siem import Received, Siem

STRANGE = [b"\xff\xfe not UTF-8", b"\ttabs and trailing blanks  ", "é中🎉".encode(), b"\x00\x1b[31m"]
BY_LABEL = {kind.label: kind for kind in KINDS}

every_line_kind = pytest.mark.parametrize(
    "label", ["http-lines", "http-gzip", "http-passthrough", "sumologic"]
)


async def sent(kind: Kind, chunk: Chunk, **settings: object) -> Received:
    """The one request that a chunk becomes, which must have been a success."""
    async with Siem() as siem, opened(kind.config(siem, **settings)) as destination:
        siem.then(kind.take)
        assert isinstance(await destination.send(chunk), Delivered)
    (request,) = siem.requests
    return request


@every_line_kind
async def test_lines_are_untouched(label: str) -> None:
    """Every byte of every line arrives, in order, whatever the lines hold and wherever they lie."""
    chunk = chunk_of(sample("cef"), STRANGE, sample("edge_unproven"), sample("json"))

    request = await sent(BY_LABEL[label], chunk)

    assert request.body == chunk.body
    assert request.lines() == [*sample("cef"), *STRANGE, *sample("edge_unproven"), *sample("json")]
    assert request.headers["Content-Type"] == "text/plain"


@every_line_kind
async def test_a_part_of_batches(label: str) -> None:
    """A chunk that begins and ends inside batches sends exactly its own lines."""
    whole = chunk_of(sample("cef"), sample("json"))
    part = whole.cut(5)[1].cut(30)[0]

    request = await sent(BY_LABEL[label], part)

    assert request.lines() == [*sample("cef"), *sample("json")][5:35]


@every_line_kind
async def test_large_bodies(label: str) -> None:
    """A body of several megabytes takes other paths through compressor and client, and arrives the same."""
    lines = [b"%d " % n + line for n in range(500) for line in sample("cef")]
    chunk = chunk_of(lines[:7000], lines[7000:])

    request = await sent(BY_LABEL[label], chunk)

    assert len(chunk.body) > 4_000_000
    assert request.body == chunk.body


@every_kind
async def test_a_part_is_what_arrives_of_an_event(kind: Kind) -> None:
    """What `check --explain` shows of an event stands in the request once, byte for byte."""
    chunk = chunk_of([sample("cef")[0], b"no record \xff"], [sample("json")[0], sample("cps")[1]])
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(kind.take)
        await destination.send(chunk)
        unopened = build(kind.config(siem), clock=FakeClock(NOW))

    (request,) = siem.requests
    for event in chunk.events():
        part = unopened.part(event)
        assert isinstance(part, bytes)
        assert request.body.count(part) == 1


@pytest.mark.parametrize("label", [kind.label for kind in KINDS])
async def test_compression(label: str) -> None:
    """What is compressed says so, and nothing else does."""
    request = await sent(BY_LABEL[label], chunk_of(sample("json")))

    compressed = label not in {"http-lines", "http-ndjson", "http-array"}
    assert request.headers.get("Content-Encoding") == ("gzip" if compressed else None)
    assert (request.raw != request.body) == compressed
    assert request.headers["Content-Length"] == str(len(request.raw))


async def test_passthrough_sends_what_is_stored() -> None:
    """With pass-through the stored gzip goes out member by member without being packed anew."""
    chunk = chunk_of(sample("cef"), sample("json"))

    request = await sent(BY_LABEL["http-passthrough"], chunk)

    assert request.raw == b"".join(piece.batch.payload for piece in chunk.slices)


@pytest.mark.parametrize(("label", "content_type"), [("http-ndjson", "application/x-ndjson")])
async def test_ndjson(label: str, content_type: str) -> None:
    """JSON lines arrive as they are, CEF inside an object with its id."""
    chunk = chunk_of([sample("json")[0], sample("cef")[0]])

    request = await sent(BY_LABEL[label], chunk)

    first, second = request.lines()
    assert first == sample("json")[0]
    ids = [event.id for event in chunk.events()]
    assert json.loads(second) == {"message": sample("cef")[0].decode(), "event_id": ids[1]}
    assert request.headers["Content-Type"] == content_type


async def test_json_array() -> None:
    """The array holds one object for each event."""
    request = await sent(BY_LABEL["http-array"], chunk_of(sample("json"), sample("cps")))

    assert json.loads(request.body) == [json.loads(line) for line in [*sample("json"), *sample("cps")]]
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"authorization": "Splunk abc:def"}, "Splunk abc:def"),
        ({"bearer": "abc"}, "Bearer abc"),
        ({"basic": {"username": "relay", "password": "p:w"}}, "Basic cmVsYXk6cDp3"),
        ({"headers": {"authorization": "bare"}}, "bare"),
        ({}, None),
    ],
)
async def test_credentials(settings: dict[str, object], expected: str | None) -> None:
    """Every way to give credentials ends in one Authorization header, verbatim where it is given whole."""
    request = await sent(Kind("http", "http", settings), chunk_of([b"x"]))

    assert request.headers.getall("Authorization", [None]) == [expected]


async def test_method_headers_and_address() -> None:
    """Method, headers, content type and the whole address are what the configuration says."""
    kind = Kind(
        "http",
        "http",
        {"method": "PUT", "content_type": "text/x-cef", "headers": {"X-Tenant": "acme", "User-Agent": "us"}},
        path="/a%20b/c?d=e%2Ff&g=",
    )

    request = await sent(kind, chunk_of([b"x"]))

    assert request.method == "PUT"
    assert request.path == "/a%20b/c?d=e%2Ff&g="
    assert request.headers["Content-Type"] == "text/x-cef"
    assert request.headers["X-Tenant"] == "acme"
    assert request.headers.getall("User-Agent") == ["us"]


async def test_sumologic_metadata() -> None:
    """Category, name, host and fields go into Sumo Logic's headers; what is not set stays out."""
    kind = BY_LABEL["sumologic"]
    fields = {"env": "prod", "team": "platform"}

    request = await sent(kind, chunk_of([b"x"]), source_host="konghq.com", fields=fields)

    assert request.headers["X-Sumo-Category"] == "kong/audit"
    assert request.headers["X-Sumo-Host"] == "konghq.com"
    assert request.headers["X-Sumo-Fields"] == "env=prod,team=platform"
    assert "X-Sumo-Name" not in request.headers


@pytest.mark.parametrize(
    ("pasted", "path"),
    [
        ("", "/services/collector/event"),
        ("/", "/services/collector/event"),
        ("/services/collector", "/services/collector/event"),
        ("/services/collector/raw", "/services/collector/event"),
        ("/services/collector/event/1.0", "/services/collector/event"),
        ("/proxy/services/collector/event", "/proxy/services/collector/event"),
        ("/proxy/", "/proxy/services/collector/event"),
    ],
)
async def test_splunk_address(pasted: str, path: str) -> None:
    """Whatever part of the collector's address was pasted, events go to the event endpoint."""
    kind = BY_LABEL["splunk_hec"]

    request = await sent(Kind("x", kind.type, kind.settings, pasted, success=kind.success), chunk_of([b"x"]))

    assert request.path == path


async def test_splunk_request() -> None:
    """Objects stand one after another with token, channel, and each event's own bytes and id."""
    chunk = chunk_of(sample("cef")[:2], sample("json")[:2], sample("cps")[:2])

    request = await sent(BY_LABEL["splunk_hec"], chunk)

    objects = [json.loads(line) for line in request.body.split(b"\n")]
    cef, records = sample("cef")[:2], sample("json")[:2]
    assert [o["event"] for o in objects[:2]] == [line.decode() for line in cef]
    assert [o["event"] for o in objects[2:]] == [json.loads(line) for line in [*records, *records]]
    assert all(record in request.body for record in records)
    assert [o["fields"]["event_id"] for o in objects] == [event.id for event in chunk.events()]
    assert {o["index"] for o in objects} == {"audit"}
    assert request.headers["Authorization"] == "Splunk hec-t0ken-0123"
    assert len(request.headers["X-Splunk-Request-Channel"]) == 36


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/api/v1/ingest/hec"),
        ("/", "/api/v1/ingest/hec"),
        ("/services/collector", "/services/collector"),
        ("/api/ingest/hec/0123/v1/services/collector", "/api/ingest/hec/0123/v1/services/collector"),
    ],
)
async def test_logscale_address(path: str, expected: str) -> None:
    """A base URL gets LogScale's ingest path, a connector's address is used as it is."""
    kind = BY_LABEL["logscale"]

    request = await sent(Kind("x", kind.type, kind.settings, path), chunk_of(sample("cps")))

    assert request.path == expected
    assert request.headers["Authorization"] == "Bearer ingest-t0ken-0123"
    assert "X-Splunk-Request-Channel" not in request.headers
