"""`google_secops`: entries byte for byte, the signed assertion, and Google's answers in plain words."""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64decode
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from relay.batch import Chunk
from relay.destinations.base import Delivered, Misconfigured, Outcome, Partial, Rejected, TooLarge
from relay.destinations.google_secops import GoogleSecOpsConfig
from tests.contract.destinations.kit import KINDS, NOW, opened, token_answer
from tests.fakes import google_key
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Answer, Received, Siem

KIND = next(kind for kind in KINDS if kind.label == "google_secops")
GOLDEN = Path(__file__).parents[2] / "data" / "golden"
LOG_TYPE = (
    "/v1alpha/projects/acme-secops/locations/eu/instances/01234567-89ab-cdef-0123-456789abcdef"
    "/logTypes/KONG_GATEWAY"
)


async def sent(chunk: Chunk, **settings: object) -> tuple[Outcome, list[Received]]:
    """What became of *chunk*, and the requests it took."""
    async with Siem() as siem, opened(KIND.config(siem, **settings)) as destination:
        siem.then(KIND.take)
        return await destination.send(chunk), siem.requests


async def test_golden_body() -> None:
    """Every line becomes these very bytes, whatever it holds."""
    chunk = chunk_of([sample("cef")[0], sample("json")[0], sample("cps")[0], b"\xff\x00 no time"])

    outcome, (request,) = await sent(chunk, labels={"environment": "prod"})

    assert isinstance(outcome, Delivered)
    assert request.body == (GOLDEN / "google_secops.json").read_bytes()
    entries = json.loads(request.body)["inlineSource"]["logs"]
    assert [b64decode(entry["data"]) for entry in entries] == [event.line for event in chunk.events()]


async def test_without_forwarder_and_labels() -> None:
    """What is not set does not appear."""
    _, (request,) = await sent(chunk_of([b"x"]), forwarder=None)

    source = json.loads(request.body)["inlineSource"]
    assert source.keys() == {"logs"}
    assert source["logs"][0].keys() == {"data", "logEntryTime", "collectionTime"}


async def test_collected_after_it_happened() -> None:
    """An event from the future of our clock is collected right after it happened, as Google wants it."""
    _, (request,) = await sent(chunk_of([b'{"rt":1750280500999}', b'{"rt":1750280500250}', b"{}"]))

    entries = json.loads(request.body)["inlineSource"]["logs"]
    assert [(entry["logEntryTime"][17:], entry["collectionTime"][17:]) for entry in entries] == [
        ("40.999Z", "41.000Z"),
        ("40.250Z", "40.251Z"),
        ("40.250Z", "40.251Z"),
    ]


async def test_request() -> None:
    """Events are imported into the log type of the instance."""
    _, (request,) = await sent(chunk_of([b"x"]))

    assert (request.method, request.path) == ("POST", f"{LOG_TYPE}/logs:import")
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"url": None}, f"https://eu-chronicle.googleapis.com{LOG_TYPE}"),
        ({"url": "https://proxy.example.com/google/"}, f"https://proxy.example.com/google{LOG_TYPE}"),
        (
            {"url": None, "region": "us", "api_version": "v1"},
            f"https://us-chronicle.googleapis.com{LOG_TYPE.replace('v1alpha', 'v1').replace('/eu/', '/us/')}",
        ),
    ],
)
def test_addresses(settings: dict[str, object], expected: str) -> None:
    """The region makes the address, unless there is one."""
    config = KIND.config(Siem(), **settings)

    assert isinstance(config, GoogleSecOpsConfig)
    assert str(config.log_type_url()) == expected


async def test_assertion() -> None:
    """A token is asked for with a JWT for Google's own endpoint, signed with the account's key."""
    async with Siem() as siem, Siem() as tokens:
        siem.then(KIND.take)
        tokens.then(200, body=token_answer("t"))
        async with opened(KIND.config(siem, token_url=tokens.url)) as destination:
            await destination.send(chunk_of([b"x"]))
    (request,) = tokens.requests
    form = parse_qs(request.body.decode())
    (assertion,) = form["assertion"]
    signed, _, signature = assertion.rpartition(".")
    claims = json.loads(urlsafe_b64decode(signed.partition(".")[2] + "=="))

    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assert claims["aud"] == "https://oauth2.googleapis.com/token"
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert (claims["iat"], claims["exp"]) == (NOW, NOW + 3600)
    google_key.public_key().verify(urlsafe_b64decode(signature + "=="), signed.encode(), PKCS1v15(), SHA256())


def test_token_endpoint_of_the_key() -> None:
    """The key file itself says where its tokens come from."""
    config = KIND.config(Siem(), url=None)

    assert isinstance(config, GoogleSecOpsConfig)
    assert str(config.grant().url) == google_key.TOKEN_URI


async def test_one_megabyte() -> None:
    """A body has at most 1 MB though base64 adds a third; the rest is sent right after it."""
    chunk = chunk_of([b"x" * 90_000] * 10)

    outcome, (request,) = await sent(chunk)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == tuple(range(8))
    assert outcome.rejected == ()
    assert len(request.body) <= 1_000_000


@pytest.mark.parametrize("size", [1, 300])
async def test_default_chunks_fit(size: int) -> None:
    """A chunk of the default size never has to be cut, be its lines short or long."""
    config = KIND.config(Siem(), url=None)
    async with opened(config) as destination:
        overhead = destination.event_overhead
    count = config.batch.max_bytes // (size + overhead)

    outcome, (request,) = await sent(chunk_of([b"x" * size] * count))

    assert isinstance(outcome, Delivered)
    assert 690_000 < len(request.body) <= 1_000_000


ERROR = '{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"%s"}}'


@pytest.mark.parametrize(
    ("status", "body", "kind", "detail"),
    [
        (200, "<html>", Misconfigured, "but this is not how the Chronicle API answers"),
        (200, "[]", Misconfigured, "but this is not how the Chronicle API answers"),
        (201, "{}", Misconfigured, "which is not among the statuses that count as success here"),
        (400, ERROR % "bad timestamp", Rejected, "answered 400 Bad Request"),
        (400, ERROR % "Request payload size exceeds the limit", TooLarge, "answered 400 Bad Request"),
        (400, ERROR % "Forwarder not found", Misconfigured, "it does not know the forwarder or the log type"),
        (400, ERROR % "invalid log type", Misconfigured, "it does not know the forwarder or the log type"),
        (401, "", Misconfigured, "it refuses a fresh token"),
        (403, "", Misconfigured, "lacks the permission chronicle.logs.import on this instance"),
        (404, "", Misconfigured, "no such project, region, instance or log type at this address"),
    ],
)
async def test_answers(status: int, body: str, kind: type[Outcome], detail: str) -> None:
    """What is the same for all events is never blamed on one of them."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(status, body=body)
        outcome = await destination.send(chunk_of([b"x"]))

    assert type(outcome) is kind
    assert detail in outcome.response.detail


async def test_empty_success() -> None:
    """The reference promises an empty body, the server sends an empty object: both are good."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(Answer(200))
        outcome = await destination.send(chunk_of([b"x"]))

    assert isinstance(outcome, Delivered)


async def test_probe() -> None:
    """A probe reads the log type and stores nothing."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(200, body='{"name":"projects/…"}')
        report = await destination.probe()
    (request,) = siem.requests

    assert report.ok
    assert (request.method, request.path) == ("GET", LOG_TYPE)


async def test_probe_without_permission() -> None:
    """Events may be welcome where reading log types is not allowed; the probe says so."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(403)
        report = await destination.probe()

    assert not report.ok
    assert "chronicle.logTypes.get, which only a probe needs" in report.detail
