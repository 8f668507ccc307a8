"""`splunk_hec` against a collector that reads what it is sent, on both endpoints."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from relay.destinations.base import Delivered, Misconfigured, Outcome, Partial, Rejected, TooLarge, Transient
from tests.contract.destinations.kit import Kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.splunk import TOKEN, Splunk

LINES = [*sample("cef")[:2], b"\xff not UTF-8  ", *sample("json")[:2]]
CHUNK = chunk_of(LINES)


def kind(path: str = "", **settings: Any) -> Kind:
    return Kind("splunk", "splunk_hec", {"token": TOKEN, **settings}, path=path)


async def outcome_of(splunk: Splunk, **settings: Any) -> Outcome:
    async with splunk, opened(kind(**settings).config(splunk)) as destination:
        return await destination.send(CHUNK)


async def test_raw_lines_arrive_untouched() -> None:
    """The raw endpoint gets every byte of every line, and what holds for all of them in the query."""
    splunk = Splunk(acknowledges=False)

    outcome = await outcome_of(splunk, endpoint="raw", index="audit", sourcetype="kong:audit & more")

    assert isinstance(outcome, Delivered)
    assert splunk.indexed == LINES
    (request,) = splunk.requests
    assert request.headers["Content-Type"] == "text/plain"
    assert request.headers["Content-Encoding"] == "gzip"
    assert urlsplit(request.path).path == "/services/collector/raw"
    assert parse_qs(urlsplit(request.path).query) == {
        "host": ["konghq.com"],
        "source": ["konnect"],
        "sourcetype": ["kong:audit & more"],
        "index": ["audit"],
    }


async def test_raw_behind_a_proxy() -> None:
    """Path and query of the configured address stay as they are written."""
    async with Splunk(acknowledges=False) as splunk:
        config = kind("/hec/services/collector/event?key=a%2Fb", endpoint="raw", host=None, source=None)
        async with opened(config.config(splunk)) as destination:
            assert isinstance(await destination.send(CHUNK), Delivered)
            assert (await destination.probe()).ok

    assert [request.path for request in splunk.requests] == [
        "/hec/services/collector/raw?key=a%2Fb",
        "/hec/services/collector/health",
        "/hec/services/collector/raw?key=a%2Fb",
    ]


@pytest.mark.parametrize("endpoint", ["event", "raw"])
async def test_wrong_index(endpoint: str) -> None:
    """An index the token may not write to is a fault of the configuration on both endpoints."""
    splunk = Splunk(acknowledges=False)

    assert isinstance(await outcome_of(splunk, endpoint=endpoint, index="secret"), Misconfigured)
    assert splunk.indexed == []


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, '{"text":"Invalid data format","code":6,"invalid-event-number":2}', Rejected),
        (400, '{"text":"No data","code":5}', Rejected),
        (400, '{"text":"Incorrect index","code":7,"invalid-event-number":3}', Misconfigured),
        (400, '{"text":"Data channel is missing","code":10}', Misconfigured),
        (400, "<html>", Rejected),
        (200, "", Misconfigured),
        (200, '{"text":"near capacity","code":24}', Delivered),
        (413, "", TooLarge),
        (503, '{"text":"Server is busy","code":9}', Transient),
    ],
)
async def test_raw_answers(status: int, body: str, expected: type[Outcome]) -> None:
    """A number in a raw answer counts what Splunk made of the lines, so it blames none of ours."""
    splunk = Splunk(acknowledges=False).answer(status, body=body)

    assert type(await outcome_of(splunk, endpoint="raw")) is expected


async def test_events_one_by_one() -> None:
    """On the event endpoint, what stands before a bad event is indexed and what stands behind it is not."""
    splunk = Splunk(acknowledges=False)
    chunk = chunk_of([b"first", b"", b"third"])
    async with splunk, opened(kind().config(splunk)) as destination:
        outcome = await destination.send(chunk)
        assert isinstance(outcome, Partial)
        again = await destination.send(chunk.pick([2]))

    assert outcome.delivered == (0,)
    assert [each.index for each in outcome.rejected] == [1]
    assert isinstance(again, Delivered)
    assert splunk.indexed == ["first", "third"]


@pytest.mark.parametrize("endpoint", ["event", "raw"])
async def test_token_that_acknowledges_unasked(endpoint: str) -> None:
    """A token with acknowledgement takes events from who does not ask for it, too: the channel is there."""
    splunk = Splunk()

    assert isinstance(await outcome_of(splunk, endpoint=endpoint), Delivered)
    assert splunk.asked == []
