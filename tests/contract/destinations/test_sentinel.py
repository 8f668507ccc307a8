"""`sentinel`: rows byte for byte, Azure's limits, and its answers in plain words."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from relay.batch import Chunk
from relay.destinations.base import Delivered, Misconfigured, Outcome, Partial, Rejection
from relay.destinations.sentinel import SentinelConfig
from relay.model import Reason
from tests.contract.destinations.kit import KINDS, opened, token_answer
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Received, Siem

KIND = next(kind for kind in KINDS if kind.label == "sentinel")
GOLDEN = Path(__file__).parents[2] / "data" / "golden"
ODD = b'no "format" \\ known,\ttabs and \xff'
NO_ROLE = (
    "the application lacks the role Monitoring Metrics Publisher on the data collection rule; "
    "once granted it takes up to 30 minutes"
)
TOO_LONG = Reason.TOO_LARGE, "longer than the 64000 bytes that Azure stores untruncated"


async def sent(chunk: Chunk, **settings: object) -> tuple[Outcome, list[Received]]:
    """What became of *chunk*, and the requests it took."""
    async with Siem() as siem, opened(KIND.config(siem, **settings)) as destination:
        siem.then(KIND.take)
        return await destination.send(chunk), siem.requests


def test_columns_are_not_reserved() -> None:
    """No column has a name that Azure keeps for itself; each is one it allows."""
    reserved = {"_ResourceId", "id", "_SubscriptionId", "TenantId", "Type", "UniqueId", "Title"}
    columns = {
        name
        for file in GOLDEN.glob("sentinel_*.json")
        for row in json.loads(file.read_bytes())
        for name in row
    }

    assert columns == {"TimeGenerated", "EventTime", "RawData", "Event", "EventId", "Source"}
    assert not columns & reserved


@pytest.mark.parametrize("columns", ["raw", "dynamic"])
async def test_golden_body(columns: str) -> None:
    """CEF, JSON, CPS and what is neither become these very bytes."""
    chunk = chunk_of([sample("cef")[0], sample("json")[0], sample("cps")[0], ODD])

    outcome, (request,) = await sent(chunk, columns=columns)

    assert isinstance(outcome, Delivered)
    assert request.body == (GOLDEN / f"sentinel_{columns}.json").read_bytes()


async def test_request() -> None:
    """The stream of the rule is addressed, whatever else of the address was pasted."""
    _, (request,) = await sent(chunk_of([b"x"]))

    assert request.method == "POST"
    assert request.path == (
        "/dataCollectionRules/dcr-0123456789abcdef0123456789abcdef/streams/Custom-Konnect"
        "?api-version=2023-01-01"
    )
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("pasted", "prefix"),
    [("/", ""), ("/dataCollectionRules/dcr-1/streams/Custom-X?api-version=2021", ""), ("/proxy/", "/proxy")],
)
async def test_address(pasted: str, prefix: str) -> None:
    """A proxy's prefix stays, a pasted rule and stream give way to the configured ones."""
    async with Siem() as siem:
        config = KIND.config(siem, url=siem.base + pasted)
    assert isinstance(config, SentinelConfig)

    assert config.intake_url().path_qs == (
        f"{prefix}/dataCollectionRules/dcr-0123456789abcdef0123456789abcdef/streams/Custom-Konnect"
        "?api-version=2023-01-01"
    )


@pytest.mark.parametrize(
    ("cloud", "url", "scope"),
    [
        ("public", "https://login.microsoftonline.com", "https://monitor.azure.com/.default"),
        ("usgov", "https://login.microsoftonline.us", "https://monitor.azure.us/.default"),
        ("china", "https://login.partner.microsoftonline.cn", "https://monitor.azure.cn/.default"),
    ],
)
def test_clouds(cloud: str, url: str, scope: str) -> None:
    """Each cloud has its own login and scope."""
    config = KIND.config(Siem(), url="https://dce.example.com", cloud=cloud)
    assert isinstance(config, SentinelConfig)
    grant = config.grant()

    assert str(grant.url) == f"{url}/acme.onmicrosoft.com/oauth2/v2.0/token"
    assert grant.form(0)["scope"] == scope


async def test_token_request() -> None:
    """The token is asked for with the application's id and secret, for the scope that is set."""
    async with Siem() as siem, Siem() as tokens:
        siem.then(KIND.take)
        tokens.then(200, body=token_answer("t"))
        config = KIND.config(siem, token_url=tokens.url, scope="api://private/.default")
        async with opened(config) as destination:
            await destination.send(chunk_of([b"x"]))
    (request,) = tokens.requests

    assert parse_qs(request.body.decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": ["11111111-2222-3333-4444-555555555555"],
        "client_secret": ["cl1ent~s3cret/0123"],
        "scope": ["api://private/.default"],
    }


async def test_truncation_is_refused() -> None:
    """What Azure would cut silently is set aside, everything else arrives."""
    chunk = chunk_of([b"a", b"b" * 64_001, b"c" * 64_000, b"\xff" * 21_334, b"d"])

    outcome, (request,) = await sent(chunk)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 2, 4)
    assert outcome.rejected == (Rejection(1, *TOO_LONG), Rejection(3, *TOO_LONG))
    assert [row["RawData"][0] for row in json.loads(request.body)] == ["a", "c", "d"]


async def test_nothing_but_truncation() -> None:
    """Where every event is too long, no request is made."""
    outcome, requests = await sent(chunk_of([b"b" * 64_001] * 2))

    assert isinstance(outcome, Partial)
    assert outcome.rejected == (Rejection(0, *TOO_LONG), Rejection(1, *TOO_LONG))
    assert requests == []


async def test_one_megabyte() -> None:
    """A body has at most 1 MB however much escaping adds; the rest is sent right after it."""
    chunk = chunk_of([b'"' * 30_000] * 20)

    outcome, (request,) = await sent(chunk)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == tuple(range(16))
    assert outcome.rest is None
    assert len(json.loads(request.body)) == 16
    assert len(request.body) <= 1_000_000


async def test_unfit_beyond_the_cut() -> None:
    """Of events that were not looked at nothing is said."""
    chunk = chunk_of([b'"' * 30_000] * 10 + [b"x" * 70_000] + [b'"' * 30_000] * 10 + [b"x" * 70_000])

    outcome, _ = await sent(chunk)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (*range(10), *range(11, 17))
    assert [one.index for one in outcome.rejected] == [10]


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (200, "which is not among the statuses that count as success here"),
        (401, "it refuses a fresh token: are cloud, tenant and scope right?"),
        (403, NO_ROLE),
        (404, "no such data collection rule or stream at this endpoint"),
    ],
)
async def test_words(status: int, detail: str) -> None:
    """What is set up wrong at Azure is said in plain words, by a send and by a probe."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(status)
        outcome, report = await destination.send(chunk_of([b"x"])), await destination.probe()

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail.endswith(f": {detail}")
    assert report.detail == outcome.response.detail
    assert not report.ok


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("AADSTS7000222", "the client secret has expired"),
        ("AADSTS7000215", "the client secret is wrong; was its id taken for its value?"),
    ],
)
async def test_entra_codes(code: str, detail: str) -> None:
    """Entra's own error codes say more than OAuth's beside them."""
    async with Siem() as siem, Siem() as tokens:
        said = {"error": "invalid_client", "error_description": f"{code}: The provided client secret …"}
        tokens.then(401, body=json.dumps(said))
        async with opened(KIND.config(siem, token_url=tokens.url)) as destination:
            outcome = await destination.send(chunk_of([b"x"]))

    assert outcome.response.detail == f"no access token: answered 401 Unauthorized: {detail}"


async def test_probe() -> None:
    """A probe posts no rows to the very stream."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.then(KIND.take)
        report = await destination.probe()
    (request,) = siem.requests

    assert report.ok
    assert (request.method, request.body) == ("POST", b"[]")
    assert "/streams/Custom-Konnect" in request.path
